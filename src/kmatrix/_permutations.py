"""Index maths of the fixed permutations: plain functions from sizes to index arrays, no tensors of weights.

A permutation is an index array ``p`` and acts by ``y = x[p]``; as a matrix it has ``P[i, p[i]] = 1``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint

Index = npt.NDArray[np.int64]


def prime_factors(n: int) -> tuple[int, ...]:
    """The prime factors of ``n`` in ascending order, with multiplicity; ``prime_factors(1) == ()``."""
    n = check_size("prime_factors", "n", n)
    factors: list[int] = []
    p = 2
    while p * p <= n:
        while n % p == 0:
            factors.append(p)
            n //= p
        p += 1 if p == 2 else 2
    if n > 1:
        factors.append(n)
    return tuple(factors)


def digit_reversal(radices: Sequence[int]) -> Index:
    """Reverse the digits of a mixed-radix index: bit reversal when every radix is 2.

    With ``n = r1 * ... * rk`` and ``r1`` the fastest digit of the input order, position
    ``i = d1 + r1*(d2 + r2*(...))`` of the output reads position ``dk + rk*(... + r2*d1)`` of the input.
    """
    n = math.prod(radices)
    axes = tuple(reversed(range(len(radices))))
    return np.ascontiguousarray(np.arange(n, dtype=np.int64).reshape(tuple(radices)).transpose(axes)).reshape(
        n
    )


def bit_reversal(n: int) -> Index:
    """Bit reversal of ``n = 2**k`` positions."""
    n = check_size("bit_reversal", "n", n)
    if n & (n - 1):
        way_out = "use digit_reversal(radices) for other sizes"
        raise ArgumentError(complaint("bit_reversal", "n", n, "not a power of two", way_out))
    return digit_reversal((2,) * (n.bit_length() - 1))


def stride(k: int, n: int) -> Index:
    """The stride (perfect shuffle) permutation: view as ``(k, n/k)``, transpose, flatten."""
    n = check_size("stride", "n", n)
    k = check_size("stride", "k", k)
    if n % k:
        raise ArgumentError(complaint("stride", "k", k, f"does not divide n={n}", "choose a divisor of n"))
    return np.ascontiguousarray(np.arange(n, dtype=np.int64).reshape(k, n // k).T).reshape(n)


def even_odd_reversed(n: int) -> Index:
    """Even positions ascending, then odd positions descending: the order that turns a DCT-II into a DFT."""
    n = check_size("even_odd_reversed", "n", n)
    p = np.arange(n, dtype=np.int64)
    return np.concatenate([p[0::2], p[1::2][::-1]])


def inverse(p: Index) -> Index:
    """The inverse permutation: ``inverse(p)[p[i]] == i``."""
    q = np.empty_like(p)
    q[p] = np.arange(p.size, dtype=p.dtype)
    return q


def is_permutation(p: Index) -> bool:
    """Whether ``p`` holds each of ``0 .. p.size-1`` exactly once."""
    return p.ndim == 1 and np.array_equal(np.sort(p), np.arange(p.size))


def is_identity(p: Index) -> bool:
    """Whether ``p`` leaves everything in its place."""
    return np.array_equal(p, np.arange(p.size))
