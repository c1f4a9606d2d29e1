"""Complex butterflies of any radix, convolutions written with them, and the chirp rule for large primes.

A convolution is ``conj(G) diag(h) G^T`` with G the decimation-in-time butterfly: the two digit reversals
cancel, so no permutation is left, and the two factors of stride 1 meet the diagonal and become one factor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kmatrix._permutations import digit_reversal, inverse, prime_factors
from kmatrix.transforms._draft import (
    Array,
    Draft,
    Shape,
    blocks,
    completed,
    count,
    divisors,
    mapped,
    radices_of,
    unit_roots,
)


def butterfly(radices: Sequence[int], exponent: float) -> list[Array]:
    """Factors of the decimation-in-time FFT, stride 1 first; one of radix r is multiplied by ``r**exponent``.

    Block k of stride s couples ``o + s q`` (row q) with the r sub-transforms t by
    ``exp(-2 pi i (o + s q) t / (r s))``.
    """
    n, s = math.prod(radices), 1
    made = []
    for r in radices:
        q, t, o = np.ogrid[:r, :r, :s]
        made.append(blocks(n // (r * s), unit_roots((o + s * q) * t, r * s)[None] * r**exponent))
        s *= r
    return made


def convolution(grown: Sequence[Array], spectrum: Array) -> list[Array]:
    """Factors of ``conj(G) diag(spectrum) G^T``; G as its factors, the spectrum in digit-reversed order."""
    leaf = grown[0]
    a, r = leaf.shape[:2]
    w = leaf[..., 0]
    middle = np.einsum("abi,ai,aci->abc", np.conj(w), spectrum.reshape(a, r), w)[..., None]
    return [
        *(w.swapaxes(1, 2) for w in reversed(grown[1:])),
        middle,
        *(mapped(np.conj, w) for w in grown[1:]),
    ]


def pruned(factors: Sequence[Array], inputs: int, outputs: int) -> list[Array]:
    """Drop the first factor's columns past ``inputs`` and the last one's rows past ``outputs``."""
    kept = list(factors)
    kept[0] = kept[0][:, :, : -(-inputs // kept[0].shape[3])]
    kept[-1] = kept[-1][:, : -(-outputs // kept[-1].shape[3])]
    return kept


def wrapped(kernel: Array, inputs: int, size: int) -> Array:
    """The first column of a circulant of ``size`` points with ``kernel`` from lag ``1 - inputs`` on."""
    column = np.zeros(size, dtype=kernel.dtype)
    # Where size is the period of the kernel every place is hit twice with one value: assigned, not added.
    column[np.arange(1 - inputs, kernel.size + 1 - inputs) % size] = kernel
    return column


def dense_toeplitz(kernel: Array, inputs: int, outputs: int) -> Array:
    """The dense factor ``kernel[k - j]``, values from lag ``1 - inputs`` on: what one radix comes to."""
    lags = np.subtract.outer(np.arange(outputs), np.arange(inputs))
    dense: Array = kernel[lags + inputs - 1][None, :, :, None]
    return dense


@dataclass(frozen=True)
class Embedding:
    """How a ``outputs x inputs`` Toeplitz matrix sits in a circulant of a size without large primes.

    Args:
        radices: of the circulant, stride 1 first.
        inputs: columns that are used.
        outputs: rows that are used.
    """

    radices: tuple[int, ...]
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        return math.prod(self.radices)

    @property
    def shapes(self) -> list[Shape]:
        """Shapes of the factors of ``factors``."""
        size, s = self.size, self.radices[0]
        shapes: list[Shape] = [(size // s, s, s, 1)]
        for r in self.radices[1:]:
            shape = (size // (r * s), r, r, s)
            shapes, s = [shape, *shapes, shape], s * r
        a, b, c, d = shapes[0]
        shapes[0] = (a, b, -(-self.inputs // d), d)
        a, b, c, d = shapes[-1]
        shapes[-1] = (a, -(-self.outputs // d), c, d)
        return shapes

    @property
    def cost(self) -> tuple[int, int]:
        """Numbers and factors."""
        return count(self.shapes), len(self.shapes)

    def real_cost(self, parts: int) -> tuple[int, int]:
        """Numbers and factors as a real chain, for real input and ``parts`` numbers per output."""
        shapes = [(a, 2 * b, 2 * c, d) for a, b, c, d in self.shapes]
        a, b, c, d = shapes[0]
        shapes[0] = (a, b, c // 2, d)
        a, b, c, d = shapes[-1]
        shapes[-1] = (a, b // 2 * parts, c, d)
        return count(shapes), len(shapes)

    def factors(self, kernel: Array, scale: float = 1.0) -> list[Array]:
        """Factors of ``y_k = scale * sum_j kernel[k - j] x_j``.

        Args:
            kernel: its values at ``-(inputs - 1) .. outputs - 1``.
            scale: a multiple.
        """
        if len(self.radices) == 1:
            return [scale * dense_toeplitz(kernel, self.inputs, self.outputs)]
        import scipy.fft

        spectrum = (
            scale * scipy.fft.fft(wrapped(kernel, self.inputs, self.size))[digit_reversal(self.radices)]
        )
        return pruned(convolution(butterfly(self.radices, -0.5), spectrum), self.inputs, self.outputs)


@lru_cache(maxsize=256)
def embedding(inputs: int, outputs: int, period: int | None = None) -> Embedding:
    """The embedding of fewest numbers; that of the kernel's period unless another halves them."""
    sizes = smooth_sizes(inputs + outputs - 1)
    found = (Embedding(radices, inputs, outputs) for size in sizes for radices in _arrangements(size))
    best = min(found, key=lambda e: e.cost)
    if period is None:
        return best
    own = min(
        (Embedding(radices, inputs, outputs) for radices in _arrangements(period)), key=lambda e: e.cost
    )
    return best if 2 * best.cost[0] <= own.cost[0] else own


