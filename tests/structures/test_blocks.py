"""Block families: the matrices they contain, their counts, and how they start."""

from __future__ import annotations

import pytest
import torch

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import (
    BLAST,
    BlockDiagonal,
    BlockLowRank,
    BlockTensorTrain,
    ChainMatrix,
    Dense,
    Diagonal,
    LowRank,
    Structure,
)
from kmatrix.structures._grids import balanced_factors

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Dense(), 7, 13),
    (Dense(), 1, 1),
    (LowRank(rank=3), 16, 12),
    (LowRank(rank=5), 3, 4),
    (BlockDiagonal(nblocks=4), 16, 24),
    (BlockDiagonal(nblocks=3), 13, 7),
    (Diagonal(), 11, 11),
    (Diagonal(), 5, 9),
    (Diagonal(), 9, 5),
    (BlockTensorTrain(nblocks=(4, 2), rank=2), 24, 16),
    (BlockTensorTrain(), 13, 30),
    (BlockLowRank(nblocks=(2, 3), rank=2), 14, 15),
    (BlockLowRank(nblocks=3), 17, 7),
    (BLAST(nblocks=4, rank=6), 16, 16),
    (BLAST(nblocks=(2, 3), rank=5), 13, 17),
]
DTYPES = (torch.float64, torch.complex128)


def test_low_rank_is_the_product_of_its_weights() -> None:
    u, v = torch.randn(5, 2), torch.randn(2, 7)
    A = ChainMatrix.from_weights(LowRank(2), (5, 7), [v.reshape(1, 2, 7, 1), u.reshape(1, 5, 2, 1)])
    torch.testing.assert_close(A.to_dense(), u @ v)


