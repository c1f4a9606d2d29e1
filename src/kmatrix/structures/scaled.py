"""Multiples of structured matrices by a fixed number."""

from __future__ import annotations

import cmath
from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.base import Structure, StructuredMatrix


@dataclass(frozen=True)
class Scaled(Structure):
    """Members of a structure times one fixed number, which is not trained.

    Args:
        of: structure of the matrix that is multiplied.
        scalar: the number; complex only for complex matrices.

    Raises:
        ArgumentError: if the scalar is not finite.

    Example:
        >>> import kmatrix as km
        >>> (0.5 * km.Butterfly().random(8, 8)).structure
        Scaled(of=Butterfly(radices=None, ranks=1), scalar=0.5)
    """

    of: Structure
    scalar: complex = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not cmath.isfinite(self.scalar):
            raise ArgumentError(complaint("c * A", "c", self.scalar, "not finite", "use a finite number"))

    def check(self, m: int, n: int) -> None:
        self.of.check(m, n)

    def num_params(self, m: int, n: int) -> int:
        return self.of.num_params(m, n)

    def flops(self, m: int, n: int) -> int:
        return self.of.flops(m, n) + m

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StructuredMatrix:
        return ScaledMatrix(self.of.empty(m, n, dtype=dtype, device=device), self.scalar)


class ScaledMatrix(StructuredMatrix):
    """``scalar * base``, sharing the numbers of ``base``."""

    structure: Scaled

    def __init__(self, base: StructuredMatrix, scalar: complex) -> None:
        number = complex(scalar)
        if number.imag and not base.dtype.is_complex:
            way_out = "use a complex matrix or a real multiple"
            raise ArgumentError(complaint("c * A", "c", scalar, "complex multiple of a real matrix", way_out))
        super().__init__(Scaled(base.structure, number if number.imag else number.real), base.shape)
        self.base = base

    def _matmul(self, x: Tensor) -> Tensor:
        return self.base._matmul(x) * self.structure.scalar

    def _rmatmul(self, x: Tensor) -> Tensor:
        return self.base._rmatmul(x) * self.structure.scalar

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self.base.reset_parameters(generator)

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device


def scaled(matrix: StructuredMatrix, scalar: complex) -> StructuredMatrix:
    """The multiple ``scalar * matrix``; multiples of multiples are multiplied out."""
    if isinstance(matrix, ScaledMatrix):
        return ScaledMatrix(matrix.base, matrix.structure.scalar * scalar)
    return ScaledMatrix(matrix, scalar)
