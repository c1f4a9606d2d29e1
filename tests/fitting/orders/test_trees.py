"""Trees: row classes from a tree of columns, and a tree of columns from nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
from torch import Tensor

from kmatrix._permutations import is_permutation
from kmatrix.fitting.orders.partitions import Level, known_trees
from kmatrix.fitting.orders.trees import cluster_tolerances, column_tree, row_levels

RNG = np.random.default_rng(3)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tensor(a: np.ndarray) -> Tensor:
    return torch.from_numpy(
        np.ascontiguousarray(a, dtype=np.complex128 if np.iscomplexobj(a) else np.float64)
    )


def largest_rank(matrix: Tensor, split: Level) -> int:
    """The largest numerical rank of a tile."""
    ranks = [
        int(torch.linalg.matrix_rank(matrix[split.rows == o][:, split.cols == block], rtol=1e-9))
        for o in range(split.classes)
        for block in range(int(split.cols.max()) + 1)
    ]
    return max(ranks)


@pytest.mark.parametrize(
    ("matrix", "tree", "levels"),
    [
        (np.fft.fft(np.eye(24)), "interleaved", [(2, 2, 1), (4, 4, 1), (8, 8, 1)]),
        (scipy.linalg.hadamard(16), "halves", [(2, 2, 1), (4, 4, 1), (8, 8, 1)]),
        # A row of the DCT and its mirror image lie in one plane on folded blocks: half as many classes as columns.
        (scipy.fft.dct(np.eye(32), axis=0), "folded", [(2, 2, 1), (2, 4, 2), (4, 8, 2), (8, 16, 2)]),
    ],
    ids=["dft", "hadamard", "dct"],
)
def test_shuffled_rows_fall_into_classes(
    matrix: np.ndarray, tree: str, levels: list[tuple[int, int, int]]
) -> None:
    shuffled = tensor(matrix[RNG.permutation(len(matrix))])
    known = next(t for t in known_trees(len(matrix)) if t.how == tree)
    found = row_levels(shuffled, known, (0.0, 1e-7), generator())
    assert [(s.classes, s.width, s.rank) for s in found] == levels
    for s in found:
        assert np.bincount(s.rows).tolist() == [len(matrix) // s.classes] * s.classes
        assert largest_rank(shuffled, s) == s.rank


@pytest.mark.parametrize(
    "matrix",
    [
        np.fft.fft(np.eye(36)),
        scipy.linalg.hadamard(32),
        scipy.fft.dct(np.eye(64), axis=0),
        np.fft.fft(np.eye(5)),
    ],
    ids=["dft", "hadamard", "dct", "prime"],
)
def test_a_tree_from_nothing_serves_all_rows(matrix: np.ndarray) -> None:
    n = len(matrix)
    shuffled = tensor(matrix[RNG.permutation(n)][:, RNG.permutation(n)])
    tree = column_tree(shuffled, 1e-7, generator())
    if n == 5:
        assert tree is None
        return
    assert tree is not None
    assert is_permutation(tree.order)
    assert int(np.prod(tree.radices)) == n
    found = row_levels(shuffled, tree, (0.0, 1e-7), generator())
    assert len(found) >= 3
    assert all(largest_rank(shuffled, s) <= s.rank for s in found)


def test_a_gaussian_has_neither_tree_nor_classes() -> None:
    gaussian = torch.randn(48, 48, dtype=torch.float64)
    assert column_tree(gaussian, 1e-7, generator()) is None
    assert all(row_levels(gaussian, tree, (0.0, 1e-7), generator()) == [] for tree in known_trees(48))


def test_distances_follow_the_tolerance() -> None:
    assert cluster_tolerances(0.0) == cluster_tolerances(1e-12) == [1e-7]
    coarse, fine = cluster_tolerances(1e-4)
    assert 1e-4 < fine < coarse < 1e-2
    assert max(cluster_tolerances(10.0)) < 0.1