def test_block_diagonal_is_zero_off_its_blocks() -> None:
    A = BlockDiagonal(3).random(7, 10, dtype=torch.float64)
    blocks = [w[:, :, 0] for w in A.get_parameter("factors.0").detach()]
    torch.testing.assert_close(A.to_dense(), torch.block_diag(*blocks)[:7, :10])


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3), (1, 5)])
def test_diagonal_fills_the_leading_diagonal(shape: tuple[int, int]) -> None:
    A = Diagonal().random(*shape, dtype=torch.float64)
    expected = torch.zeros(shape, dtype=torch.float64)
    k = min(shape)
    expected[range(k), range(k)] = A.get_parameter("factors.0").detach().reshape(k)
    torch.testing.assert_close(A.to_dense(), expected, rtol=0, atol=0)
    assert (A.num_params, A.flops) == (k, 2 * k)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_diagonals_multiply_where_nobody_watches_as_where_autograd_does(shape: tuple[int, int]) -> None:
    A = Diagonal().random(*shape, dtype=torch.float64)
    x, y = torch.randn(3, shape[1], dtype=torch.float64), torch.randn(3, shape[0], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(A(x), x @ A.to_dense().T)
        assert torch.equal(A.T(y), y @ A.to_dense())


@pytest.mark.parametrize("dtype", DTYPES)
def test_block_tensor_train_has_strided_tiles_of_its_rank(dtype: torch.dtype) -> None:
    p, q, rank, m, n = 3, 4, 2, 15, 28
    W = BlockTensorTrain((p, q), rank).random(m, n, dtype=dtype)
    _fill(W)
    tiles = [W.to_dense()[o::p, k * n // q : (k + 1) * n // q] for o in range(p) for k in range(q)]
    assert all(int(torch.linalg.matrix_rank(tile)) == rank for tile in tiles)
    assert W.num_params == rank * (p * n + q * m)


def test_block_low_rank_is_block_tensor_train_with_its_rows_in_order() -> None:
    p, q, rank, m, n = 3, 4, 2, 15, 28
    train = BlockTensorTrain((p, q), rank).random(m, n, dtype=torch.float64)
    _fill(train)
    blocks = ChainMatrix.from_weights(BlockLowRank((p, q), rank), (m, n), train.weights)
    order = torch.arange(m).reshape(m // p, p).T.reshape(m)
    torch.testing.assert_close(blocks.to_dense(), train.to_dense()[order], rtol=0, atol=0)


def test_padded_tiles_keep_their_rank() -> None:
    W = BlockLowRank((2, 3), 1).random(9, 10, dtype=torch.float64)
    dense = W.to_dense()
    tiles = [dense[i : i + 5, j : j + 4] for i in (0, 5) for j in (0, 4, 8)]
    assert [int(torch.linalg.matrix_rank(tile)) for tile in tiles] == [1] * 6
    assert W.num_params == 2 * 12 + 3 * 10


def test_blast_tiles_share_their_factors() -> None:
    p, q, r = 2, 3, 4
    A = BLAST((p, q), r).random(10, 12, dtype=torch.float64)
    v, s, u = (w.squeeze() for w in A.weights)
    tiles = [torch.cat([u[i] * s[i, j] @ v[j] for j in range(q)], 1) for i in range(p)]
    torch.testing.assert_close(A.to_dense(), torch.cat(tiles))


def test_blast_contains_low_rank() -> None:
    left, right = torch.randn(9, 4, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    u, v = left.reshape(3, 3, 4, 1), right.reshape(4, 3, 2).permute(1, 0, 2).unsqueeze(-1)
    s = torch.ones(1, 3, 3, 4, dtype=torch.float64)
    A = ChainMatrix.from_weights(BLAST(3, 4), (9, 6), [v, s, u])
    torch.testing.assert_close(A.to_dense(), left @ right)


@pytest.mark.parametrize("structure", [BlockTensorTrain((4, 8), 3), BlockLowRank((4, 8), 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_start_at_rank_one_with_the_scale_of_rank_one(structure: Structure, dtype: torch.dtype) -> None:
    m, n = 256, 512
    A = structure.random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(0))
    first, second = A.get_parameter("factors.0"), A.get_parameter("factors.1").unflatten(2, (8, 3))
    assert torch.count_nonzero(second[:, :, :, 1:]) == 0
    # Each core: normal of std min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in); 12 of 64 columns, 64 of 8.
    pairs = 2 if dtype.is_complex else 1
    stds = [float((w.detach().square().mean() * pairs).sqrt()) for w in (first, second[:, :, :, :1])]
    assert stds == pytest.approx([(12 / 64) ** 0.5 / 8, 8**-0.5], rel=0.05)
    # The gradient reaches the zero part, so higher ranks switch on.
    A(torch.randn(4, n, dtype=dtype)).abs().square().sum().backward()
    grad = A.get_parameter("factors.1").grad
    assert grad is not None
    assert bool(grad.unflatten(2, (8, 3))[:, :, :, 1:].abs().amax() > 0)


@pytest.mark.parametrize(
    ("n", "parts", "expected"), [(1, 2, (1, 1)), (768, 2, (24, 32)), (1000, 3, (10,) * 3)]
)
def test_balanced_factors(n: int, parts: int, expected: tuple[int, ...]) -> None:
    assert balanced_factors(n, parts) == expected


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_balanced_factors_reach_any_size_with_parts_near_the_root(parts: int) -> None:
    for n in range(1, 400):
        factors = balanced_factors(n, parts)
        size = int(torch.tensor(factors).prod())
        assert n <= size < 2 * n + 1 and len(factors) == parts
        assert max(factors) <= 2 * n ** (1 / parts)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRank(0),
        lambda: BlockDiagonal(-1),
        lambda: BlockTensorTrain((0, 2)),
        lambda: BlockTensorTrain(2, rank=0),
        lambda: BlockLowRank((2, 3, 4)),  # type: ignore[arg-type]
        lambda: BLAST(4, rank=0),
        lambda: BLAST((4, 0), rank=2),
    ],
)
def test_bad_numbers_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ArgumentError, match="pass"):
        make()


def test_a_rank_that_is_no_whole_number_is_refused() -> None:
    with pytest.raises(DtypeError, match=r"rank=2\.5"):
        LowRank(2.5)  # type: ignore[arg-type]


def _fill(A: ChainMatrix) -> None:
    """Random numbers everywhere: a generic member instead of the start of training."""
    with torch.no_grad():
        for stored in A.factors:
            stored.normal_()
