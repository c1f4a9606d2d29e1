"""A chain in the making: weights in double precision between two permutations, and the little algebra on it.

The transforms are written here with plain arrays and become a ``ChainMatrix`` only at the end, in one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kmatrix._permutations import Index, inverse, prime_factors
from kmatrix.structures.chain import Chain, ChainMatrix, Factor, Permute, Stage, Tie

Array = npt.NDArray[Any]
Shape = tuple[int, int, int, int]


def unit_roots(numerator: npt.ArrayLike, denominator: int) -> Array:
    """``exp(-2 pi i numerator / denominator)`` to the last bit but one, from whole numbers of any size.

    The angle is reduced to an eighth of a turn in whole numbers, so no rounding of 2 pi is ever multiplied.
    """
    quarter, rest = np.divmod(4 * (np.asarray(numerator, dtype=np.int64) % denominator), denominator)
    flip = 2 * rest > denominator
    angle = np.where(flip, denominator - rest, rest) * (math.pi / 2 / denominator)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([1, -1j, -1, 1j])
    roots: Array = (np.where(flip, sin, cos) - 1j * np.where(flip, cos, sin)) * turn[quarter]
    return roots


def radices_of(n: int) -> tuple[int, ...]:
    """Radices of an ``n``-point butterfly, stride 1 first: all 4s, a 2 if one is left, the odd primes."""
    primes = prime_factors(n)
    twos = primes.count(2)
    return (4,) * (twos // 2) + (2,) * (twos % 2) + primes[twos:] or (1,)


def divisors(n: int) -> list[int]:
    """All divisors of ``n``, ascending."""
    found = [1]
    for p in prime_factors(n):
        found = sorted({*found, *(p * d for d in found)})
    return found


def blocks(count: int, weights: Array) -> Array:
    """The factor ``I_count (x) W``; a view if the blocks of ``W`` are one and the same."""
    a, b, c, d = weights.shape
    if weights.strides[0] == 0 or a == 1:
        return np.broadcast_to(weights[:1], (count * a, b, c, d))
    return np.tile(weights, (count, 1, 1, 1))


def mapped(function: Callable[[Array], Array], weights: Array) -> Array:
    """Apply a function to every block of a factor, once if they are one and the same."""
    return blocks(weights.shape[0], function(weights[:1])) if weights.strides[0] == 0 else function(weights)


def strided(weights: Array, count: int) -> Array:
    """The factor ``W (x) I_count``."""
    return mapped(lambda w: np.repeat(w, count, axis=3), weights)


def completed(index: Index) -> Index:
    """Send the positions marked -1 past the last index, in order: zero padding, or what is cropped."""
    full = index.copy()
    free = full < 0
    full[free] = np.arange(full.size - free.sum(), full.size)
    return full


@dataclass(frozen=True)
class Draft:
    """A chain of weights ``(a, b, c, d)`` in order of application, between two permutations ``y = x[index]``.

    Weights of stride 0 along ``a`` or ``d`` repeat and can be tied.
    """

    weights: tuple[Array, ...]
    before: Index | None = None
    after: Index | None = None

    @property
    def transposed(self) -> Draft:
        """The chain of the plain transpose."""
        return Draft(
            tuple(w.swapaxes(1, 2) for w in reversed(self.weights)),
            before=None if self.after is None else inverse(self.after),
            after=None if self.before is None else inverse(self.before),
        )

    @property
    def conjugated(self) -> Draft:
        """The chain of the complex conjugate."""
        return replace(self, weights=tuple(mapped(np.conj, w) for w in self.weights))

    def _reads(self) -> Index:
        """Which (padded) input every column of the first factor reads."""
        a, _, c, d = self.weights[0].shape
        return np.arange(a * c * d) if self.before is None else self.before

    def with_columns(self, scale: Array) -> Draft:
        """Fold ``diag(scale)``, applied first, into the first factor."""
        first = self.weights[0]
        a, _, c, d = first.shape
        spread = _spread(scale, a * c * d, self.before).reshape(a, 1, c, d)
        if (spread == spread[:1]).all():
            scaled = mapped(lambda w: w * spread[: w.shape[0]], first)
        else:
            scaled = first * spread
        return replace(self, weights=(scaled, *self.weights[1:]))

    def with_rows(self, scale: Array) -> Draft:
        """Fold ``diag(scale)``, applied last, into the last factor."""
        return self.transposed.with_columns(scale).transposed

    def reading(self, order: Index) -> Draft:
        """The chain that is given ``x`` and starts from ``x[order]``."""
        whole = _extended(order, math.prod(self.weights[0].shape) // self.weights[0].shape[1])
        return replace(self, before=whole if self.before is None else whole[self.before])

    def writing(self, order: Index) -> Draft:
        """The chain that gives ``y[order]``."""
        whole = _extended(order, math.prod(self.weights[-1].shape) // self.weights[-1].shape[2])
        return replace(self, after=whole if self.after is None else self.after[whole])

    def scaled(self, scale: float) -> Draft:
        """A positive multiple, spread evenly over the factors."""
        share = scale ** (1 / len(self.weights))
        return replace(self, weights=tuple(mapped(lambda w: w * share, w) for w in self.weights))

    def build(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str | None,
        *,
        tied: bool = False,
    ) -> ChainMatrix:
        """Make the matrix; ``tied`` keeps one of the blocks or diagonals that repeat within a factor."""
        stages: list[Stage] = []
        kept: list[torch.Tensor] = []
        for weights in self.weights:
            a, b, c, d = weights.shape
            tie = _tie(weights) if tied else ""
            stages.append(Factor(a, b, c, d, tie))
            block = weights[:1] if "a" in tie else weights
            block = block[..., :1] if "d" in tie else block
            kept.append(torch.from_numpy(np.array(block, order="C")).to(device=device, dtype=dtype))
        moves = [p for p in (self.before, self.after) if p is not None and not _is_identity(p)]
        if self.before is not None and not _is_identity(self.before):
            stages.insert(0, Permute(self.before.size))
        if self.after is not None and not _is_identity(self.after):
            stages.append(Permute(self.after.size))
        return ChainMatrix.from_weights(Chain(tuple(stages)), shape, kept, moves)


def beside(down: Draft, rows: int, along: Draft, cols: int) -> Draft:
    """The draft on flattened images of two square ones: one down the columns, one along the rows.

    Both keep the padding they have inside: it goes in before the first factor and comes out after the last.
    """
    first, last = down.weights[0].shape, along.weights[-1].shape
    into, out = first[0] * first[2] * first[3], last[0] * last[1] * last[3]
    factors = [blocks(into, w) for w in along.weights] + [strided(w, out) for w in down.weights]
    before = _crossed(down._reads(), rows, along._reads(), cols)
    after = _crossed(down.transposed._reads(), rows, along.transposed._reads(), cols)
    return Draft(tuple(factors), completed(before), inverse(completed(after)))


def _crossed(down: Index, rows: int, along: Index, cols: int) -> Index:
    """Which pixel every pair of positions reads, -1 for padding."""
    pixels = down[:, None] * cols + along
    return np.where((down[:, None] < rows) & (along < cols), pixels, -1).reshape(-1)


def _spread(scale: Array, size: int, index: Index | None) -> Array:
    """Where the entries of ``scale`` meet the first factor; positions that only hold padding get zero."""
    padded = np.zeros(size, dtype=scale.dtype)
    padded[: scale.size] = scale
    return padded if index is None else padded[index]


def _tie(weights: Array) -> Tie:
    a, d = (
        size > 1 and stride == 0
        for size, stride in zip(weights.shape[::3], weights.strides[::3], strict=True)
    )
    return "ad" if a and d else "a" if a else "d" if d else ""


def _extended(index: Index, size: int) -> Index:
    """The permutation of a padded vector that leaves the padding where it is."""
    return np.concatenate([index, np.arange(index.size, size)])


def _is_identity(index: Index) -> bool:
    return np.array_equal(index, np.arange(index.size))


def count(shapes: Sequence[Shape]) -> int:
    """How many numbers factors of these shapes hold."""
    return sum(math.prod(shape) for shape in shapes)


def realified(
    weights: Sequence[Array], shrinking: int, pick: Array, inputs: Sequence[complex] = (1, 1j)
) -> Draft:
    """Write a complex chain as a real one, every complex number a real pair.

    The pair sits beside the digit that a factor writes: behind it while strides shrink (the first
    ``shrinking`` factors), before it while they grow, so that every factor keeps the form ``(a, b, c, d)``.

    Args:
        weights: complex factors whose strides first shrink, then grow.
        shrinking: how many factors come before the one of stride 1 where the turn is.
        pick: ``(parts, rows)``; output ``(part, row)`` is ``Re(pick * y)``.
        inputs: what the real inputs stand for: ``(1, 1j)`` for pairs, ``(1,)`` for real numbers.
    """
    last = len(weights) - 1
    made = []
    for i, w in enumerate(weights):
        shared = i < last and w.strides[0] == 0
        w = w[:1] if shared else w  # noqa: PLW2901
        a, b, c, d = w.shape
        rows = pick.reshape(len(pick), a, b, d) if i == last else np.array([1, -1j]).reshape(2, 1, 1, 1)
        cols = np.asarray(inputs if i == 0 else (1, 1j))
        # axes: a, out part, b, in part, c, d
        full = np.real(
            rows.transpose(1, 0, 2, 3)[:, :, :, None, None, :] * w[:, None, :, None] * cols[:, None, None]
        )
        p, q = full.shape[1], full.shape[3]
        if i < shrinking:
            full = full.transpose(0, 2, 1, 3, 4, 5)
        elif i > shrinking:
            full = full.transpose(0, 1, 2, 4, 3, 5)
        block = full.reshape(a, p * b, q * c, d)
        made.append(blocks(weights[i].shape[0], block) if shared else block)
    return Draft(tuple(made))
