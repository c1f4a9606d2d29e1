"""Sparse and low-rank matrices: the values come back exactly, in the stated width and expansion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmatrix import ArgumentError
from kmatrix.constructions import low_rank, sparse

SHAPES = [(1, 1), (1, 2), (5, 1), (3, 3), (4, 4), (5, 8), (7, 16), (16, 16), (33, 20)]


def random_sparse(shape: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.zeros(shape)
    matrix.flat[rng.choice(matrix.size, count, replace=False)] = rng.standard_normal(count)
    return matrix


@pytest.mark.parametrize("fill", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_in_the_stated_class(shape: tuple[int, int], fill: float) -> None:
    matrix = random_sparse(shape, round(fill * shape[0] * shape[1]))
    size = max(2, 1 << (max(shape) - 1).bit_length())
    groups = max(1, math.ceil(np.count_nonzero(matrix) / size))
    result = sparse(matrix)
    np.testing.assert_array_equal(result.to_dense().detach().numpy(), matrix)
    assert result.structure.width == 4 * max(1, math.ceil(groups / 2) - 1) <= 4 * groups
    assert result.structure.expansion == {1: 1, 2: 2}.get(groups, 4)
    levels = (result.structure.expansion * size).bit_length() - 1
    assert len(result.weights) == 2 * result.structure.width * levels


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_exact_for_any_support(m: int, n: int, data: st.DataObject) -> None:
    places = st.tuples(st.integers(0, m - 1), st.integers(0, n - 1))
    matrix = np.zeros((m, n))
    for k, place in enumerate(data.draw(st.sets(places, max_size=2 * max(m, n)))):
        matrix[place] = k + 1
    np.testing.assert_array_equal(sparse(matrix).to_dense().detach().numpy(), matrix)


def test_worst_supports() -> None:
    n = 16
    column, row, antidiagonal = np.zeros((3, n, n))
    column[:, 5], row[11], antidiagonal[range(n), range(n - 1, -1, -1)] = 1.0, 2.0, 3.0
    for matrix in (column, row, antidiagonal, np.diag(np.arange(1.0, n), k=1)):
        result = sparse(matrix)
        assert (result.structure.width, result.structure.expansion) == (4, 1)
        np.testing.assert_array_equal(result.to_dense().detach().numpy(), matrix)


def test_formats_agree() -> None:
    matrix = random_sparse((9, 12), 20)
    expected = torch.as_tensor(matrix)
    repeated = scipy.sparse.coo_array((np.array([1.0, 2.0, 5.0]), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert torch.equal(sparse(scipy.sparse.csr_array(matrix)).to_dense(), expected)
    assert torch.equal(sparse(expected.to_sparse()).to_dense(), expected)
    assert sparse(repeated).to_dense().tolist() == [[0.0, 3.0], [5.0, 0.0]]


def test_number_types_follow_the_matrix() -> None:
    matrix = torch.tensor([[0, 1j], [2, 0]], dtype=torch.complex64)
    assert torch.equal(sparse(matrix).to_dense(), matrix)
    assert sparse([[1, 0], [0, 2]]).dtype == torch.get_default_dtype()
    assert sparse([[0.5]]).dtype == torch.get_default_dtype()
    assert sparse(np.eye(2)).dtype == torch.float64
    assert sparse(torch.eye(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "matrix",
    [
        3.0,
        np.ones(3),
        np.ones((2, 0)),
        torch.ones(3).to_sparse(),
        scipy.sparse.coo_array((2, 0)),
        np.array([[1.0, np.nan]]),
        [[np.inf]],
    ],
)
def test_sparse_refuses(matrix: object) -> None:
    with pytest.raises(ArgumentError, match="sparse"):
        sparse(matrix)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 6, 7, 10])
@pytest.mark.parametrize("shape", [(1, 2), (7, 5), (8, 8), (3, 17)])
def test_low_rank_in_the_stated_class(shape: tuple[int, int], rank: int) -> None:
    rng = np.random.default_rng(rank)
    u, v = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    result = low_rank(u, v)
    np.testing.assert_allclose(result.to_dense().detach().numpy(), u @ v, rtol=1e-12, atol=1e-12)
    assert result.structure.width == max(1, math.ceil(rank / 2) - 1) <= 8 * rank
    assert result.structure.expansion <= {1: 1, 2: 2}.get(rank, 4)


def test_low_rank_complex() -> None:
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((6, 3)) + 1j * rng.standard_normal((6, 3)), rng.standard_normal((3, 6))
    np.testing.assert_allclose(low_rank(u, v).to_dense().detach().numpy(), u @ v, rtol=1e-12, atol=1e-12)


def test_low_rank_refuses() -> None:
    with pytest.raises(ArgumentError, match=r"u\.shape"):
        low_rank(np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(ArgumentError, match="not finite"):
        low_rank([[np.nan]], [[1.0]])
