"""Real butterflies of the DFT of real input: the conjugate half of every spectrum is never computed.

A sub-transform of ``s`` real values is kept as ``s`` real numbers in ``s/2`` slots of two: real and
imaginary part of one frequency, or the two frequencies of the DFT that are real. A factor of radix r then
couples the ``2 r`` numbers that r sub-transforms hold in one slot with the ``2 r`` numbers of the
frequencies they make: ``2 r n`` numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kmatrix._permutations import Index, digit_reversal, inverse, prime_factors
from kmatrix.transforms._butterfly import chirped, embedding
from kmatrix.transforms._draft import (
    Array,
    Draft,
    blocks,
    completed,
    divisors,
    radices_of,
    realified,
    unit_roots,
)


@dataclass(frozen=True)
class Spectrum:
    """What the slots of a sub-transform of ``size`` points hold: ``Re(pick * S(frequency))``.

    ``S(k) = sum_u v_u exp(-2 pi i (k + shift) u / size)`` with shift 0, or 1/2 if ``half``.

    Attributes:
        frequency: ``(2, slots)`` whole numbers, -1 where nothing is held.
        pick: ``(2, slots)`` complex numbers, 0 where nothing is held.
    """

    size: int
    half: int
    frequency: Index
    pick: Array

    @property
    def slots(self) -> int:
        return int(self.frequency.shape[1])

    def slot_of(self, frequency: Index) -> Index:
        """The slot that holds a frequency or its conjugate."""
        slots = np.empty(self.size, dtype=np.int64)
        for part in self.frequency[::-1]:
            held = np.flatnonzero(part >= 0)
            slots[part[held]] = held
        found: Index = slots[self.lowest(frequency)]
        return found

    def lowest(self, frequency: Index) -> Index:
        """The representative of a frequency: of it and of the one with the conjugate value, the smaller."""
        lowest: Index = np.minimum(frequency % self.size, (-frequency - self.half) % self.size)
        return lowest

    def unfolding(self, frequency: Index) -> Array:
        """``(2, ...)``: what multiplies the two numbers of a slot (last axis) to give ``S(frequency)``."""
        held = self.frequency.reshape(2, *(1,) * (frequency.ndim - 1), self.slots) == self.lowest(frequency)
        number = np.divide(1, self.pick, out=np.zeros_like(self.pick), where=self.pick != 0)
        number = number.reshape(2, *(1,) * (frequency.ndim - 1), self.slots)
        conjugate = self.lowest(frequency) != frequency % self.size
        unfolding: Array = held * np.where(conjugate, np.conj(number), number)
        return unfolding


def representatives(size: int, half: int) -> Index:
    """One frequency of every conjugate pair, and those that are their own."""
    return np.arange((size - half) // 2 + 1)


def arranged(size: int, half: int, group: Index, groups: int, depth: int, gain: float) -> Spectrum:
    """Put the representatives into slots ``depth * group``, those of one group behind each other.

    The two real frequencies share a slot where they are in one group, the others are kept as pairs. Pairs
    are scaled by ``sqrt(2) gain`` and real ones by ``gain``, so that all rows have one norm.
    """
    own = (2 * np.arange(group.size) + half) % size == 0
    shared = np.flatnonzero(own)
    shared = shared[1:] if shared.size == 2 and len(set(group[shared])) == 1 else shared[:0]
    alone = np.setdiff1d(np.arange(group.size), shared)
    slot = ranks(group[alone], groups) * groups + group[alone]
    frequency = np.full((2, depth * groups), -1)
    pick = np.zeros((2, depth * groups), dtype=complex)
    frequency[:, slot] = alone
    pick[:, slot] = np.array([[1], [-1j]]) * math.sqrt(2) * gain
    for k in alone[own[alone]]:
        place = slot[alone == k]
        frequency[1, place], pick[:, place] = -1, [[gain], [0]]
        if shared.size:
            frequency[1, place], pick[1, place] = shared, gain
    return Spectrum(size, half, frequency, pick)


def ranks(group: Index, groups: int) -> Index:
    """For every item, how many before it are in its group."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(groups))
    found = np.empty_like(group)
    found[order] = np.arange(group.size) - starts[group[order]]
    return found


def coupling(low: Spectrum, r: int, frequency: Index, pick: Array) -> Array:
    """Weights ``(1, rows, 2 r, slots)`` that make ``Re(pick * S'(frequency))``, S' of ``r * size`` points.

    Args:
        low: what the r sub-transforms hold.
        r: the radix.
        frequency: ``(rows, slots)``, each in the slot that holds it; -1 where nothing is wanted.
        pick: ``(rows, slots)``.
    """
    turn = unit_roots((2 * frequency + low.half)[:, None] * np.arange(r)[:, None], 2 * r * low.size)
    parts = low.unfolding(frequency).transpose(1, 0, 2)
    # axes: row, sub-transform, part, slot
    weights: Array = np.real((np.where(frequency < 0, 0, pick)[:, None] * turn)[:, :, None] * parts[:, None])
    return weights.reshape(1, len(frequency), 2 * r, low.slots)


