"""Grouping: lines and planes that belong together are found, packed into equal groups, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmatrix.fitting.orders.grouping import compress, merge

DELTA = 1e-7
DTYPES = (torch.float64, torch.complex128)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def spans(classes: list[int], rank: int, dtype: torch.dtype, blocks: int = 3, width: int = 20) -> Tensor:
    """One row per element, ``(elements, blocks, 1, width)``; a class shares a space of dimension ``rank``."""
    rows = []
    for size in classes:
        bases = torch.randn(blocks, rank, width, dtype=dtype)
        rows.append(torch.randn(size, blocks, 1, rank, dtype=dtype) @ bases)
    return torch.cat(rows)


def partition(groups: Tensor) -> set[frozenset[int]]:
    return {frozenset(g) for g in groups.tolist()}


def runs(count: int, size: int) -> set[frozenset[int]]:
    return {frozenset(range(k, k + size)) for k in range(0, count, size)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 2])
def test_elements_of_one_space_merge_in_any_order(rank: int, dtype: torch.dtype) -> None:
    shuffle = torch.randperm(24)
    found = merge(spans([4] * 6, rank, dtype)[shuffle], DELTA, generator())
    assert found is not None
    assert found.rank == rank
    assert partition(shuffle[found.groups]) == runs(24, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_planes_merge(dtype: torch.dtype) -> None:
    planes = torch.randn(5, 3, 2, 16, dtype=dtype).repeat_interleave(3, 0)
    mixed = torch.randn(15, 3, 2, 2, dtype=dtype) @ planes
    found = merge(mixed, DELTA, generator())
    assert found is not None
    assert (found.rank, partition(found.groups)) == (2, runs(15, 3))


def test_large_classes_are_cut_to_the_size_that_all_share() -> None:
    found = merge(spans([6, 3, 3], 2, torch.float64), DELTA, generator())
    assert found is not None
    assert found.groups.shape == (4, 3)
    assert {frozenset(g) & frozenset(range(6)) for g in partition(found.groups)} >= {frozenset()}
    assert {6, 7, 8} in partition(found.groups)


def test_two_lines_are_packed_into_one_plane() -> None:
    found = merge(
        torch.cat([spans([4, 4], 2, torch.float64), spans([2, 2], 1, torch.float64)]), DELTA, generator()
    )
    assert found is not None
    assert (found.rank, partition(found.groups)) == (2, runs(12, 4))


def test_zero_elements_fill_what_is_left() -> None:
    rows = torch.cat([spans([4, 4, 3], 2, torch.float64), torch.zeros(1, 3, 1, 20, dtype=torch.float64)])
    found = merge(rows, DELTA, generator())
    assert found is not None
    assert partition(found.groups) == runs(12, 4)


@pytest.mark.parametrize(
    "bases",
    [
        torch.randn(40, 4, 1, 30, dtype=torch.float64),
        torch.randn(40, 4, 2, 30, dtype=torch.complex128),
        torch.zeros(8, 2, 1, 6, dtype=torch.float64),
        torch.randn(1, 2, 1, 6, dtype=torch.float64),
        torch.randn(9, 2, 2, 2, dtype=torch.float64),
    ],
    ids=["rows", "planes", "zeros", "single", "nothing to tell"],
)
def test_nothing_is_merged_without_structure(bases: Tensor) -> None:
    assert merge(bases, DELTA, generator()) is None


def test_noise_below_the_distance_is_forgiven() -> None:
    clean = spans([4] * 6, 2, torch.float64)
    noisy = clean + 1e-6 * torch.randn(clean.shape, dtype=torch.float64)
    assert merge(noisy, DELTA, generator()) is None
    found = merge(noisy, 1e-3, generator())
    assert found is not None
    assert partition(found.groups) == runs(24, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "width"), [(6, 20), (6, 4)])
def test_compress_keeps_the_best_rows_and_counts_the_rest(k: int, width: int, dtype: torch.dtype) -> None:
    bases = torch.randn(3, 2, k, width, dtype=dtype)
    kept, lost = compress(bases, 2)
    values = torch.linalg.svdvals(bases)
    assert lost == pytest.approx(float(values[..., 2:].square().sum()), rel=1e-12)
    torch.testing.assert_close(torch.linalg.svdvals(kept), values[..., :2], rtol=1e-12, atol=0)
    same, nothing = compress(bases, k)
    assert (same is bases, nothing) == (True, 0.0)
