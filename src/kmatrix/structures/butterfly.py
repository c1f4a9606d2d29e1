"""Butterfly matrices: chains with one factor per digit of a mixed-radix index, tile rank one or more.

The rule ``tile_chain`` writes every chain of this kind; Monarch and block tensor-train are its two-factor
case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import prime_factors
from kmatrix.structures.chain import ChainStructure, Factor, Layout

Pairs = tuple[tuple[int, int], ...]


def tile_chain(pairs: Sequence[tuple[int, int]], ranks: Sequence[int]) -> tuple[Factor, ...]:
    """Factors of the tile-rank butterfly with output and input radices ``(b_i, c_i)`` and inner ``ranks``.

    Factor i, in order of application, is ``(prod_{j>i} c_j, rho_i b_i, c_i rho_{i-1}, prod_{j<i} b_j)`` with
    ``rho_0 = rho_k = 1``: after it the vector is indexed by a block of columns, a rank, and the low digits of
    the row.
    """
    rho = (1, *ranks, 1)
    outer = math.prod(c for _, c in pairs)
    inner = 1
    factors = []
    for i, (b, c) in enumerate(pairs):
        outer //= c
        factors.append(Factor(outer, rho[i + 1] * b, c * rho[i], inner))
        inner *= b
    return tuple(factors)


def smooth_size(n: int) -> int:
    """The smallest size of at least ``n`` without a prime factor over 13 (``n`` itself for most sizes)."""
    # Every product of odd primes below the next power of two, each with the fewest twos that reach n.
    odd, limit = [1], 1 << (n - 1).bit_length()
    for prime in (3, 5, 7, 11, 13):
        for known in list(odd):
            power = known * prime
            while power < limit:
                odd.append(power)
                power *= prime
    return min(q << (-(-n // q) - 1).bit_length() for q in odd)


def default_pairs(m: int, n: int) -> Pairs:
    """Radices of the default butterfly: the primes of both (smooth) sizes, merged to as many of each."""
    out, into = (list(prime_factors(smooth_size(size))) or [1] for size in (m, n))
    for longer, shorter in ((out, into), (into, out)):
        while len(longer) > len(shorter):
            longer.sort()
            longer[:2] = [longer[0] * longer[1]]
    return tuple(zip(sorted(out), sorted(into), strict=True))


@dataclass(frozen=True)
class Butterfly(ChainStructure):
    """A product of sparse factors, one per digit: ``B = B_k ... B_2 B_1`` with growing stride, any size.

    With ``n = r1 ... rk`` the factor i couples ``r_i`` values at stride ``r1 ... r_{i-1}``. Powers of two
    give the butterfly matrices of the FFT with ``2 n log2 n`` numbers. Sizes with a prime factor over 13 are
    padded to the next size without one, which the counts show.

    Args:
        radices: one ``(b, c)`` pair of output and input radices per factor, in order of application, with
            ``prod b >= m`` and ``prod c >= n``; by default the prime factors of the sizes.
        ranks: tile rank between neighbouring factors, one number for all or one for each of ``k - 1`` gaps.

    Raises:
        ArgumentError: if radices and ranks do not fit each other or the shape.

    Example:
        >>> import kmatrix as km
        >>> km.Butterfly().num_params(1024, 1024)
        20480
        >>> km.Butterfly().random(768, 1000).shape
        (768, 1000)

    Reference: arXiv 2012.14966, definitions 2.1-2.3 (powers of two); tile ranks: arXiv 2411.04506.
    """

    radices: Pairs | None = None
    ranks: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for pair in self.radices or ():
            if not isinstance(pair, tuple) or len(pair) != 2:
                way_out = "pass one pair (b, c) per factor"
                raise ArgumentError(complaint("Butterfly", "radices", self.radices, "not pairs", way_out))
            for radix in pair:
                check_size("Butterfly", "radices", radix)
        for rank in self.ranks if isinstance(self.ranks, tuple) else (self.ranks,):
            check_size("Butterfly", "ranks", rank)
        if self.radices is not None:
            self._ranks_for(self.radices)

    def _ranks_for(self, pairs: Pairs) -> tuple[int, ...]:
        gaps = len(pairs) - 1
        ranks = self.ranks if isinstance(self.ranks, tuple) else (self.ranks,) * gaps
        if len(ranks) != gaps:
            reason = f"{len(pairs)} factors have {gaps} gaps"
            raise ArgumentError(
                complaint("Butterfly", "ranks", self.ranks, reason, f"pass {gaps} ranks or one number")
            )
        return ranks

    def layout(self, m: int, n: int) -> Layout:
        pairs = self.radices or default_pairs(m, n)
        rows, cols = math.prod(b for b, _ in pairs), math.prod(c for _, c in pairs)
        if rows < m or cols < n:
            reason = f"the radices give {rows} x {cols}, too small for {m} x {n}"
            way_out = "choose radices whose products reach m and n, or leave them out"
            raise ArgumentError(complaint("Butterfly", "radices", pairs, reason, way_out))
        return Layout(tile_chain(pairs, self._ranks_for(pairs)))
