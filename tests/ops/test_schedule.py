"""The schedule: it covers the chain, it is deterministic, and it merges when that pays and not otherwise."""

from __future__ import annotations

from math import prod

import pytest

from kmatrix.ops import Pattern
from kmatrix.ops.merging import product_pattern
from kmatrix.ops.schedule import SLICE_BYTES, plan

BATCHES = [1, 2, 7, 64, 1000, 10**6]


def butterfly(*radices: int) -> tuple[Pattern, ...]:
    n, strides = prod(radices), [prod(radices[:k]) for k in range(len(radices))]
    return tuple(Pattern(n // (s * r), r, r, s) for s, r in zip(strides, radices, strict=True))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("backward", [False, True])
def test_passes_cover_the_chain_in_order(example, batch: int, backward: bool) -> None:
    patterns, shapes = tuple(example.patterns), tuple(example.shapes)
    passes, length = plan(patterns, shapes, batch, backward=backward)
    assert length >= 1
    assert [one.start for one in passes] == [0, *[one.stop for one in passes[:-1]]]
    assert passes[-1].stop == len(patterns)
    for one in passes:
        merged = patterns[one.start]
        for p in patterns[one.start + 1 : one.stop]:
            merged = product_pattern(merged, p)
        assert one.pattern == merged


@pytest.mark.parametrize("batch", BATCHES)
def test_forms_fit_their_factors(example, batch: int) -> None:
    for one in plan(tuple(example.patterns), tuple(example.shapes), batch).passes:
        if one.form in ("gemm", "kron"):
            group = range(one.start, one.stop)
            assert one.pattern.a == 1 or all(example.shapes[i][0] == 1 for i in group)
            assert one.pattern.d == 1 or all(example.shapes[i][3] == 1 for i in group)
        if one.form == "gemm":
            assert one.pattern.d == 1


def test_a_large_batch_makes_two_wide_factors_of_a_butterfly() -> None:
    factors = butterfly(*[2] * 10)
    passes = plan(factors, factors, 4096).passes
    assert [one.pattern for one in passes] == [Pattern(32, 32, 32, 1), Pattern(1, 32, 32, 32)]


def test_one_vector_does_not_pay_for_merging() -> None:
    factors = butterfly(*[2] * 10)
    for backward in (False, True):
        passes = plan(factors, factors, 1, backward=backward).passes
        assert [one.stop - one.start for one in passes] == [1] * 10


def test_passes_get_fewer_as_the_batch_grows() -> None:
    factors = butterfly(2, 3, 2, 2, 5, 2, 2)
    counts = [len(plan(factors, factors, batch).passes) for batch in (1, 64, 4096)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


@pytest.mark.parametrize("batch", BATCHES)
def test_wide_blocks_stay_apart(batch: int) -> None:
    monarch = (Pattern(32, 32, 32, 1), Pattern(1, 32, 32, 32))
    assert len(plan(monarch, monarch, batch).passes) == 2


@pytest.mark.parametrize("batch", BATCHES)
def test_low_rank_is_never_made_dense(batch: int) -> None:
    factors = (Pattern(1, 8, 512, 1), Pattern(1, 512, 8, 1))
    assert [one.form for one in plan(factors, factors, batch).passes] == ["gemm", "gemm"]


def test_a_pair_that_shrinks_is_merged() -> None:
    """Two square blocks in the same place are one block: half the work for any large batch."""
    factors = (Pattern(8, 16, 16, 1), Pattern(8, 16, 16, 1))
    assert [one.pattern for one in plan(factors, factors, 4096).passes] == [Pattern(8, 16, 16, 1)]


def test_kronecker_factors_are_not_untied() -> None:
    patterns = (Pattern(32, 32, 32, 1), Pattern(1, 32, 32, 32))
    tied = ((1, 32, 32, 1), (1, 32, 32, 1))
    assert [one.form for one in plan(patterns, tied, 256).passes] == ["gemm", "kron"]


def test_only_the_order_of_magnitude_of_the_batch_matters() -> None:
    factors = butterfly(2, 2, 3, 3, 2, 2)
    assert plan(factors, factors, 129) is plan(factors, factors, 256)


def test_slices_fit_the_cache() -> None:
    factors = butterfly(*[2] * 10)
    for itemsize in (4, 8, 16):
        assert plan(factors, factors, 4096, itemsize=itemsize).length * 1024 * itemsize == SLICE_BYTES
    wide = (Pattern(1, 4, 2**20, 1),)
    assert plan(wide, wide, 4096).length == 16
