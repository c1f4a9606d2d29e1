"""Circulant matrices and grids of circulant blocks, applied by FFT."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.base import Structure, fill_normal
from kmatrix.structures.spectral import (
    convolve,
    fft_flops,
    from_frequency,
    result_dtype,
    reverse_cyclic,
    to_frequency,
    work_dtype,
)
from kmatrix.structures.tied import NumbersMatrix, output_scale


@dataclass(frozen=True)
class Circulant(Structure):
    """Square matrices of circular convolutions, ``A[i, j] = c[(i - j) mod n]``, given by their first column.

    Any size, without padding. Operations are those of a real matrix: two real FFTs (``2.5 n log2 n`` each;
    sizes with a prime factor over 11 by Bluestein's rule) and ``n/2 + 1`` complex products of 6. The
    transform of the numbers is not counted: it is done once for all the vectors of a call. Half precisions
    are computed in float32.

    Raises:
        ArgumentError: if the shape is not square.

    Example:
        >>> from kmatrix.structures import Circulant
        >>> Circulant().num_params(1000, 1000)
        1000

    Reference: arXiv 2012.14966, lemma J.5.
    """

    def check(self, m: int, n: int) -> None:
        if m != n:
            way_out = "use BlockCirculant(block=k) or Toeplitz() for other shapes"
            raise ArgumentError(
                complaint("Circulant", "(m, n)", (m, n), "circulant matrices are square", way_out)
            )

    def num_params(self, m: int, n: int) -> int:
        return n

    def flops(self, m: int, n: int) -> int:
        return 2 * fft_flops(n) + 6 * (n // 2 + 1)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> CirculantMatrix:
        return CirculantMatrix(self, (m, n), (n,), dtype=self._admit(m, n, dtype), device=device)


class CirculantMatrix(NumbersMatrix):
    """A circulant matrix; ``numbers`` is its first column."""

    def _matmul(self, x: Tensor) -> Tensor:
        return convolve(x, self.numbers, self.shape[1])

    def _rmatmul(self, x: Tensor) -> Tensor:
        return convolve(x, reverse_cyclic(self.numbers), self.shape[1])

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Independent normal numbers of variance ``1/n``."""
        fill_normal(self.stored, output_scale(*self.shape), self._is_complex, generator)


@dataclass(frozen=True)
class BlockCirculant(Structure):
    """A grid of ``k x k`` circulant blocks, ``k`` times fewer numbers than dense.

    Sides that are not multiples of ``k`` are padded to the next one, which the counts show. Operations are
    those of a real matrix: one real FFT of ``k`` points per block row and block column (``2.5 k log2 k``
    each) and, per block, ``k/2 + 1`` complex products and sums of 8. The transform of the numbers is not
    counted: it is done once for all the vectors of a call. Half precisions are computed in float32.

    Args:
        block: side ``k`` of the blocks.

    Raises:
        ArgumentError: if the block is not a positive whole number.

    Example:
        >>> from kmatrix.structures import BlockCirculant
        >>> BlockCirculant(block=8).num_params(768, 1000)
        96000

    Reference: CirCNN; the block form of C-LSTM and C3A.
    """

    block: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("BlockCirculant", "block", self.block)

    def check(self, m: int, n: int) -> None:
        """Every shape has members."""

    def grid(self, m: int, n: int) -> tuple[int, int]:
        """How many block rows and block columns."""
        return -(-m // self.block), -(-n // self.block)

    def num_params(self, m: int, n: int) -> int:
        p, q = self.grid(m, n)
        return p * q * self.block

    def flops(self, m: int, n: int) -> int:
        p, q = self.grid(m, n)
        return (p + q) * fft_flops(self.block) + p * q * 8 * (self.block // 2 + 1)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> BlockCirculantMatrix:
        dtype = self._admit(m, n, dtype)
        size = (*self.grid(m, n), self.block)
        return BlockCirculantMatrix(self, (m, n), size, dtype=dtype, device=device)


class BlockCirculantMatrix(NumbersMatrix):
    """A grid of circulant blocks; ``numbers[p, q]`` is the first column of block ``(p, q)``."""

    def _matmul(self, x: Tensor) -> Tensor:
        return _multiply(x, self.numbers, self.shape[0])

    def _rmatmul(self, x: Tensor) -> Tensor:
        return _multiply(x, reverse_cyclic(self.numbers).transpose(0, 1), self.shape[1])

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Independent normal numbers, entries of the spectral scale of a dense matrix."""
        fill_normal(self.stored, output_scale(*self.shape), self._is_complex, generator)


def _multiply(x: Tensor, kernels: Tensor, rows: int) -> Tensor:
    """Multiply the last axis, padded, by the grid of circulants ``kernels (p, q, k)``; keep ``rows`` outputs."""
    p, q, k = kernels.shape
    dtype = work_dtype(x, kernels)
    padded = nn.functional.pad(x.to(dtype), (0, q * k - x.shape[-1]))
    blocks = to_frequency(padded.reshape(*x.shape[:-1], q, k), k)
    spectrum = torch.einsum("pqf,...qf->...pf", to_frequency(kernels.to(dtype), k), blocks)
    y = from_frequency(spectrum, k, dtype).reshape(*x.shape[:-1], p * k)
    return y[..., :rows].to(result_dtype(x, kernels))
