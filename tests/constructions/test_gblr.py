"""The special cases of sums of boxes: the same matrices, at the cost of the theorem."""

from __future__ import annotations

import pytest
import torch

import kmatrix as km
from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.constructions import gblr_block_low_rank, gblr_block_sparse, gblr_low_rank, gblr_of
from kmatrix.structures import GBLRMatrix, Structure, StructuredMatrix


def same(got: StructuredMatrix, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.to_dense(), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_low_rank(dtype: torch.dtype) -> None:
    u, v = torch.randn(9, 4, dtype=dtype), torch.randn(4, 7, dtype=dtype)
    A = gblr_low_rank(u, v)
    same(A, u @ v)
    assert (A.num_params, len(A.boxes)) == (4 * (9 + 7), 4)


def test_block_low_rank() -> None:
    left, right = torch.randn(2, 3, 4, 2, dtype=torch.float64), torch.randn(2, 3, 2, 5, dtype=torch.float64)
    A = gblr_block_low_rank(left, right)
    tiles = left @ right
    same(A, torch.cat([torch.cat(list(row), 1) for row in tiles]))
    assert (A.num_params, len(A.boxes)) == (2 * 3 * 2 * (4 + 5), 2 * 3 * 2)


@pytest.mark.parametrize(("height", "width"), [(2, 5), (5, 2), (3, 3), (1, 4)])
def test_block_sparse(height: int, width: int) -> None:
    blocks = torch.randn(3, height, width, dtype=torch.float64)
    rows, cols = [0, 6, 2], [1, 7, 0]  # the second reaches around both ends, the third meets the first
    A = gblr_block_sparse(blocks, rows, cols, (8, 9))
    want = torch.zeros(8, 9, dtype=torch.float64)
    for block, row, col in zip(blocks, rows, cols, strict=True):
        for i in range(height):
            for j in range(width):
                want[(row + i) % 8, (col + j) % 9] += block[i, j]
    same(A, want)
    assert A.num_params == 3 * (height * width + min(height, width))


CHAINS: list[tuple[Structure, int, int]] = [
    (km.LowRank(3), 7, 9),
    (km.Monarch(4), 16, 16),
    (km.Monarch(3), 13, 17),
    (km.Monarch(4), 20, 8),
    (km.BlockLowRank((2, 3), 2), 14, 15),
    (km.BlockLowRank(3), 17, 7),
    (km.BlockTensorTrain((4, 2), 2), 8, 16),
    (km.BlockDiagonal(3), 13, 7),
    (km.Diagonal(), 6, 6),
    (km.Dense(), 5, 4),
    (km.Kronecker((2, 3)), 8, 9),
]


@pytest.mark.parametrize(("structure", "m", "n"), CHAINS, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["itself", "transposed"])
def test_chains_of_two_factors(structure: Structure, m: int, n: int, transposed: bool) -> None:
    chain = structure.random(m, n, dtype=torch.float64)
    matrix = chain.T if transposed else chain
    same(gblr_of(matrix), matrix.to_dense())


@pytest.mark.parametrize(
    ("structure", "m", "n", "permuted"),
    [
        (km.LowRank(3), 10, 12, False),
        (km.BlockLowRank((2, 3), 2), 14, 15, False),
        (km.Monarch(4), 16, 16, True),
        (km.Monarch(4), 8, 20, True),
        (km.BlockTensorTrain((4, 2), 2), 8, 16, True),
    ],
    ids=str,
)
def test_the_cost_is_that_of_the_chain(structure: Structure, m: int, n: int, permuted: bool) -> None:
    matrix = structure.random(m, n)
    made = gblr_of(matrix)
    assert made.num_params == matrix.num_params
    assert isinstance(made, GBLRMatrix) != permuted  # only the rows of Monarch and its kin must be reordered


def test_a_monarch_matrix_has_the_boxes_of_the_theorem() -> None:
    n = 64
    boxes = gblr_of(km.Monarch(8).random(n, n)).members[1].boxes
    assert len(boxes) == n and set(boxes.row_width.tolist() + boxes.col_width.tolist()) == {8}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"u\.shape"):
        gblr_low_rank(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ArgumentError, match=r"left\.shape"):
        gblr_block_low_rank(torch.ones(2, 3, 4, 1), torch.ones(3, 2, 1, 5))
    with pytest.raises(ArgumentError, match=r"col_start\.shape"):
        gblr_block_sparse(torch.ones(2, 2, 2), [0, 1], [0], (4, 4))
    with pytest.raises(ArgumentError, match="factors"):
        gblr_of(km.Butterfly().random(8, 8))
    with pytest.raises(ArgumentError, match="chain"):
        gblr_of(km.Toeplitz().random(4, 4))
    with pytest.raises(DtypeError, match=r"v\.dtype"):
        gblr_low_rank(torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("height", [2, 5], ids=["strips of rows", "strips of columns"])
@pytest.mark.parametrize("side", ["row_start", "col_start"])
@pytest.mark.parametrize(
    ("start", "error"),
    [
        ([-1], ArgumentError),
        ([6], ArgumentError),
        ([100], ArgumentError),
        ([0.9], DtypeError),
        ([True], DtypeError),
        ([0, 1], ArgumentError),
        (0, ArgumentError),
    ],
    ids=str,
)
def test_blocks_that_start_nowhere_are_refused(
    height: int, side: str, start: object, error: type[Exception]
) -> None:
    where = {"row_start": [0], "col_start": [0]} | {side: start}
    with pytest.raises(error, match=f"^gblr_block_sparse: {side}"):
        gblr_block_sparse(torch.ones(1, height, 3), shape=(6, 6), **where)


@pytest.mark.parametrize(("height", "width"), [(5, 6), (5, 2), (3, 7), (4, 5)])
def test_blocks_larger_than_the_matrix_are_refused(height: int, width: int) -> None:
    with pytest.raises(ArgumentError, match=r"^gblr_block_sparse: blocks\.shape"):
        gblr_block_sparse(torch.ones(1, height, width), [1], [0], (3, 4))
