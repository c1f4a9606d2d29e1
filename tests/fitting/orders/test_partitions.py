"""Trees, orders and plans: listings keep classes together, and the cheapest chain is the cheapest."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from kmatrix._permutations import Index, is_permutation
from kmatrix.fitting.orders.partitions import (
    Level,
    contiguous_order,
    known_trees,
    plan,
    strided_order,
    transpose_levels,
    tree_of_columns,
)

RNG = np.random.default_rng(0)


def nested(size: int, radices: list[int]) -> list[Index]:
    """Random nested labellings from coarse to fine, with shuffled class numbers."""
    shuffled = RNG.permutation(size)
    labels = []
    for k in range(1, len(radices) + 1):
        classes = math.prod(radices[:k])
        labels.append(RNG.permutation(classes)[shuffled // (size // classes)].astype(np.int64))
    return labels


@pytest.mark.parametrize(
    ("size", "radices"), [(12, [2, 3]), (30, [5, 2]), (64, [4, 2, 4]), (7, [7]), (1, [])]
)
def test_orders_keep_classes_together(size: int, radices: list[int]) -> None:
    labels = nested(size, radices)
    strided, runs = strided_order(labels, size), contiguous_order(labels, size)
    assert is_permutation(strided)
    assert is_permutation(runs)
    for fine in labels:
        classes = int(fine.max()) + 1
        by_residue = fine[strided].reshape(-1, classes)
        assert (by_residue == by_residue[0]).all()
        by_run = fine[runs].reshape(classes, -1)
        assert (by_run == by_run[:, :1]).all()


def test_orders_of_sorted_classes_are_natural() -> None:
    items = np.arange(24)
    assert np.array_equal(strided_order([items % 2, items % 6], 24), items)
    assert np.array_equal(contiguous_order([items // 12, items // 4], 24), items)


def splits_of(levels: list[tuple[int, int, int]], m: int, n: int) -> list[Level]:
    rows, cols = np.arange(m), np.arange(n)
    return [Level(rows % b, cols // c, rank) for b, c, rank in levels]


def price(levels: list[tuple[int, int, int]], m: int, n: int) -> int:
    """Numbers of the chain that keeps all of these levels, factor by factor."""
    total = 0
    for (b0, c0, r0), (b1, c1, r1) in itertools.pairwise([(1, 1, 1), *levels, (m, n, 1)]):
        total += (n // c1) * (r1 * b1 // b0) * (c1 // c0 * r0) * b0
    return total


@pytest.mark.parametrize(
    ("levels", "m", "n"),
    [
        ([(2, 2, 1), (4, 4, 1), (8, 8, 1)], 16, 16),
        ([(2, 2, 1), (2, 4, 2), (4, 8, 2), (8, 16, 2), (16, 32, 2)], 64, 64),
        ([(3, 2, 4), (6, 10, 1)], 30, 40),
        ([(2, 2, 2), (4, 4, 4), (8, 8, 2)], 16, 16),
        ([], 6, 4),
    ],
)
def test_plan_is_the_cheapest_subset_of_levels(levels: list[tuple[int, int, int]], m: int, n: int) -> None:
    subsets = (list(s) for k in range(len(levels) + 1) for s in itertools.combinations(levels, k))
    found = plan(splits_of(levels, m, n), (m, n))
    assert found.num_params == min(price(s, m, n) for s in subsets)
    heights = list(itertools.accumulate(found.pairs, lambda x, y: (x[0] * y[0], x[1] * y[1])))
    assert heights[-1] == (m, n)
    assert [(*h, r) for h, r in zip(heights, found.ranks, strict=False)] == [
        level for level in levels if level[:2] in heights[:-1]
    ]
    assert np.array_equal(found.row_perm, np.arange(m))
    assert np.array_equal(found.col_perm, np.arange(n))


def test_plan_prefers_fewer_factors_among_equals() -> None:
    assert plan(splits_of([(2, 2, 1), (4, 4, 1), (8, 8, 1)], 16, 16), (16, 16)).pairs == ((4, 4), (4, 4))


def test_transposed_splits_swap_sides_and_order() -> None:
    splits = splits_of([(2, 3, 1), (4, 6, 2)], 8, 12)
    swapped = transpose_levels(splits)
    assert [(s.classes, s.width, s.rank) for s in swapped] == [(2, 2, 2), (4, 4, 1)]
    assert all(np.array_equal(s.rows, t.cols) for s, t in zip(swapped, reversed(splits), strict=True))


@pytest.mark.parametrize("n", [2, 12, 64, 90, 61])
def test_known_trees_hold_the_blocks_of_the_fast_transforms(n: int) -> None:
    interleaved, folded, halves = known_trees(n)
    for tree in (interleaved, folded, halves):
        assert is_permutation(tree.order)
        assert math.prod(tree.radices) == n
    width = n
    for radix in halves.radices:
        width //= radix
        residues = interleaved.order.reshape(-1, width) % (n // width)
        assert (residues == residues[:, :1]).all()
        # 2 j + 1 on a block is +-x modulo 4 n / width, the arguments that a cosine cannot tell apart.
        odd, turn = 2 * folded.order.reshape(-1, width) + 1, 4 * n // width
        assert (
            np.minimum(odd % turn, -odd % turn) == np.minimum(odd[:, :1] % turn, -odd[:, :1] % turn)
        ).all()
        assert (np.diff(halves.order.reshape(-1, width)) == 1).all()


def test_sizes_with_a_large_prime_factor_have_no_known_tree() -> None:
    assert known_trees(2 * 67) == []
    assert len(known_trees(2 * 67, largest_prime=67)) == 3
    assert known_trees(1) == []


def test_tree_of_columns_has_the_blocks_of_the_levels() -> None:
    labels = nested(24, [2, 6])
    splits = [Level(np.arange(12) % 2, labels[1], 1), Level(np.arange(12) % 6, labels[0], 1)]
    tree = tree_of_columns(splits, 24, "here")
    assert tree.radices == (2, 6, 2)
    for fine, classes in ((labels[0], 2), (labels[1], 12)):
        blocks = fine[tree.order].reshape(classes, -1)
        assert (blocks == blocks[:, :1]).all()
