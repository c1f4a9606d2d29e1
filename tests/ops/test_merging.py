"""Multiplying factors out: against dense matrices, for every way in which two patterns can fit."""

from __future__ import annotations

import itertools
from math import gcd

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kmatrix._errors import ArgumentError
from kmatrix.ops import Pattern
from kmatrix.ops.merging import (
    merge_factors,
    merge_group,
    merge_group_gradients,
    mergeable,
    product_pattern,
)

f64 = torch.float64


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Pattern, Pattern, str, str]:
    """Two patterns that merge, with every combination of which of them has the finer groups and diagonals."""
    a, d, rank, b, c = (draw(st.integers(1, 3)) for _ in range(5))
    pa, qa = draw(st.sampled_from([(1, 1), (2, 1), (1, 3)]))
    pd, qd = draw(st.sampled_from([(1, 1), (3, 1), (1, 2)]))
    p = Pattern(a * pa, qa * rank * qd, c, d * pd)
    q = Pattern(a * qa, b, pa * rank * pd, d * qd)
    ties = st.sampled_from(["", "a", "d", "ad"])
    return p, q, draw(ties), draw(ties)


def weight(p: Pattern, tied: str, dtype: torch.dtype = torch.complex128) -> Tensor:
    shape = (1 if "a" in tied else p.a, p.b, p.c, 1 if "d" in tied else p.d)
    return torch.randn(shape, dtype=dtype)


def full(w: Tensor, p: Pattern) -> Tensor:
    """The matrix of one factor: I_a (x) blocks (x) I_d."""
    grid = torch.zeros(p.a, p.b, p.d, p.a, p.c, p.d, dtype=w.dtype)
    for i, j in itertools.product(range(p.a), range(p.d)):
        grid[i, :, j, i, :, j] = w.expand(p)[i, :, :, j]
    return grid.reshape(p.rows, p.cols)


@given(pairs())
def test_product_of_any_pair(pair: tuple[Pattern, Pattern, str, str]) -> None:
    p, q, tied_p, tied_q = pair
    assert mergeable(p, q)
    first, second = weight(p, tied_p), weight(q, tied_q)
    merged, pattern = merge_factors(first, p, second, q)
    assert pattern == product_pattern(p, q)
    torch.testing.assert_close(full(merged, pattern), full(second, q) @ full(first, p))


@given(pairs())
def test_ties_survive_exactly_where_both_are_tied(pair: tuple[Pattern, Pattern, str, str]) -> None:
    p, q, tied_p, tied_q = pair
    first, second = weight(p, tied_p), weight(q, tied_q)
    merged, (a, b, c, d) = merge_factors(first, p, second, q)
    both_a, both_d = (first.shape[axis] == second.shape[axis] == 1 for axis in (0, 3))
    assert merged.shape == (1 if both_a else a, b, c, 1 if both_d else d)


@given(pairs())
def test_gradients_of_any_pair(pair: tuple[Pattern, Pattern, str, str]) -> None:
    p, q, tied_p, tied_q = pair
    weights = [weight(p, tied_p).requires_grad_(), weight(q, tied_q).requires_grad_()]
    merged, _ = merge_factors(weights[0], p, weights[1], q)
    upstream = torch.randn_like(merged)
    want = torch.autograd.grad(merged, weights, upstream)
    got = merge_group_gradients(upstream, [w.detach() for w in weights], [p, q])
    torch.testing.assert_close(got, list(want))


CASES = {
    "butterfly": [Pattern(6, 2, 2, 1), Pattern(2, 3, 3, 2), Pattern(1, 2, 2, 6)],
    "its transpose": [Pattern(1, 2, 2, 6), Pattern(2, 3, 3, 2), Pattern(6, 2, 2, 1)],
    "in the middle": [Pattern(12, 2, 2, 3), Pattern(4, 3, 3, 6), Pattern(2, 2, 2, 18)],
    "tile rank 2": [Pattern(6, 4, 2, 1), Pattern(3, 4, 4, 2), Pattern(1, 2, 6, 4)],
    "there and back": [Pattern(3, 2, 2, 1), Pattern(1, 3, 3, 2), Pattern(1, 3, 3, 2), Pattern(3, 2, 2, 1)],
    "one factor": [Pattern(2, 3, 4, 5)],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tied", ["", "a", "d", "ad"])
def test_groups(name: str, tied: str) -> None:
    patterns = CASES[name]
    weights = [weight(p, tied).requires_grad_() for p in patterns]
    product, pattern = weights[0], patterns[0]
    for w, q in zip(weights[1:], patterns[1:], strict=True):
        product, pattern = merge_factors(product, pattern, w, q)
    plain = [w.detach() for w in weights]
    torch.testing.assert_close(merge_group(plain, patterns), product)
    upstream = torch.randn_like(product)
    want = torch.autograd.grad(product, weights, upstream)
    torch.testing.assert_close(merge_group_gradients(upstream, plain, patterns), list(want))


def test_a_butterfly_merges_into_its_radix_products() -> None:
    factors = [Pattern(512 >> k, 2, 2, 1 << k) for k in range(10)]
    for half, want in ((factors[:5], Pattern(32, 32, 32, 1)), (factors[5:], Pattern(1, 32, 32, 32))):
        pattern = half[0]
        for q in half[1:]:
            pattern = product_pattern(pattern, q)
        assert pattern == want


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Pattern(2, 3, 3, 1), Pattern(3, 2, 2, 1)),  # groups of 3 and of 2 overlap
        (Pattern(1, 2, 2, 3), Pattern(1, 3, 3, 2)),  # so do diagonals
        (Pattern(4, 3, 2, 1), Pattern(1, 2, 2, 6)),  # nor does the index between them split
        (Pattern(1, 4, 4, 1), Pattern(1, 5, 5, 1)),  # sizes do not fit at all
        (Pattern(1, 4, 0, 1), Pattern(1, 4, 4, 1)),  # nothing to multiply out
    ],
)
def test_pairs_that_do_not_merge(p: Pattern, q: Pattern) -> None:
    assert not mergeable(p, q)
    with pytest.raises(ArgumentError, match="ask mergeable"):
        merge_factors(torch.ones(p), p, torch.ones(q), q)


@given(st.tuples(*[st.integers(1, 6)] * 8))
def test_mergeable_means_full_on_a_pattern(sizes: tuple[int, ...]) -> None:
    p, q = Pattern(*sizes[:4]), Pattern(*sizes[4:])
    if p.rows != q.cols:
        assert not mergeable(p, q)
        return
    if not mergeable(p, q):
        return
    support = (full(torch.ones(q), q) @ full(torch.ones(p), p)) != 0
    r = product_pattern(p, q)
    assert torch.equal(support, full(torch.ones(r), r) != 0)
    assert r.a == gcd(p.a, q.a)
    assert r.d == gcd(p.d, q.d)
