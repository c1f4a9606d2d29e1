"""Toeplitz-like matrices: a family of its own, written against the public abstract classes of the library."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import kmatrix as km

from ..common.errors import complaint

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


@dataclass(frozen=True)
class ToeplitzLike(km.Structure):
    """Square matrices of displacement rank ``2 r``: sums of ``r`` products of a circulant and a skew-circulant.

    ``A = sum_i C(g_i) S(h_i)``, with ``C(g)[p, q] = g[(p - q) mod n]`` and ``S(h)`` the same but for the sign of
    the entries above the diagonal. All Toeplitz matrices are members for ``r = 2``. ``2 n r`` numbers; applied by
    FFTs of ``n`` points, any size. Operations are counted with ``5 n log2 n`` for a complex FFT and half for a real
    one; transforms of the numbers are not counted, they are done once for all the vectors of a call.

    Args:
        rank: how many products.

    Example:
        >>> ToeplitzLike(4).num_params(1024, 1024)
        8192

    Reference: Sindhwani, Sainath, Kumar, "Structured transforms for small-footprint deep learning", 2015.
    """

    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rank, int) or self.rank < 1:
            reason, way_out = "not a positive whole number", "use 1, 2, ..."
            raise km.ArgumentError(complaint("ToeplitzLike", "rank", self.rank, reason, way_out))

    def check(self, m: int, n: int) -> None:
        if m != n:
            reason, way_out = "circulant matrices are square", "use a square shape"
            raise km.ArgumentError(complaint("ToeplitzLike", "(m, n)", (m, n), reason, way_out))

    def num_params(self, m: int, n: int) -> int:
        return 2 * n * self.rank

    def flops(self, m: int, n: int) -> int:
        fft = math.ceil(5 * n * math.log2(n))
        half = n // 2 + 1
        # Into the frequencies of S, out of them and into those of C for each product, and out of C once.
        turns = 2 * n * (1 + 2 * self.rank)
        return fft * (1 + self.rank) + (fft // 2) * (self.rank + 1) + turns + self.rank * (6 * n + 8 * half)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ToeplitzLikeMatrix:
        dtype = self._admit(m, n, dtype)
        if dtype not in _COMPLEX:
            reason, way_out = "computed by real FFTs", "use float32 or float64"
            raise km.DtypeError(complaint("ToeplitzLike", "dtype", dtype, reason, way_out))
        return ToeplitzLikeMatrix(self, n, dtype=dtype, device=device)


class ToeplitzLikeMatrix(km.StructuredMatrix):
    """A Toeplitz-like matrix; ``numbers (2, r, n)`` are the first columns of the circulants, then of the others."""

    numbers: nn.Parameter

    def __init__(
        self,
        structure: ToeplitzLike,
        n: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, (n, n))
        self.numbers = nn.Parameter(torch.empty(2, structure.rank, n, dtype=dtype, device=device))

    def _matmul(self, x: Tensor) -> Tensor:
        g, h = self.numbers
        n = self.shape[1]
        if x.numel() == 0:  # which FFTs refuse
            return x * self.numbers.sum()
        x = x.to(self.dtype)
        between = _skewed(x.unsqueeze(-2), h, n)
        y: Tensor = torch.fft.irfft((torch.fft.rfft(between) * torch.fft.rfft(g)).sum(-2), n)
        return y

    def _rmatmul(self, x: Tensor) -> Tensor:
        g, h = self.numbers
        n = self.shape[1]
        # The first columns of the transposes: reversed, and for the skew-circulants with the sign of what wrapped.
        if x.numel() == 0:
            return x * self.numbers.sum()
        x = x.to(self.dtype)
        g, h = torch.roll(g.flip(-1), 1, -1), -torch.roll(h.flip(-1), 1, -1)
        h = torch.cat([-h[..., :1], h[..., 1:]], -1)
        between = torch.fft.irfft(torch.fft.rfft(x.unsqueeze(-2)) * torch.fft.rfft(g), n)
        return _skewed(between, h, n).sum(-2)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Independent normal numbers, such that entries of the matrix have variance ``1 / n``."""
        n, rank = self.shape[1], self.numbers.shape[1]
        with torch.no_grad():
            self.numbers.normal_(0, n**-0.5 * rank**-0.25, generator=generator)

    @property
    def dtype(self) -> torch.dtype:
        return self.numbers.dtype

    @property
    def device(self) -> torch.device:
        return self.numbers.device


def _skewed(x: Tensor, h: Tensor, n: int) -> Tensor:
    """Skew-circular convolution along the last axis: a circular one of what is turned by half turns over n."""
    angle = torch.arange(n, dtype=torch.float64, device=x.device) * (math.pi / n)
    turn = torch.polar(torch.ones_like(angle), angle).to(_COMPLEX[x.dtype])
    spectrum = torch.fft.fft(x * turn) * torch.fft.fft(h * turn)
    y: Tensor = (torch.fft.ifft(spectrum) * turn.conj()).real
    return y
