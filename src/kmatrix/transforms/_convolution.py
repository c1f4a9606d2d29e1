"""Circulant and Toeplitz matrices as real chains: a folded butterfly, 2 x 2 blocks, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kmatrix._permutations import Index, digit_reversal, inverse
from kmatrix.transforms._butterfly import dense_toeplitz, smooth_sizes, wrapped
from kmatrix.transforms._draft import Array, Draft, completed, divisors, radices_of
from kmatrix.transforms._folded import Plan, coupling, grown


@dataclass(frozen=True)
class RealEmbedding:
    """How a real ``outputs x inputs`` Toeplitz matrix sits in a circulant of ``plan.size`` points.

    With the orthogonal folded butterfly R, the circulant is ``R^T M R`` where M couples the two numbers of a
    slot; M and the two factors next to it become one.
    """

    plan: Plan
    inputs: int
    outputs: int

    @property
    def above(self) -> int:
        return math.prod(self.plan.radices)

    @property
    def columns(self) -> int:
        """Inputs that a leaf uses."""
        return -(-self.inputs // self.above)

    @property
    def rows(self) -> int:
        """Outputs that a leaf of the transpose uses."""
        return -(-self.outputs // self.above)

    @property
    def cost(self) -> tuple[int, int]:
        """Numbers and factors."""
        if not self.plan.radices:
            return self.columns * self.rows, 1
        *inner, last = self.plan.radices
        sides = self.columns + self.rows + 4 * sum(inner)
        return 2 * self.plan.slots * self.above * (sides + 2 * last), 1 + 2 * len(self.plan.radices)

    def draft(self, kernel: Array) -> Draft:
        """The chain of ``y_k = sum_j kernel[k - j] x_j``, kernel values from lag ``1 - inputs`` on."""
        if not self.plan.radices:
            return Draft((dense_toeplitz(kernel, self.inputs, self.outputs),))
        import scipy.fft

        spectrum = scipy.fft.fft(wrapped(kernel, self.inputs, self.plan.size))
        (leaf, *inner, top), high = grown(self.plan, 0, -0.5)
        _, b, c, d = top.shape
        inside = coupling(high, 1, high.frequency, high.pick * spectrum[high.frequency]).reshape(
            2, 2, b // 2, d
        )
        rows = top.reshape(2, b // 2, c, d)
        middle = np.einsum("pqid,psqd,sqjd->ijd", rows, inside, rows, optimize=True)[None]
        into = [leaf[:, :, : self.columns], *inner]
        out = [leaf[:, :, : self.rows], *inner]
        factors = (*into, middle, *(w.swapaxes(1, 2) for w in reversed(out)))
        return Draft(factors, self._order(self.inputs), inverse(self._order(self.outputs)))

    def _order(self, used: int) -> Index:
        """Which input every column of the first factor reads; or which output every row of the last is."""
        order = digit_reversal((self.plan.leaf, *self.plan.radices)).reshape(self.above, self.plan.leaf)
        order = order[:, : -(-used // self.above)]
        return completed(np.where(order < used, order, -1).reshape(-1))


@lru_cache(maxsize=256)
def real_embedding(inputs: int, outputs: int, period: int | None = None) -> RealEmbedding:
    """The embedding of fewest numbers; that of the kernel's period unless another halves them."""
    sizes = smooth_sizes(inputs + outputs - 1)
    best = min((e for size in sizes for e in _candidates(size, inputs, outputs)), key=lambda e: e.cost)
    if period is None:
        return best
    own = min(_candidates(period, inputs, outputs), key=lambda e: e.cost)
    return best if 2 * best.cost[0] <= own.cost[0] else own


def _candidates(size: int, inputs: int, outputs: int) -> Iterator[RealEmbedding]:
    for leaf in divisors(size):
        radices = radices_of(size // leaf) if leaf < size else ()
        for last in sorted(set(radices)) or [0]:
            inner = list(radices)
            if last:
                inner.remove(last)
            yield RealEmbedding(Plan(leaf, (*inner, *([last] if last else []))), inputs, outputs)
