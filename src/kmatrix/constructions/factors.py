"""Products of radix-2 butterfly factors as plain numbers: the material every construction is made of.

A factor of block size ``k`` on ``N`` points is an array of shape ``(N/k, 2, 2, k/2)``, its stride is
``k/2``; lists are in order of application. Class B has strides 1, 2, ..., N/2, class B* has strides N/2,
..., 2, 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import bit_reversal
from kmatrix.constructions._inputs import Array


def strides(size: int, *, increasing: bool) -> tuple[int, ...]:
    """Strides of a butterfly of ``size`` points in order of application: those of class B, or of B*."""
    growing = tuple(1 << i for i in range(size.bit_length() - 1))
    return growing if increasing else growing[::-1]


@dataclass(frozen=True, eq=False)
class ButterflyFactors:
    """A product of radix-2 butterfly factors on ``size`` points.

    Attributes:
        size: the number of points N, a power of two of at least 2.
        twiddles: arrays ``(N/k, 2, 2, k/2)`` in order of application;
            ``y[A, r, D] = sum_c w[A, r, c, D] x[A, c, D]``.
    """

    size: int
    twiddles: tuple[Array, ...]

    def __post_init__(self) -> None:
        if self.size < 2 or self.size & (self.size - 1):
            way_out = "pad to a power of two"
            raise ArgumentError(
                complaint("ButterflyFactors", "size", self.size, "not a power of two of at least 2", way_out)
            )
        for w in self.twiddles:
            if w.ndim != 4 or w.shape[1:3] != (2, 2) or 2 * w.shape[0] * w.shape[3] != self.size:
                reason = f"not a factor (N/k, 2, 2, k/2) of N={self.size}"
                raise ArgumentError(complaint("ButterflyFactors", "twiddles", w.shape, reason, "reshape it"))

    @classmethod
    def identity(cls, size: int, *, increasing: bool) -> ButterflyFactors:
        """The identity as a member of B (strides growing) or of B*."""
        eye = np.eye(2)[None, :, :, None]
        return cls(
            size,
            tuple(np.tile(eye, (size // (2 * d), 1, 1, d)) for d in strides(size, increasing=increasing)),
        )

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(w.shape[3] for w in self.twiddles)

    def belongs_to(self, *, increasing: bool) -> bool:
        """Whether the strides are those of class B (increasing) or of B*; on two points they are both."""
        return self.strides == strides(self.size, increasing=increasing)

    def apply(self, x: Array) -> Array:
        """Multiply ``x`` of shape ``(size,)`` or ``(size, k)``."""
        shape = x.shape
        for w in self.twiddles:
            grid = x.reshape(w.shape[0], 1, 2, w.shape[3], -1)
            x = (w[..., None] * grid).sum(axis=2)
        return x.reshape(shape)

    def dense(self) -> Array:
        """The product as a matrix."""
        return self.apply(np.eye(self.size))

    def then(self, following: ButterflyFactors) -> ButterflyFactors:
        """This product first, ``following`` after it."""
        return ButterflyFactors(self.size, self.twiddles + following.twiddles)

    def scaled(self, left: Array | None = None, right: Array | None = None) -> ButterflyFactors:
        """``diag(left) M diag(right)``, folded into the last and the first factor (Lemma H.1)."""
        twiddles = list(self.twiddles)
        if left is not None:
            w = twiddles[-1]
            twiddles[-1] = w * left.reshape(w.shape[0], 2, 1, w.shape[3])
        if right is not None:
            w = twiddles[0]
            twiddles[0] = w * right.reshape(w.shape[0], 1, 2, w.shape[3])
        return ButterflyFactors(self.size, tuple(twiddles))

    def transpose(self) -> ButterflyFactors:
        """The transpose: a member of B becomes one of B* and the other way round."""
        return ButterflyFactors(self.size, tuple(w.swapaxes(1, 2) for w in reversed(self.twiddles)))

    def adjoint(self) -> ButterflyFactors:
        """The conjugate transpose: a member of B becomes one of B* and the other way round."""
        return ButterflyFactors(self.size, tuple(w.conj().swapaxes(1, 2) for w in reversed(self.twiddles)))

    def inverse(self) -> ButterflyFactors:
        """The inverse, factor by factor (Lemma H.6): B and B* change places."""
        return ButterflyFactors(self.size, tuple(_inverse_factor(w) for w in reversed(self.twiddles)))

    def bit_reversed(self) -> ButterflyFactors:
        """``P M P`` with the bit reversal P (Lemma G.5): stride d becomes N/(2d), B and B* change places."""
        return ButterflyFactors(
            self.size,
            tuple(
                w.transpose(3, 1, 2, 0)[bit_reversal(w.shape[3])][..., bit_reversal(w.shape[0])]
                for w in self.twiddles
            ),
        )

    def repeated_inside(self, n: int) -> ButterflyFactors:
        """``M (x) I_n``: every stride grows by the factor ``n``."""
        return ButterflyFactors(self.size * n, tuple(np.repeat(w, n, axis=3) for w in self.twiddles))


def _inverse_factor(w: Array) -> Array:
    det = w[:, 0, 0] * w[:, 1, 1] - w[:, 0, 1] * w[:, 1, 0]
    # |det| is the product of the two singular values and the norm holds their squares: this refuses cond >
    # 1/eps.
    if (np.abs(det) <= np.finfo(np.float64).eps * (np.abs(w) ** 2).sum(axis=(1, 2))).any():
        reason = "a factor has a singular 2 x 2 block"
        way_out = "only products of invertible butterflies have an inverse of the same form"
        raise ArgumentError(
            complaint("inverse", "matrix", f"N={w.shape[0] * w.shape[3] * 2}", reason, way_out)
        )
    adjugate = np.empty_like(w)
    adjugate[:, 0, 0], adjugate[:, 1, 1] = w[:, 1, 1], w[:, 0, 0]
    adjugate[:, 0, 1], adjugate[:, 1, 0] = -w[:, 0, 1], -w[:, 1, 0]
    result: Array = adjugate / det[:, None, None]
    return result


def direct_sum(parts: Sequence[ButterflyFactors], inner: int | None = None) -> ButterflyFactors:
    """Let ``parts`` of equal size and strides act side by side, without factors that mix them.

    Points are indexed ``(outer, part, inner)``, the last fastest: with ``inner`` the whole size (the
    default) this is the block-diagonal matrix; a smaller ``inner`` puts the first ``inner`` points of all
    parts next to each other, which is what keeps the corners of expanded matrices together.
    """
    size = parts[0].size
    inner = inner or size
    joined = []
    for group in zip(*(part.twiddles for part in parts), strict=True):
        a, _, _, d = group[0].shape
        if 2 * d <= inner:
            outer = size // inner
            stacked = np.stack([w.reshape(outer, a // outer, 2, 2, d) for w in group], axis=1)
            joined.append(stacked.reshape(-1, 2, 2, d))
        else:
            stacked = np.stack([w.reshape(a, 2, 2, d // inner, inner) for w in group], axis=4)
            joined.append(stacked.reshape(a, 2, 2, -1))
    return ButterflyFactors(size * len(parts), tuple(joined))
