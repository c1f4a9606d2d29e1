"""Monarch, group-and-shuffle and deformable butterflies: against their definitions, and the ranks of their tiles."""

from __future__ import annotations

import pytest
import torch

from kmatrix._errors import ArgumentError
from kmatrix._permutations import inverse, stride
from kmatrix.structures import (
    Butterfly,
    Chain,
    ChainMatrix,
    Factor,
    GroupShuffle,
    Monarch,
    Structure,
    deformable_butterfly,
)

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Monarch(), 16, 16),
    (Monarch(), 1, 1),
    (Monarch(nblocks=4), 24, 12),
    (Monarch(nblocks=3), 13, 17),
    (Monarch(order=3), 27, 12),
    (Monarch(order=4), 7, 19),
    (GroupShuffle(nblocks=4), 16, 32),
    (GroupShuffle(nblocks=(2, 3), hidden=18, shuffles=("stride", "given", "stride")), 7, 13),
    (deformable_butterfly(12, [(2, 3, 1), (5, 4, 2)]), 10, 12),
]
f64 = torch.float64


def block_diagonal(blocks: torch.Tensor) -> torch.Tensor:
    return torch.block_diag(*blocks)


def test_order_two_is_p_l_pt_r() -> None:
    q, w = 4, 6
    n = q * w
    A = Monarch(nblocks=q).random(n, n, dtype=f64)
    R = block_diagonal(A.weights[0].squeeze(-1))
    L = block_diagonal(A.weights[1].squeeze(0).permute(2, 0, 1))
    P = torch.eye(n, dtype=f64)[torch.as_tensor(stride(q, n))]
    torch.testing.assert_close(A.to_dense(), P @ L @ P.T @ R)


@pytest.mark.parametrize(("m", "n", "nblocks"), [(24, 24, 4), (1024, 1024, 4), (96, 64, 8), (64, 96, 8)])
def test_order_two_counts(m: int, n: int, nblocks: int) -> None:
    hidden = min(m, n)
    assert Monarch(nblocks).num_params(m, n) == hidden * (m + n) // nblocks
    assert Monarch(nblocks).flops(m, n) == 2 * hidden * (m + n) // nblocks


@pytest.mark.parametrize(("size", "nblocks"), [(16, 4), (32, 4), (24, 4), (15, 3), (30, 4), (6, 3)])
def test_tile_ranks_are_the_values_that_connect_two_blocks(size: int, nblocks: int) -> None:
    W = Monarch(nblocks).random(size, size, dtype=f64).to_dense()
    width = -(-size // nblocks)
    wires = torch.arange(nblocks * width)
    for k in range(nblocks):
        for o in range(nblocks):
            tile = W[o::nblocks, k * width : (k + 1) * width]
            shared = int(((wires // width == k) & (wires % nblocks == o)).sum())
            assert int(torch.linalg.matrix_rank(tile)) == min(shared, *tile.shape)


@pytest.mark.parametrize("order", [3, 4])
def test_higher_orders_count_order_times_root(order: int) -> None:
    n = 6**order
    assert Monarch(order=order).num_params(n, n) == order * n * 6


def test_order_of_all_digits_is_the_butterfly() -> None:
    assert Monarch(order=5).layout(32, 32) == Butterfly().layout(32, 32)


def test_default_blocks_give_rank_one_tiles_at_squares() -> None:
    assert Monarch().layout(49, 49).factors == (Factor(7, 7, 7, 1), Factor(1, 7, 7, 7))


def test_nblocks_of_a_higher_order_is_refused() -> None:
    with pytest.raises(ArgumentError, match="order=2"):
        Monarch(nblocks=4, order=3)
    with pytest.raises(ArgumentError, match="order"):
        Monarch(order=1)


@pytest.mark.parametrize("dtype", [f64, torch.complex128])
def test_group_shuffle_is_its_definition(dtype: torch.dtype) -> None:
    structure = GroupShuffle((2, 3), hidden=12, shuffles=("given", "given", "given"))
    m, n = 10, 9
    drawn = structure.random(m, n, dtype=dtype)
    p = [torch.randperm(size) for size in (n, 12, m)]
    A = ChainMatrix.from_weights(structure, (m, n), drawn.weights, permutations=p)
    R, L = (block_diagonal(w.squeeze(-1)) for w in A.weights)
    P_R, P, P_L = (torch.eye(len(index), dtype=dtype)[index] for index in p)
    torch.testing.assert_close(A.to_dense(), P_L @ L @ P @ R @ P_R)


def test_strides_deal_round_robin() -> None:
    A = GroupShuffle((2, 3), hidden=12, shuffles=("stride", "stride", "stride")).random(18, 21, dtype=f64)
    W = A.to_dense()
    ranks = [int(torch.linalg.matrix_rank(W[i::2, j::3])) for i in range(2) for j in range(3)]
    assert ranks == [2] * 6


def test_monarch_is_a_group_shuffle() -> None:
    q, n = 4, 24
    monarch = Monarch(q).random(n, n, dtype=f64)
    R, L = monarch.weights
    structure = GroupShuffle(q, shuffles=("stride", "given", "identity"))
    to_blocks = torch.as_tensor(inverse(stride(q, n)))
    permutations = [to_blocks, torch.as_tensor(stride(q, n))]
    weights = [R, L.permute(3, 1, 2, 0)]
    A = ChainMatrix.from_weights(structure, (n, n), weights, permutations)
    torch.testing.assert_close(A.to_dense(), monarch.to_dense())


def test_hidden_is_the_smaller_side_in_whole_blocks() -> None:
    layout = GroupShuffle((4, 6)).layout(100, 30)
    assert layout.factors == (Factor(6, 6, 5, 1), Factor(4, 25, 9, 1))


def test_hidden_must_fit_the_blocks() -> None:
    with pytest.raises(ArgumentError, match="multiple of 12"):
        GroupShuffle((4, 6), hidden=30)


def test_unknown_shuffles_are_refused() -> None:
    with pytest.raises(ArgumentError, match="shuffles"):
        GroupShuffle(2, shuffles=("identity", "random", "identity"))  # type: ignore[arg-type]


def test_deformable_butterfly_matches_its_supports() -> None:
    s = deformable_butterfly(12, [(2, 3, 1), (5, 4, 2)])
    assert s == Chain((Factor(4, 2, 3, 1), Factor(1, 5, 4, 2)))


def test_deformable_butterfly_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ArgumentError, match="divides the size"):
        deformable_butterfly(12, [(2, 5, 1)])
