"""Step matrices are single butterflies; whatever is not a step matrix is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmatrix import ArgumentError, Kaleidoscope
from kmatrix.constructions import horizontal_step, vertical_step


@st.composite
def steps(draw: st.DrawFn) -> np.ndarray:
    """A matrix by Definition I.1: every column moves down by at most the distance moved right, cyclically."""
    n = 2 ** draw(st.integers(1, 5))
    columns = sorted(draw(st.sets(st.integers(0, n - 1), min_size=1)))
    row = draw(st.integers(0, n - 1))
    rows = [row]
    for before, after in pairwise(columns):
        row += draw(st.integers(0, after - before))
        rows.append(row)
    matrix = np.zeros((n, n))
    matrix[np.array(rows) % n, columns] = np.arange(1.0, len(columns) + 1)
    return matrix


@given(steps())
def test_step_matrices_are_exact(matrix: np.ndarray) -> None:
    horizontal, vertical = horizontal_step(matrix), vertical_step(matrix.T)
    np.testing.assert_array_equal(horizontal.to_dense().detach().numpy(), matrix)
    np.testing.assert_array_equal(vertical.to_dense().detach().numpy(), matrix.T)
    assert horizontal.structure == vertical.structure == Kaleidoscope(width=1, expansion=1)


def test_one_of_the_halves_is_the_identity() -> None:
    matrix = 2.0 * np.eye(8)
    first, last = horizontal_step(matrix).weights[:3], vertical_step(matrix).weights[3:]
    for w in first + last:
        assert torch.equal(w, torch.eye(2, dtype=w.dtype)[None, :, :, None].expand_as(w))


def test_sizes_that_are_padded() -> None:
    matrix = [[1.0, 2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0, 0.0]]
    assert horizontal_step(matrix).to_dense().tolist() == matrix
    assert horizontal_step([[7.0]]).to_dense().tolist() == [[7.0]]


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ([[1.0, 0.0], [1.0, 0.0]], "a column has two"),
        (np.eye(4)[[0, 2, 1, 3]], "two nonzeros meet"),
        ([[np.nan]], "not finite"),
    ],
)
def test_horizontal_refuses(matrix: object, reason: str) -> None:
    with pytest.raises(ArgumentError, match=reason):
        horizontal_step(matrix)


def test_vertical_refuses() -> None:
    with pytest.raises(ArgumentError, match="a row has two"):
        vertical_step([[1.0, 1.0]])
