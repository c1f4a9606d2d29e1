"""Real parts of complex matrices: how real transforms are reached through complex structures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix._checks import COMPLEX_OF, REAL_OF
from kmatrix._errors import DtypeError, complaint
from kmatrix.structures.base import Structure, StructuredMatrix


@dataclass(frozen=True)
class RealPart(Structure):
    """Real matrices ``Re(A)``, with ``A`` a complex member of another structure.

    The DCT, the DST and the Hartley transform are real parts of small complex structures. The matrix is
    real, its numbers are not: each complex number counts as two, and each complex operation as four.
    Numbers that are real in the complex matrix too (angles, logits) are counted as if they were not.

    Args:
        of: structure of the complex matrix.

    Raises:
        DtypeError: if the dtype is not float32 or float64.

    Example:
        >>> from kmatrix.structures import Butterfly, RealPart
        >>> A = RealPart(Butterfly()).random(8, 8)
        >>> A.dtype, A.of.dtype, A.num_params
        (torch.float32, torch.complex64, 96)

    Reference: arXiv 2012.14966, lemmas J.3 and J.4.
    """

    of: Structure

    def check(self, m: int, n: int) -> None:
        self.of.check(m, n)

    def num_params(self, m: int, n: int) -> int:
        return 2 * self.of.num_params(m, n)

    def flops(self, m: int, n: int) -> int:
        return 4 * self.of.flops(m, n)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> RealPartMatrix:
        dtype = self._admit(m, n, dtype)
        if dtype not in COMPLEX_OF:
            reason = "no complex numbers have parts of this type" if not dtype.is_complex else "not real"
            raise DtypeError(complaint("RealPart", "dtype", dtype, reason, "use float32 or float64"))
        return RealPartMatrix(self.of.empty(m, n, dtype=COMPLEX_OF[dtype], device=device))


class RealPartMatrix(StructuredMatrix):
    """The real part of ``of``, sharing its numbers."""

    def __init__(self, of: StructuredMatrix) -> None:
        if not of.dtype.is_complex:
            way_out = "use the matrix as it is"
            raise DtypeError(complaint("RealPart", "dtype", of.dtype, "the matrix is real already", way_out))
        super().__init__(RealPart(of.structure), of.shape)
        self.of = of

    def _matmul(self, x: Tensor) -> Tensor:
        return self.of(x.to(self.of.dtype)).real

    def _rmatmul(self, x: Tensor) -> Tensor:
        return self.of.rforward(x.to(self.of.dtype)).real

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Redraw the complex matrix, as its structure recommends."""
        self.of.reset_parameters(generator)

    @property
    def dtype(self) -> torch.dtype:
        return REAL_OF[self.of.dtype]

    @property
    def device(self) -> torch.device:
        return self.of.device
