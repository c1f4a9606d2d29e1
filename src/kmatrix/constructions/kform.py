"""A K-matrix as plain numbers, halves B*, B, B*, B, ... in double precision; to and from modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kmatrix._checks import complex_of
from kmatrix._errors import ArgumentError, complaint
from kmatrix.constructions._inputs import Array, Like
from kmatrix.constructions.factors import ButterflyFactors, direct_sum
from kmatrix.structures import ChainMatrix, Kaleidoscope, StructuredMatrix
from kmatrix.structures.kaleidoscope import power_of_two


def padded_size(m: int, n: int) -> int:
    """Points of the smallest butterfly that holds an ``m x n`` matrix: a power of two of at least 2."""
    return max(2, power_of_two(max(m, n)))


@dataclass(frozen=True, eq=False)
class KForm:
    """The top-left ``m x n`` corner of a product of butterflies, by turns of B* and B, first applied first.

    Attributes:
        shape: ``(m, n)``.
        halves: an even number of butterflies of equal size, the first of class B*.
    """

    shape: tuple[int, int]
    halves: tuple[ButterflyFactors, ...]

    @classmethod
    def of(cls, shape: tuple[int, int], pieces: Sequence[ButterflyFactors]) -> KForm:
        """Arrange members of B and B*, first applied first, with identities where they do not alternate."""
        size = pieces[0].size
        halves: list[ButterflyFactors] = []
        for piece in pieces:
            if not piece.belongs_to(increasing=len(halves) % 2 == 1):
                halves.append(ButterflyFactors.identity(size, increasing=len(halves) % 2 == 1))
            halves.append(piece)
        if len(halves) % 2:
            halves.append(ButterflyFactors.identity(size, increasing=True))
        return cls(shape, tuple(halves))

    @property
    def size(self) -> int:
        return self.halves[0].size

    @property
    def width(self) -> int:
        return len(self.halves) // 2

    @property
    def expansion(self) -> int:
        return self.size // padded_size(*self.shape)

    @property
    def structure(self) -> Kaleidoscope:
        """The class (BB*)^w_e this form is written in."""
        # The smallest butterfly has two points, so a 1 x 1 matrix of expansion e is written on e points.
        expansion = self.size // power_of_two(max(self.shape)) if self.expansion > 1 else 1
        return Kaleidoscope(width=self.width, expansion=expansion)

    def dense(self) -> Array:
        """The corner as a matrix."""
        m, n = self.shape
        x = np.eye(self.size)[:, :n]
        for half in self.halves:
            x = half.apply(x)
        return x[:m]

    def scaled(self, left: Array | None = None, right: Array | None = None) -> KForm:
        """``diag(left) M diag(right)`` with diagonals of the full size (Lemma H.1)."""
        first = self.halves[0].scaled(right=right)
        halves = (first, *self.halves[1:])
        return KForm(self.shape, (*halves[:-1], halves[-1].scaled(left=left)))

    def adjoint(self) -> KForm:
        """The conjugate transpose: the same width and expansion."""
        return KForm(self.shape[::-1], tuple(half.adjoint() for half in reversed(self.halves)))

    def with_width(self, width: int) -> KForm:
        """The same matrix, written as a wider product by identities."""
        pair = tuple(ButterflyFactors.identity(self.size, increasing=up) for up in (False, True))
        return KForm(self.shape, self.halves + pair * (width - self.width))

    def with_size(self, size: int) -> KForm:
        """The same matrix as the corner of a larger product, block-diagonal with identities."""
        form = self
        while form.size < size:
            halves = []
            for up, half in zip((False, True) * form.width, form.halves, strict=True):
                both = direct_sum([half, ButterflyFactors.identity(form.size, increasing=up)])
                top = np.tile(np.eye(2)[None, :, :, None], (1, 1, 1, form.size))
                halves.append(with_outer(both, [top], increasing=up))
            form = KForm(self.shape, tuple(halves))
        return form

    def matrix(self, like: Like) -> ChainMatrix:
        """The module with these numbers; complex numbers turn a real type into the complex one."""
        twiddles = [w for half in self.halves for w in half.twiddles]
        is_complex = any(np.iscomplexobj(w) for w in twiddles)
        dtype = complex_of(like.dtype) if is_complex else like.dtype
        weights = [torch.as_tensor(np.array(w)).to(like.device, dtype) for w in twiddles]
        return ChainMatrix.from_weights(self.structure, self.shape, weights)


def with_outer(half: ButterflyFactors, outer: Sequence[Array], *, increasing: bool) -> ButterflyFactors:
    """Complete a half by its factors of largest stride, in order of application: last in B, first in B*."""
    outer_twiddles = tuple(outer)
    twiddles = half.twiddles + outer_twiddles if increasing else outer_twiddles + half.twiddles
    return ButterflyFactors(half.size, twiddles)


def from_matrix(where: str, name: str, matrix: StructuredMatrix) -> tuple[KForm, Like]:
    """Read the numbers of a K-matrix back, in double precision."""
    structure = getattr(matrix, "structure", None)
    if not isinstance(matrix, ChainMatrix) or not isinstance(structure, Kaleidoscope):
        got = structure if structure is not None else type(matrix).__name__
        way_out = "pass what the functions of kmatrix.constructions return, or a member of Kaleidoscope"
        raise ArgumentError(complaint(where, name, got, "not a K-matrix", way_out))
    wide = torch.complex128 if matrix.dtype.is_complex else torch.float64
    twiddles = [w.detach().to("cpu", wide).numpy() for w in matrix.weights]
    size = twiddles[0].shape[0] * twiddles[0].shape[3] * 2
    per_half = len(twiddles) // (2 * structure.width)
    halves = tuple(
        ButterflyFactors(size, tuple(twiddles[i : i + per_half])) for i in range(0, len(twiddles), per_half)
    )
    return KForm(matrix.shape, halves), Like(matrix.dtype, matrix.device)
