"""Butterflies: the factors of class B, tile ranks, sizes that are not powers of two."""

from __future__ import annotations

import math
from itertools import accumulate
from operator import mul

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix._permutations import prime_factors
from kmatrix.structures import Butterfly, ChainMatrix, Factor
from kmatrix.structures.butterfly import default_pairs, smooth_size, tile_chain

f64 = torch.float64


@pytest.mark.parametrize("k", range(1, 6))
def test_a_power_of_two_gives_the_factors_of_the_fft(k: int) -> None:
    n = 2**k
    factors = Butterfly().layout(n, n).factors
    assert factors == tuple(Factor(n >> (i + 1), 2, 2, 1 << i) for i in range(k))
    assert Butterfly().num_params(n, n) == 2 * n * k
    # Block i of 2**i points is [[D1, D2], [D3, D4]] of diagonals: definition 2.1 and 2.2 of arXiv 2012.14966.
    A = Butterfly().random(n, n, dtype=f64)
    assert isinstance(A, ChainMatrix)
    want = torch.eye(n, dtype=f64)
    for i, w in enumerate(A.weights):
        h = 1 << i
        blocks = [
            torch.cat([torch.cat([torch.diag(w[g, r, c]) for c in range(2)], 1) for r in range(2)])
            for g in range(n // (2 * h))
        ]
        want = torch.block_diag(*blocks) @ want
    torch.testing.assert_close(A.to_dense(), want)


@given(
    pairs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), data=st.data()
)
def test_tiles_have_the_rank_that_was_asked_for(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    ranks = tuple(data.draw(st.integers(1, 3)) for _ in pairs[1:])
    s = Butterfly(radices=tuple(pairs), ranks=ranks)
    m, n = math.prod(b for b, _ in pairs), math.prod(c for _, c in pairs)
    A = s.random(m, n, dtype=f64, generator=torch.Generator().manual_seed(0)).to_dense()
    rows, cols = (list(accumulate((p[i] for p in pairs), mul)) for i in range(2))
    for stride, width, rank in zip(rows, cols, ranks, strict=False):
        for o in range(stride):
            for block in range(n // width):
                tile = A[o::stride, block * width : (block + 1) * width]
                assert int(torch.linalg.matrix_rank(tile, rtol=1e-10)) <= rank


def test_generic_tiles_reach_their_rank() -> None:
    A = Butterfly(radices=((3, 4), (4, 3)), ranks=2).random(12, 12, dtype=f64).to_dense()
    assert {
        int(torch.linalg.matrix_rank(A[o::3, 4 * k : 4 * k + 4])) for o in range(3) for k in range(3)
    } == {2}


def test_tile_chain_follows_its_formula() -> None:
    assert tile_chain(((2, 3), (4, 5), (6, 7)), (8, 9)) == (
        Factor(35, 16, 3, 1),
        Factor(7, 36, 40, 2),
        Factor(1, 6, 63, 8),
    )


@given(m=st.integers(1, 5000), n=st.integers(1, 5000))
def test_default_radices_reach_every_size(m: int, n: int) -> None:
    pairs = default_pairs(m, n)
    assert math.prod(b for b, _ in pairs) == smooth_size(m)
    assert math.prod(c for _, c in pairs) == smooth_size(n)
    assert Butterfly().layout(m, n).cols == smooth_size(n)
    assert len(pairs) == max(1, min(len(prime_factors(smooth_size(size))) for size in (m, n)))


def test_smooth_sizes_are_the_nearest_above() -> None:
    smooth = [n for n in range(1, 2100) if n == 1 or prime_factors(n)[-1] <= 13]
    for n in range(1, 2001):
        assert smooth_size(n) == min(size for size in smooth if size >= n)


def test_large_primes_are_padded_and_counted() -> None:
    assert smooth_size(10**9 + 7) == 1_000_188_000
    s = Butterfly()
    assert s.layout(17, 17).cols == 18
    assert s.num_params(17, 17) == s.num_params(18, 18)
    assert s.random(17, 17).shape == (17, 17)


@pytest.mark.parametrize(
    ("make", "error", "reason"),
    [
        (lambda: Butterfly(ranks=0), ArgumentError, "ranks=0"),
        (lambda: Butterfly(ranks=1.5), DtypeError, r"ranks=1\.5"),  # type: ignore[arg-type]
        (lambda: Butterfly(radices=((2, 0),)), ArgumentError, "radices=0"),
        (lambda: Butterfly(radices=((2, 2, 2),)), ArgumentError, "not pairs"),  # type: ignore[arg-type]
        (lambda: Butterfly(radices=(2, 2)), ArgumentError, "not pairs"),  # type: ignore[arg-type]
        (lambda: Butterfly(radices=((2, 2), (2, 2)), ranks=(1, 1)), ArgumentError, "2 factors have 1 gaps"),
        (lambda: Butterfly(ranks=(2, 2)).random(4, 4), ArgumentError, "2 factors have 1 gaps"),
        (lambda: Butterfly(radices=((2, 2), (2, 2))).random(5, 4), ArgumentError, "4 x 4, too small"),
    ],
)
def test_what_does_not_fit_is_refused(make, error: type[Exception], reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=reason):
        make()
