"""Real butterflies of the DCT-I and DST-I: the DFT of mirrored data, computed once per mirror pair.

Data of period ``M = 2N`` with ``x[-j] = sign x[j]`` are cut into sub-sequences, the positions ``A`` modulo
``B = M/s``. Those of A and -A have conjugate spectra, so one of them is computed; those of 0 and B/2 have
real (or imaginary) spectra and are kept together as the two halves of one. What is kept are thus ``N/s``
spectra of ``s/2 + 1`` slots of two numbers, and as in the folded DFT a factor of radix r couples ``2 r``
numbers with ``2 r``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kmatrix._permutations import Index, inverse
from kmatrix.transforms._butterfly import chirped, embedding
from kmatrix.transforms._draft import Array, Draft, completed, divisors, radices_of, realified, unit_roots
from kmatrix.transforms._folded import ranks


@dataclass(frozen=True)
class Plan:
    """How the ``half_period`` N is cut: ``leaf`` points at stride 1, then radices; one leaf is dense."""

    half_period: int
    sign: int
    leaf: int
    radices: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers transformed: the ends are free where the data are even and zero where they are odd."""
        return self.half_period + self.sign

    @property
    def columns(self) -> int:
        """Inputs of a leaf: those of 0 and B/2 together have one more or one less than the others."""
        return self.leaf + (self.sign > 0)

    @property
    def slots(self) -> int:
        return self.leaf // 2 + 1

    @property
    def cost(self) -> tuple[int, int]:
        """Numbers and factors."""
        if not self.radices:
            return self.size**2, 1
        above = math.prod(self.radices)
        numbers = 2 * self.slots * (self.columns + 2 * sum(self.radices))
        return above * numbers, 1 + len(self.radices)


