"""Shuffled Toeplitz matrices: distances are projections, orders are restored, and everything else is declined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix._permutations import is_permutation
from kmatrix.fitting.orders.toeplitz import Kind, find_toeplitz_order, toeplitz_distance

DTYPES = (torch.float64, torch.complex128)


def numbers(count: int, dtype: torch.dtype) -> np.ndarray:
    return torch.randn(count, dtype=dtype).numpy()


def example(kind: Kind, m: int, n: int, dtype: torch.dtype) -> Tensor:
    if kind == "circulant":
        return torch.from_numpy(scipy.linalg.circulant(numbers(m, dtype)))
    build = scipy.linalg.toeplitz if kind == "toeplitz" else scipy.linalg.hankel
    return torch.from_numpy(np.ascontiguousarray(build(numbers(m, dtype), numbers(n, dtype))))


CASES: list[tuple[Kind, int, int]] = [
    ("circulant", 12, 12),
    ("circulant", 31, 31),
    ("toeplitz", 20, 20),
    ("toeplitz", 9, 23),
    ("toeplitz", 23, 9),
    ("hankel", 16, 13),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "m", "n"), CASES)
def test_distance_is_that_of_the_projection(kind: Kind, m: int, n: int, dtype: torch.dtype) -> None:
    member, other = example(kind, m, n, dtype), torch.randn(m, n, dtype=dtype)
    assert toeplitz_distance(member, kind) < 1e-15
    # Members do not see the distance, and none is nearer than the projection.
    gap = toeplitz_distance(other, kind) * float(torch.linalg.vector_norm(other))
    shifted = toeplitz_distance(other + member, kind) * float(torch.linalg.vector_norm(other + member))
    assert shifted == pytest.approx(gap, rel=1e-12)
    assert gap < float(torch.linalg.vector_norm(other - 1e-3 * member)) + 1e-12
    i, j = np.indices((m, n))
    line = {"circulant": (i - j) % m, "toeplitz": i - j, "hankel": i + j}[kind]
    spread = sum(
        float((other[line == k] - other[line == k].mean()).abs().square().sum()) for k in np.unique(line)
    )
    assert gap == pytest.approx(math.sqrt(spread), rel=1e-12)


def test_distance_of_zero_is_zero() -> None:
    assert toeplitz_distance(torch.zeros(3, 4, dtype=torch.float64), "toeplitz") == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "m", "n"), CASES)
@pytest.mark.parametrize("side", ["natural", "rows", "columns"])
def test_restores_the_order(kind: Kind, m: int, n: int, side: str, dtype: torch.dtype) -> None:
    matrix = example(kind, m, n, dtype)
    if side == "rows":
        matrix = matrix[torch.randperm(m)]
    if side == "columns":
        matrix = matrix[:, torch.randperm(n)]
    order = find_toeplitz_order(matrix)
    assert order.found, order.reason
    assert is_permutation(order.row_perm)
    assert is_permutation(order.col_perm)
    assert np.array_equal(order.row_perm, np.arange(m)) or side == "rows"
    assert np.array_equal(order.col_perm, np.arange(n)) or side == "columns"
    # Shuffled Hankel rows are Toeplitz rows in reverse.
    assert order.kind == ("toeplitz" if kind == "hankel" and side != "natural" else kind)
    restored = matrix[torch.from_numpy(order.row_perm)][:, torch.from_numpy(order.col_perm)]
    assert order.error == toeplitz_distance(restored, order.kind) < 1e-14


@pytest.mark.parametrize(("kind", "m", "n"), CASES)
def test_noise_within_the_tolerance(kind: Kind, m: int, n: int) -> None:
    clean = example(kind, m, n, torch.float64)
    noise = torch.randn(m, n, dtype=torch.float64) * float(torch.linalg.vector_norm(clean)) / math.sqrt(m * n)
    matrix = (clean + 1e-4 * noise)[torch.randperm(m)]
    order = find_toeplitz_order(matrix, tol=1e-3)
    assert order.found
    assert order.error < 1e-3
    assert not find_toeplitz_order(matrix, tol=1e-6).found


def test_smooth_rows_that_differ_little() -> None:
    x = torch.arange(200, dtype=torch.float64)
    kernel = torch.exp(-(((x[:, None] - x) / 30) ** 2))
    order = find_toeplitz_order(kernel[torch.randperm(200)])
    assert order.found
    assert order.error < 1e-14


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (6, 6), (4, 7)])
def test_what_is_already_constant_stays_as_it_is(shape: tuple[int, int]) -> None:
    for matrix in (torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)):
        order = find_toeplitz_order(matrix)
        assert order.found
        assert order.error == 0.0
        assert np.array_equal(order.row_perm, np.arange(shape[0]))


@pytest.mark.parametrize(
    "matrix",
    [
        torch.randn(30, 30, dtype=torch.float64),
        torch.randn(12, 40, dtype=torch.complex128),
        torch.from_numpy(scipy.linalg.hilbert(9)) + torch.diag(torch.arange(9.0, dtype=torch.float64)),
        torch.from_numpy(scipy.linalg.toeplitz(np.arange(8.0)))[[0, 1, 2, 3, 0, 1, 2, 3]],
    ],
    ids=["gaussian", "wide", "hankel with a diagonal", "repeated rows"],
)
def test_declines_with_a_reason(matrix: Tensor) -> None:
    order = find_toeplitz_order(matrix)
    assert not order.found
    assert "relative distance" in order.reason
    assert order.error > 1e-3
    assert np.array_equal(order.row_perm, np.arange(matrix.shape[0]))


@pytest.mark.parametrize(
    ("matrix", "error", "match"),
    [
        (torch.eye(4), DtypeError, "double"),
        (torch.zeros(4, dtype=torch.float64), ArgumentError, "not a matrix"),
        (torch.full((2, 2), torch.inf, dtype=torch.float64), ArgumentError, "infinity"),
    ],
)
def test_refuses_what_cannot_be_searched(matrix: Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        find_toeplitz_order(matrix)


def test_circulant_distance_needs_a_square_matrix() -> None:
    with pytest.raises(ArgumentError, match="not square"):
        toeplitz_distance(torch.zeros(2, 3, dtype=torch.float64), "circulant")