def smooth_sizes(least: int) -> Iterator[int]:
    """Sizes from ``least`` to the next power of two with no prime factor over 7."""
    top = 1 << (least - 1).bit_length()
    for p7 in _powers(7, top):
        for p5 in _powers(5, top // p7):
            for p3 in _powers(3, top // (p7 * p5)):
                odd = p7 * p5 * p3
                size = odd << max(0, (-(-least // odd) - 1).bit_length())
                if size <= top:
                    yield size


def _powers(p: int, top: int) -> Iterator[int]:
    power = 1
    while power <= top:
        yield power
        power *= p


def _arrangements(size: int) -> Iterator[tuple[int, ...]]:
    """Orders of the radices that differ in the first, which merges, or the last, which is pruned."""
    rest = list(radices_of(size))
    for first in sorted(set(rest)):
        others = rest.copy()
        others.remove(first)
        for last in sorted(set(others)) or [0]:
            inner = others.copy()
            if last:
                inner.remove(last)
            yield (first, *inner, *([last] if last else []))


@dataclass(frozen=True)
class Plan:
    """How an ``n``-point DFT is cut: ``leaf`` points at stride 1, by a chirp if ``chirp``, then radices."""

    leaf: int
    radices: tuple[int, ...]
    chirp: bool = False

    @property
    def cost(self) -> tuple[int, int]:
        """Numbers and factors."""
        above = math.prod(self.radices)
        rows, numbers, factors = self.leaf, self.leaf**2, 1
        if self.chirp:
            embedded = embedding(self.leaf, self.leaf)
            rows, (numbers, factors) = _rows(embedded.shapes), embedded.cost
        return above * (numbers + rows * sum(self.radices)), factors + len(self.radices)


def _rows(shapes: Sequence[Shape]) -> int:
    a, b, _, d = shapes[-1]
    return a * b * d


@lru_cache(maxsize=256)
def plan(n: int) -> Plan:
    """The cut of fewest numbers; the largest prime factors go through a chirp where that halves them."""
    leaf, *radices = radices_of(n)
    plain = Plan(leaf, tuple(radices))
    largest = max(prime_factors(n), default=1)
    chirps = [
        Plan(leaf, radices_of(n // leaf) if leaf < n else (), chirp=True)
        for leaf in (divisors(n) if largest > 31 else ())
        if leaf % largest == 0
    ]
    best = min(chirps, key=lambda p: p.cost, default=plain)
    # A chirp takes more passes and rounds more often, so a few numbers less are not worth it.
    return best if 2 * best.cost[0] <= plain.cost[0] else plain


def fourier(n: int, exponent: float) -> Draft:
    """The ``n``-point DFT times ``n**exponent``, spread over the factors."""
    cut = plan(n)
    if not cut.chirp:
        # Radix 2 needs as many numbers as radix 4, and kernels keep its stages in registers.
        radices = tuple(s for r in (cut.leaf, *cut.radices) for s in ((2, 2) if r == 4 else (r,)))
        return Draft(tuple(butterfly(radices, exponent)), before=digit_reversal(radices))
    above, p = n // cut.leaf, cut.leaf
    embedded = embedding(p, p)
    leaf = chirped(embedded, p, scale=p**exponent)
    rows, cols = _rows(embedded.shapes), leaf[0].shape[2] * leaf[0].shape[3]
    factors = [blocks(above, w) for w in leaf]
    low, s = np.arange(rows), 1
    for r in cut.radices:
        # Output index o = low + p * high, where rows past p are padding that nothing reads.
        q, t, o = np.ogrid[:r, :r, : s * rows]
        frequency = o % rows + p * (o // rows)
        w = unit_roots((frequency + s * p * q) * t, r * s * p)[None] * r**exponent
        factors.append(blocks(above // (r * s), np.where(o % rows < p, w, 0)))
        s *= r
    inputs = np.full((above, cols), -1)
    inputs[:, :p] = digit_reversal((p, *cut.radices)).reshape(above, p)
    outputs = np.where(low < p, low + p * np.arange(above)[:, None], -1)
    return Draft(tuple(factors), completed(inputs.reshape(-1)), inverse(completed(outputs.reshape(-1))))


def chirped(
    embedded: Embedding, period: int, *, twice_shift: int = 0, first: int = 0, scale: float = 1.0
) -> list[Array]:
    """Factors of ``y_k = scale * sum_j x_j exp(-2 pi i (k + shift)(first + j) / period)`` by the chirp rule.

    ``2 u v = u^2 + v^2 - (u - v)^2`` turns the sum into a convolution between two diagonals, which fold into
    the outer factors. The shift is a whole number of halves.

    Reference: Bluestein, IEEE Trans. Audio Electroacoust. 18 (1970) 451.
    """
    ins, outs = embedded.inputs, embedded.outputs
    # Everything in halves: exp(-i pi u^2 / period) with u = h / 2 is the root h^2 / (8 period) of a turn.
    into = 2 * (np.arange(ins) + first)
    out = 2 * np.arange(outs) + twice_shift
    lags = 2 * (np.arange(-(ins - 1), outs) - first) + twice_shift
    factors = embedded.factors(np.conj(unit_roots(lags**2, 8 * period)), scale)
    draft = Draft(tuple(factors))
    draft = draft.with_columns(unit_roots(into**2, 8 * period)).with_rows(unit_roots(out**2, 8 * period))
    return list(draft.weights)