@lru_cache(maxsize=256)
def plan(half_period: int, sign: int) -> Plan | None:
    """The cut of fewest numbers, or None where the chirp rule halves them."""
    n = half_period + sign
    cuts = [
        (leaf, radices_of(half_period // leaf) if leaf < half_period else ())
        for leaf in divisors(half_period)
    ]
    best = min((Plan(half_period, sign, *cut) for cut in cuts), key=lambda p: p.cost)
    chirp = embedding(n, n).real_cost(parts=1)
    return None if 2 * chirp[0] <= best.cost[0] else best


def mirrored(half_period: int, sign: int) -> Draft:
    """The DCT-I (sign 1, ``N + 1`` points) or DST-I (sign -1, ``N - 1`` points) of scipy, without norm."""
    cut = plan(half_period, sign)
    if cut is None:
        return _by_chirp(half_period, sign)
    if not cut.radices:
        return _dense(half_period, sign)
    leaves, *tree = _tree(cut)
    before, leaf = _leaves(cut, leaves)
    factors, s, held = [leaf], cut.leaf, np.arange(cut.slots)
    for r, roots in zip(cut.radices, tree, strict=True):
        wanted = _wanted(s, r, held)
        period = 2 * half_period // s
        factors.append(np.stack([_coupling(root, period, s, held, wanted, sign) for root in roots]))
        held, s = wanted.reshape(-1), s * r
    factors[-1], frequency = _parted(factors[-1], held, half_period, sign)
    return Draft(tuple(factors), before, inverse(completed(frequency)))


def _tree(cut: Plan) -> list[list[int]]:
    """The sub-sequences kept at every level, leaves first, siblings side by side; 0 is both 0 and B/2."""
    levels, period = [[0]], 2
    for r in reversed(cut.radices):
        period *= r
        levels.append([child for root in levels[-1] for child in _children(root, period, r)])
    return levels[::-1]


def _children(root: int, period: int, r: int) -> list[int]:
    """The r kept sub-sequences modulo ``period`` that make up ``root`` modulo ``period / r``."""
    members = root + period // r * np.arange(r)
    if root == 0:
        members = np.concatenate([members, members + period // r // 2])
    kept = np.unique(np.minimum(members, period - members))
    return [int(a) for a in kept if 2 * a != period and (a > 0 or root == 0)]


def _leaves(cut: Plan, roots: list[int]) -> tuple[Index, Array]:
    """Which input every column of the first factor reads, and the factor."""
    n, first = cut.half_period, int(cut.sign < 0)
    period = 2 * n // cut.leaf
    inputs = np.arange(first, cut.size + first)
    kept = np.minimum(inputs % period, -inputs % period) % (period // 2)
    index = np.full((len(roots), cut.columns), -1)
    weights = np.zeros((len(roots), 2, cut.slots, cut.columns))
    for block, root in enumerate(roots):
        j = inputs[kept == root]
        index[block, : j.size] = j - first
        turn = unit_roots(np.arange(cut.slots)[:, None] * j, 2 * n)
        if root:
            weights[block, 0, :, : j.size] = turn.real * np.where(j % period == root, 1, cut.sign)
            weights[block, 1, :, : j.size] = turn.imag * np.where(j % period == root, 1, -cut.sign)
        else:
            own = (turn.real if cut.sign > 0 else turn.imag) * np.where(j % n == 0, 1, 2)
            weights[block, 0, :, : j.size] = own * (j % period == 0)
            weights[block, 1, :, : j.size] = own * (j % period != 0)
    return completed(index.reshape(-1)), weights.reshape(len(roots), 2 * cut.slots, cut.columns, 1)


def _wanted(s: int, r: int, held: Index) -> Index:
    """``(r, slots)``: the frequencies of ``r s`` points, each in the slot it is made from; else -1."""
    k = np.arange(r * s // 2 + 1)
    slot_of = np.empty(s // 2 + 1, dtype=np.int64)
    slot_of[held[held >= 0]] = np.flatnonzero(held >= 0)
    slot = slot_of[np.minimum(k % s, -k % s)]
    wanted = np.full((r, held.size), -1)
    wanted[ranks(slot, held.size), slot] = k
    return wanted


def _coupling(root: int, period: int, s: int, held: Index, wanted: Index, sign: int) -> Array:
    """The block ``(2 r, 2 r, slots)`` that makes sub-sequence ``root`` from its r children modulo ``period``.

    With ``k = +-o + s c`` the child ``a`` contributes ``exp(-2 pi i a c / period)`` times its value at ``o``
    or the conjugate of that; a child of which the mirror image is kept is ``sign`` times the conjugate once
    more.
    """
    r = len(wanted)
    children, above = _children(root, period, r), period // r
    down = wanted % s != held
    cycles = (wanted + np.where(down, held, -held)) // s
    block = np.zeros((2, r, r, 2, held.size))
    for part in range(2):
        pick = -1j if (part if root else sign < 0) else 1
        offset = root if root else part * (above // 2)
        for a in offset + above * np.arange(r):
            kept = int(min(a, period - a))
            flip = down ^ (a != kept)
            turn = pick * (sign if a != kept else 1) * unit_roots(a * cycles, period)
            if kept % (period // 2) == 0:
                value = 1 if sign > 0 else np.where(flip, -1j, 1j)
                block[part, :, 0, int(kept > 0)] += np.real(turn * value)
            else:
                child = children.index(kept)
                block[part, :, child, 0] += turn.real
                block[part, :, child, 1] += np.where(flip, 1, -1) * turn.imag
    block *= (wanted >= 0)[:, None, None]
    return block.reshape(2 * r, 2 * r, held.size)


def _parted(factor: Array, held: Index, half_period: int, sign: int) -> tuple[Array, Index]:
    """Combine the even and odd positions: the values at ``k`` and ``N - k`` are sum and difference."""
    _, rows, cols, slots = factor.shape
    even, odd = factor.reshape(2, rows // 2, cols, slots)
    frequency = np.stack([held, half_period - held])
    frequency[:, held < 0] = -1
    frequency[1, 2 * held == half_period] = -1
    first = int(sign < 0)
    outputs = np.where((frequency >= first) & (frequency <= half_period - first), frequency - first, -1)
    return np.concatenate([sign * (even + odd), even - odd])[None], outputs.reshape(-1)


def _pick(n: int, sign: int) -> Array:
    """What to read off the DFT of half of the mirrored data: real part, or negative imaginary part."""
    return np.full(n, 2 if sign > 0 else 2j, dtype=complex)


def _weigh_ends(draft: Draft, sign: int, n: int) -> Draft:
    """Count the ends of even data once, as they are their own mirror images."""
    if sign < 0:
        return draft
    scale = np.ones(n)
    scale[[0, -1]] = 0.5
    return draft.with_columns(scale)


def _dense(half_period: int, sign: int) -> Draft:
    n, first = half_period + sign, int(sign < 0)
    k = np.arange(first, n + first)
    dense = np.real(_pick(n, sign)[:, None] * unit_roots(k[:, None] * k, 2 * half_period))
    return _weigh_ends(Draft((dense[None, :, :, None],)), sign, n)


def _by_chirp(half_period: int, sign: int) -> Draft:
    n, first = half_period + sign, int(sign < 0)
    weights = chirped(embedding(n, n), 2 * half_period, first=first, twice_shift=2 * first)
    embedded = weights[-1].shape[1] * weights[-1].shape[3]
    pick = np.zeros((1, embedded), dtype=complex)
    pick[0, :n] = _pick(n, sign)
    return _weigh_ends(realified(weights, len(weights) // 2, pick, inputs=(1,)), sign, n)