@dataclass(frozen=True)
class Plan:
    """How ``n`` real points are cut: ``leaf`` points at stride 1, by a chirp if ``chirp``, then radices."""

    leaf: int
    radices: tuple[int, ...]
    chirp: bool = False

    @property
    def size(self) -> int:
        return self.leaf * math.prod(self.radices)

    @property
    def slots(self) -> int:
        """Slots of a leaf."""
        if self.chirp:
            _, b, _, d = embedding(*self.chirp_sizes).shapes[-1]
            return b * d
        return (self.leaf + 1) // 2

    @property
    def chirp_sizes(self) -> tuple[int, int]:
        """Inputs and outputs of the leaf's chirp: only half of the spectrum is wanted."""
        return self.leaf, self.leaf // 2 + 1

    @property
    def cost(self) -> tuple[int, int]:
        """Numbers and factors."""
        above = math.prod(self.radices)
        numbers, factors = 2 * self.slots * self.leaf, 1
        if self.chirp:
            numbers, factors = embedding(*self.chirp_sizes).real_cost(parts=2)
        elif not self.radices:
            numbers = self.leaf**2
        return above * (numbers + 4 * self.slots * sum(self.radices)), factors + len(self.radices)


@lru_cache(maxsize=256)
def plan(n: int) -> Plan:
    """The cut of fewest numbers; the chirp rule only where it halves them."""
    largest = max(prime_factors(n), default=1)
    cuts = [(leaf, radices_of(n // leaf) if leaf < n else ()) for leaf in divisors(n)]
    plain = min((Plan(*cut) for cut in cuts), key=lambda p: p.cost)
    chirps = [Plan(*cut, chirp=True) for cut in cuts if largest > 31 and cut[0] % largest == 0]
    best = min(chirps, key=lambda p: p.cost, default=plain)
    return best if 2 * best.cost[0] <= plain.cost[0] else plain


def folded(n: int, pick: Array, *, half: int = 0, exponent: float = 0.0) -> Draft:
    """The real matrix ``y_k = Re(pick_k sum_j x_j exp(-2 pi i (k + half/2) j / n))``.

    Args:
        n: size.
        pick: ``n`` complex numbers.
        half: 0 or 1.
        exponent: inside, sub-transforms of s points are scaled by ``s**exponent``; -1/2 makes them
            orthogonal.
    """
    cut = plan(n)
    if not cut.radices:
        return _leaf_alone(cut, pick, half)
    factors, low = grown(Plan(cut.leaf, cut.radices[:-1], cut.chirp), half, exponent)
    r = cut.radices[-1]
    frequency = np.full((2 * r, low.slots), -1)
    slot = low.slot_of(np.arange(n))
    frequency[ranks(slot, low.slots), slot] = np.arange(n)
    factors = [blocks(r, w) for w in factors]
    factors.append(coupling(low, r, frequency, np.append(pick, 0)[frequency]))
    return Draft(tuple(factors), _inputs(cut, factors[0]), inverse(completed(frequency.reshape(-1))))


def grown(cut: Plan, half: int, exponent: float) -> tuple[list[Array], Spectrum]:
    """Factors that make the spectrum of ``cut.size`` real points, and what their outputs are."""
    n = cut.size
    factors, low = _leaf(cut, half, exponent)
    for r in cut.radices:
        size = r * low.size
        group = low.slot_of(representatives(size, half))
        high = arranged(size, half, group, low.slots, r, size**exponent)
        rows = (2 * r, low.slots)
        weights = coupling(low, r, high.frequency.reshape(rows), high.pick.reshape(rows))
        factors.append(blocks(n // size, weights))
        low = high
    return factors, low


def _leaf(cut: Plan, half: int, exponent: float) -> tuple[list[Array], Spectrum]:
    n, above = cut.leaf, math.prod(cut.radices)
    group = representatives(n, half)
    if cut.chirp:
        low = arranged(n, half, group, cut.slots, 1, n**exponent)
        weights = chirped(embedding(*cut.chirp_sizes), n, twice_shift=half)
        factors = list(realified(weights, len(weights) // 2, low.pick, inputs=(1,)).weights)
        return [blocks(above, w) for w in factors], low
    low = arranged(n, half, 0 * group, 1, cut.slots, n**exponent)
    turn = unit_roots((2 * low.frequency[..., None] + half) * np.arange(n), 2 * n)
    dense = np.real(low.pick[..., None] * turn).reshape(1, 2 * cut.slots, n, 1)
    return [blocks(above, dense)], low


def _leaf_alone(cut: Plan, pick: Array, half: int) -> Draft:
    """The whole transform as one dense factor or one chirp."""
    n = cut.leaf
    if not cut.chirp:
        dense = np.real(pick[:, None] * unit_roots((2 * np.arange(n)[:, None] + half) * np.arange(n), 2 * n))
        return Draft((dense[None, :, :, None],))
    frequency = np.full((2, cut.slots), -1)
    k = representatives(n, half)
    frequency[0, k], frequency[1, k] = k, (-k - half) % n
    frequency[1, frequency[0] == frequency[1]] = -1
    rows = np.append(pick, 0)[frequency]
    rows[1] = np.conj(rows[1])  # the value at the other frequency is the conjugate one
    weights = chirped(embedding(*cut.chirp_sizes), n, twice_shift=half)
    draft = realified(weights, len(weights) // 2, rows, inputs=(1,))
    return Draft(draft.weights, after=inverse(completed(frequency.reshape(-1))))


def _inputs(cut: Plan, first: Array) -> Index:
    """Which input every column of the first factor reads."""
    above = math.prod(cut.radices)
    index = np.full((above, first.shape[2] * first.shape[3] * first.shape[0] // above), -1)
    index[:, : cut.leaf] = digit_reversal((cut.leaf, *cut.radices)).reshape(above, cut.leaf)
    return completed(index.reshape(-1))
