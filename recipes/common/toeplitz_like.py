"""Toeplitz-like matrices: a family of its own, written against the public abstract classes of the library."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kmatrix as km

from .errors import complaint

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


@dataclass(frozen=True)
class ToeplitzLike(km.Structure):
    """Square matrices of displacement rank ``r``: sums of ``r`` products of a circulant and a skew-circulant.

    ``A = sum_i C(g_i) S(h_i)``, with ``C(g)[p, q] = g[(p - q) mod n]`` and ``S(h)`` the same but for the sign of
    the entries above the diagonal. All Toeplitz matrices are members for ``r = 2``. ``2 n r`` numbers; applied by
    FFTs of ``n`` points, any size. An ``m x n`` matrix has the first ``m`` rows of ``ceil(m / n)`` square ones,
    stacked. Operations are counted with ``5 n log2 n`` for a complex FFT and half for a real one; transforms of the
    numbers are not counted, they are done once for all the vectors of a call.

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
        _check_whole("rank", self.rank)

    def check(self, m: int, n: int) -> None:
        _check_whole("m", m)
        _check_whole("n", n)

    def num_params(self, m: int, n: int) -> int:
        return 2 * n * self.rank * _stacks(m, n)

    def flops(self, m: int, n: int) -> int:
        fft = math.ceil(5 * n * math.log2(n))
        half, stacks = n // 2 + 1, _stacks(m, n)
        # Into the frequencies of S once; for each product out of them and into those of C; out of C for each stack.
        into = 2 * n + fft
        each = fft + 2 * n + fft // 2 + 6 * n + 8 * half
        return into + stacks * (self.rank * each + 2 * n * self.rank + fft // 2)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ToeplitzLikeMatrix:
        self.check(m, n)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in _COMPLEX:
            reason, way_out = "computed by real FFTs", "use float32 or float64"
            raise km.DtypeError(complaint("ToeplitzLike", "dtype", dtype, reason, way_out))
        return ToeplitzLikeMatrix(self, (m, n), dtype=dtype, device=device)


class ToeplitzLikeMatrix(km.StructuredMatrix):
    """A Toeplitz-like matrix.

    ``numbers (2, stacks, r, n)`` are the first columns of the circulants, then of the skew-circulants.
    """

    numbers: nn.Parameter

    def __init__(
        self,
        structure: ToeplitzLike,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape)
        size = (2, _stacks(*shape), structure.rank, shape[1])
        self.numbers = nn.Parameter(torch.empty(size, dtype=dtype, device=device))

    def spectra(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that a product needs and that does not depend on the vectors: half turns, and both transforms."""
        g, h = self.numbers
        turn = _half_turns(self.shape[1], h)
        return turn, torch.fft.rfft(g), torch.fft.fft(h * turn)

    def multiply(self, x: Tensor, turn: Tensor, circulant: Tensor, skew: Tensor) -> Tensor:
        """The product along the last axis, ``(*, n) -> (*, m)``, given what ``spectra`` gave."""
        m, n = self.shape
        # Skew-circular convolutions are circular ones of what is turned by half turns over n.
        between = torch.fft.ifft(torch.fft.fft(x * turn)[..., None, None, :] * skew)
        middle = torch.fft.rfft((between * turn.conj()).real)
        y: Tensor = torch.fft.irfft((middle * circulant).sum(-2), n).flatten(-2)[..., :m]
        return y

    def _matmul(self, x: Tensor) -> Tensor:
        if x.numel() == 0:  # which FFTs refuse
            return self._nothing(x, self.shape[0])
        return self.multiply(x.to(self.dtype), *self.spectra())

    def _rmatmul(self, x: Tensor) -> Tensor:
        m, n = self.shape
        if x.numel() == 0:
            return self._nothing(x, n)
        turn, circulant, skew = self.spectra()
        stacks = circulant.shape[0]
        x = F.pad(x.to(self.dtype), (0, stacks * n - m)).unflatten(-1, (stacks, 1, n))
        # A transposed circulant has the conjugate spectrum; a skew-circulant has it among turns the other way.
        between = torch.fft.irfft(torch.fft.rfft(x) * circulant.conj(), n)
        back = torch.fft.ifft(torch.fft.fft(between * turn) * skew.conj()) * turn.conj()
        return back.real.sum((-3, -2))

    def _nothing(self, x: Tensor, size: int) -> Tensor:
        """The products of no vectors, which still depend on them and on the numbers."""
        y: Tensor = x.to(self.dtype).sum(-1, keepdim=True) * self.numbers.sum()
        return y.expand(*x.shape[:-1], size)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Independent normal numbers, such that entries of the matrix have variance ``1 / n``."""
        rank, n = self.numbers.shape[2:]
        with torch.no_grad():
            self.numbers.normal_(0, n**-0.5 * rank**-0.25, generator=generator)

    @property
    def dtype(self) -> torch.dtype:
        return self.numbers.dtype

    @property
    def device(self) -> torch.device:
        return self.numbers.device


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        reason, way_out = "not a whole number", "use 1, 2, ..."
        raise km.DtypeError(complaint("ToeplitzLike", name, value, reason, way_out))
    if value < 1:
        reason, way_out = "not positive", "use 1, 2, ..."
        raise km.ArgumentError(complaint("ToeplitzLike", name, value, reason, way_out))


def _stacks(m: int, n: int) -> int:
    return -(-m // n)


def _half_turns(n: int, like: Tensor) -> Tensor:
    """``exp(i pi k / n)``, rounded once."""
    angle = torch.arange(n, dtype=torch.float64, device=like.device) * (math.pi / n)
    return torch.polar(torch.ones_like(angle), angle).to(_COMPLEX[like.dtype])
