"""Sparse matrices: against dense ones, their random supports, and the best approximation."""

from __future__ import annotations

import pytest
import torch

from kmatrix._errors import ArgumentError
from kmatrix.structures import Sparse, SparseMatrix, Structure

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Sparse(nnz=20), 13, 7),
    (Sparse(nnz=1), 5, 9),
    (Sparse(nnz=12), 3, 4),
    (Sparse(nnz=1), 1, 1),
]
DTYPES = (torch.float64, torch.complex128)


@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_are_where_the_buffers_say(dtype: torch.dtype) -> None:
    A = Sparse(20).random(13, 7, dtype=dtype)
    expected = torch.zeros(13, 7, dtype=dtype)
    expected[A.rows, A.cols] = A.values.detach()
    torch.testing.assert_close(A.to_dense(), expected, rtol=0, atol=0)
    x = torch.randn(2, 3, 7, dtype=dtype)
    torch.testing.assert_close(A(x), x @ expected.mT)
    assert (A.num_params, A.flops) == (20, 40)


def test_random_supports_are_without_replacement_and_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = torch.zeros(4, 5)
    draws = 600
    for _ in range(draws):
        A = Sparse(7).random(4, 5, generator=generator)
        positions = A.rows * 5 + A.cols
        assert bool((positions.diff() > 0).all())
        hits[A.rows, A.cols] += 1
    # Each entry is hit with probability 7/20: binomial, five standard deviations.
    p = 7 / 20
    assert bool(((hits / draws - p).abs() < 5 * (p * (1 - p) / draws) ** 0.5).all())


def test_same_seed_same_matrix() -> None:
    A, B = (Sparse(9).random(6, 6, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(A.to_dense(), B.to_dense(), rtol=0, atol=0)


def test_starts_at_the_scale_of_a_dense_row() -> None:
    A = Sparse(40_000).random(400, 800, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(A.values.detach().std()) == pytest.approx((50 / 100) ** 0.5 / 100**0.5, rel=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_dense_keeps_the_largest_entries(dtype: torch.dtype) -> None:
    W = torch.randn(9, 14, dtype=dtype)
    A = SparseMatrix.from_dense(W, nnz=30)
    kept = W.abs() >= W.abs().flatten().sort(descending=True).values[29]
    torch.testing.assert_close(A.to_dense(), torch.where(kept, W, 0), rtol=0, atol=0)


def test_more_numbers_than_entries_is_refused() -> None:
    with pytest.raises(ArgumentError, match="has 6 entries"):
        Sparse(7).random(2, 3)
    with pytest.raises(ArgumentError, match="not a matrix"):
        SparseMatrix.from_dense(torch.zeros(3), nnz=1)
