"""ACDC and AFDF: learned diagonals between a fixed cosine or Fourier transform and its inverse."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kmatrix._checks import check_size
from kmatrix._errors import DtypeError, complaint
from kmatrix.structures.base import Structure, fill_normal
from kmatrix.structures.spectral import (
    cosine,
    fft_flops,
    from_frequency,
    inverse_cosine,
    result_dtype,
    to_frequency,
    work_dtype,
)
from kmatrix.structures.tied import NumbersMatrix

# Near the identity, so that deep products neither vanish nor explode.
DIAGONAL_STD = 0.1


class _DiagonalLayers(Structure):
    """What the two families share: ``depth`` layers of two diagonals of the longer side."""

    depth: int

    def check(self, m: int, n: int) -> None:
        """Every shape has members."""

    def num_params(self, m: int, n: int) -> int:
        return 2 * self.depth * max(m, n)


@dataclass(frozen=True)
class ACDC(_DiagonalLayers):
    """Products of ``depth`` layers ``A C^-1 D C``: diagonals ``A, D``, orthonormal cosine transform ``C`` (DCT-II).

    Any size; a rectangular matrix is the corner of one with the longer side, which the counts show: ``2
    max(m, n)`` numbers per layer. Operations per layer: two real FFTs (``2.5 n log2 n`` each; sizes with a
    prime factor over 11 by Bluestein's rule), ``4 n`` for each to become a cosine transform, and the
    diagonals. Half precisions are computed in float32.

    Args:
        depth: how many layers.

    Example:
        >>> from kmatrix.structures import ACDC
        >>> ACDC(depth=2).num_params(1000, 1000)
        4000

    Reference: Moczulski et al., arXiv 1511.05946; as K-matrices: arXiv 2012.14966, lemma J.8.
    """

    depth: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("ACDC", "depth", self.depth)

    def flops(self, m: int, n: int) -> int:
        size = max(m, n)
        return self.depth * (2 * (fft_flops(size) + 4 * size) + 2 * size)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ACDCMatrix:
        dtype = self._admit(m, n, dtype)
        return ACDCMatrix(self, (m, n), (self.depth, 2, max(m, n)), dtype=dtype, device=device)


@dataclass(frozen=True)
class AFDF(_DiagonalLayers):
    """Products of ``depth`` layers ``A F^-1 D F``: complex diagonals ``A, D``, Fourier transform ``F``.

    A diagonal times a circulant matrix per layer; enough layers give any complex matrix. Sizes and counts
    are those of ``ACDC``, in complex numbers and operations (an FFT is ``1.5 n log2 n`` of them). For a
    real matrix use ``RealPart(AFDF())``, or ``ACDC``.

    Args:
        depth: how many layers.

    Raises:
        DtypeError: if the dtype is real.

    Example:
        >>> import torch
        >>> from kmatrix.structures import AFDF
        >>> AFDF().random(6, 6, dtype=torch.complex64).num_params
        12

    Reference: Moczulski et al., arXiv 1511.05946; as K-matrices: arXiv 2012.14966, lemma J.8.
    """

    depth: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("AFDF", "depth", self.depth)

    def flops(self, m: int, n: int) -> int:
        size = max(m, n)
        return self.depth * 2 * (fft_flops(size, in_complex=True) + size)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> AFDFMatrix:
        dtype = self._admit(m, n, dtype)
        if not dtype.is_complex:
            way_out = "pass dtype=torch.complex64, or use RealPart(AFDF()) or ACDC() for real matrices"
            raise DtypeError(complaint("AFDF", "dtype", dtype, "its members are complex", way_out))
        return AFDFMatrix(self, (m, n), (self.depth, 2, max(m, n)), dtype=dtype, device=device)


class _DiagonalLayersMatrix(NumbersMatrix):
    """Layers ``A T^-1 D T``; ``numbers (depth, 2, n)`` are the diagonals ``D, A`` of each, in that order."""

    @abstractmethod
    def _transform(self, x: Tensor) -> Tensor:
        """``T x``."""

    @abstractmethod
    def _inverse(self, x: Tensor) -> Tensor:
        """``T^-1 x``."""

    @abstractmethod
    def _transform_transposed(self, x: Tensor) -> Tensor:
        """``T^T x``."""

    @abstractmethod
    def _inverse_transposed(self, x: Tensor) -> Tensor:
        """``T^-T x``."""

    def _matmul(self, x: Tensor) -> Tensor:
        y, numbers = self._widened(x)
        for d, a in numbers:
            y = a * self._inverse(d * self._transform(y))
        return y[..., : self.shape[0]].to(result_dtype(x, self.numbers))

    def _rmatmul(self, x: Tensor) -> Tensor:
        y, numbers = self._widened(x)
        for d, a in numbers.flip(0):
            y = self._transform_transposed(d * self._inverse_transposed(a * y))
        return y[..., : self.shape[1]].to(result_dtype(x, self.numbers))

    def _widened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input padded to the longer side, and the numbers, both in the type to compute in."""
        dtype = work_dtype(x, self.numbers)
        return nn.functional.pad(x.to(dtype), (0, max(self.shape) - x.shape[-1])), self.numbers.to(dtype)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Diagonals ``N(1, 0.01)``: near the identity."""
        fill_normal(self.stored, DIAGONAL_STD, self._is_complex, generator, mean=1.0)


class ACDCMatrix(_DiagonalLayersMatrix):
    """A product of ACDC layers; the cosine transform is orthogonal, so its inverse is its transpose."""

    def _transform(self, x: Tensor) -> Tensor:
        return torch.complex(cosine(x.real), cosine(x.imag)) if x.is_complex() else cosine(x)

    def _inverse(self, x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.complex(inverse_cosine(x.real), inverse_cosine(x.imag))
        return inverse_cosine(x)

    _transform_transposed = _inverse
    _inverse_transposed = _transform


class AFDFMatrix(_DiagonalLayersMatrix):
    """A product of AFDF layers; the Fourier transform and its inverse are symmetric."""

    def _transform(self, x: Tensor) -> Tensor:
        return to_frequency(x, x.shape[-1])

    def _inverse(self, x: Tensor) -> Tensor:
        return from_frequency(x, x.shape[-1], x.dtype)

    _transform_transposed = _transform
    _inverse_transposed = _inverse
