"""Toeplitz and Hankel matrices: constant diagonals or antidiagonals, applied by one FFT convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix.structures.base import Structure, fill_normal
from kmatrix.structures.spectral import convolve, fft_flops, good_size
from kmatrix.structures.tied import NumbersMatrix, output_scale


class _ByConvolution(Structure):
    """What the two families share: ``m + n - 1`` numbers, and the cost of one convolution."""

    def check(self, m: int, n: int) -> None:
        """Every shape has members."""

    def num_params(self, m: int, n: int) -> int:
        return m + n - 1

    def flops(self, m: int, n: int) -> int:
        size = good_size(m + n - 1)
        return 2 * fft_flops(size) + 6 * (size // 2 + 1)


@dataclass(frozen=True)
class Toeplitz(_ByConvolution):
    """Matrices with constant diagonals, ``A[i, j] = t[i - j]``, given by ``m + n - 1`` numbers.

    Applied by an FFT convolution of a good size of at least ``m + n - 1``. Operations are those of a real
    matrix: two real FFTs (``2.5 N log2 N`` each) and ``N/2 + 1`` complex products of 6; a complex matrix
    needs fewer in its own field. The transform of the numbers is not counted: it is done once for all the
    vectors of a call. Half precisions are computed in float32.

    Example:
        >>> from kmatrix.structures import Toeplitz
        >>> Toeplitz().num_params(300, 500)
        799
        >>> Toeplitz().random(300, 500).shape
        (300, 500)

    Reference: the circulant embedding of arXiv 2012.14966, lemma J.6.
    """

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ToeplitzMatrix:
        return ToeplitzMatrix(self, (m, n), dtype=self._admit(m, n, dtype), device=device)


@dataclass(frozen=True)
class Hankel(_ByConvolution):
    """Matrices with constant antidiagonals, ``A[i, j] = h[i + j]``, given by ``m + n - 1`` numbers.

    A Toeplitz matrix with its columns in reverse; counted and computed as ``Toeplitz`` is.

    Example:
        >>> from kmatrix.structures import Hankel
        >>> Hankel().random(3, 4).num_params
        6
    """

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> HankelMatrix:
        return HankelMatrix(self, (m, n), dtype=self._admit(m, n, dtype), device=device)


class ToeplitzMatrix(NumbersMatrix):
    """A Toeplitz matrix: ``A[i, j] = numbers[i - j + n - 1]``, top right corner first, bottom left last."""

    def __init__(
        self,
        structure: Structure,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        count = shape[0] + shape[1] - 1
        super().__init__(structure, shape, (count,), dtype=dtype, device=device)
        # Shorter than the full convolution on purpose: what wraps around lands before the outputs kept.
        self._size = good_size(count)

    def _matmul(self, x: Tensor) -> Tensor:
        m, n = self.shape
        return convolve(x, self.numbers, self._size)[..., n - 1 : n - 1 + m]

    def _rmatmul(self, x: Tensor) -> Tensor:
        m, n = self.shape
        return convolve(x, self.numbers.flip(-1), self._size)[..., m - 1 : m - 1 + n]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Independent normal diagonals, entries of the spectral scale of a dense matrix."""
        fill_normal(self.stored, output_scale(*self.shape), self._is_complex, generator)


class HankelMatrix(ToeplitzMatrix):
    """A Hankel matrix: ``A[i, j] = numbers[i + j]``."""

    def _matmul(self, x: Tensor) -> Tensor:
        m, n = self.shape
        return convolve(x.flip(-1), self.numbers, self._size)[..., n - 1 : n - 1 + m]

    def _rmatmul(self, x: Tensor) -> Tensor:
        m, n = self.shape
        return convolve(x.flip(-1), self.numbers, self._size)[..., m - 1 : m - 1 + n]
