"""What the matrices applied by FFT share: transform sizes, operation counts, convolution, cosine transform.

Half precisions are computed in float32 and rounded once at the end: torch has no half-precision FFT on the
CPU, and only powers of two on GPUs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kmatrix._checks import HALF_DTYPES
from kmatrix._permutations import prime_factors

LARGEST_FFT_RADIX = 11


def good_size(n: int) -> int:
    """The smallest size of at least ``n`` whose FFT is fast, real or complex (prime factors 2, 3 and 5)."""
    from scipy.fft import next_fast_len

    return int(next_fast_len(n, real=True))


def fft_flops(n: int, *, in_complex: bool = False) -> int:
    """Operations of an ``n``-point FFT, the rule used for every count.

    A complex FFT is ``(n/2) log2 n`` butterflies of one product and two sums: ``1.5 n log2 n`` complex
    operations, or ``5 n log2 n`` real ones. An FFT of real numbers is half of that, ``2.5 n log2 n`` real
    operations. A size with a prime factor over 11 is counted as Bluestein's algorithm: two FFTs of a good
    size of at least ``2n - 1``, the product between them and two chirps, all complex.

    Args:
        n: number of points.
        in_complex: count a complex FFT in complex operations instead of a real one in real operations.
    """
    if n > 1 and prime_factors(n)[-1] > LARGEST_FFT_RADIX:
        m = good_size(2 * n - 1)
        complex_operations = 2 * fft_flops(m, in_complex=True) + m + 2 * n
        if in_complex:
            return complex_operations
        return 2 * math.ceil(5 * m * math.log2(m)) + 6 * (m + 2 * n)
    return math.ceil((1.5 if in_complex else 2.5) * n * math.log2(n))


def work_dtype(*tensors: Tensor) -> torch.dtype:
    """The type to compute in: that of the tensors together, float32 for half precisions."""
    dtype = result_dtype(*tensors)
    return torch.float32 if dtype in HALF_DTYPES else dtype


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """The type of a product of the tensors."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def to_frequency(x: Tensor, size: int) -> Tensor:
    """FFT of the last axis padded to ``size``; of real numbers only the first half, which says it all."""
    if x.numel() == 0:
        return _of_no_vectors(x, size if x.is_complex() else size // 2 + 1).to(x.dtype.to_complex())
    spectrum: Tensor = torch.fft.fft(x, size) if x.is_complex() else torch.fft.rfft(x, size)
    return spectrum


def from_frequency(spectrum: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """What ``to_frequency`` transformed, of the given type."""
    if spectrum.numel() == 0:
        nothing = _of_no_vectors(spectrum, size)
        return nothing if dtype.is_complex else nothing.real
    x: Tensor = torch.fft.ifft(spectrum, size) if dtype.is_complex else torch.fft.irfft(spectrum, size)
    return x


def _of_no_vectors(x: Tensor, size: int) -> Tensor:
    """The result for an empty batch, which FFT libraries refuse; it stays connected to ``x`` for gradients."""
    return x.sum(-1, keepdim=True).expand(*x.shape[:-1], size)


def convolve(x: Tensor, kernel: Tensor, size: int) -> Tensor:
    """Circular convolution of ``size`` points along the last axis; shorter inputs are padded with zeros."""
    dtype = work_dtype(x, kernel)
    spectrum = to_frequency(x.to(dtype), size) * to_frequency(kernel.to(dtype), size)
    return from_frequency(spectrum, size, dtype).to(result_dtype(x, kernel))


def reverse_cyclic(kernel: Tensor) -> Tensor:
    """``kernel[-i mod n]`` along the last axis: the kernel of the transposed circulant."""
    return torch.roll(kernel.flip(-1), 1, -1)


def cosine(x: Tensor) -> Tensor:
    """Orthonormal DCT-II of the last axis of real numbers, by one real FFT of the even-odd-reversed order."""
    n = x.shape[-1]
    folded = torch.cat([x[..., 0::2], x[..., 1::2].flip(-1)], -1)
    turned = to_frequency(folded, n) * _quarter_turns(n, x)
    mirrored = -turned.imag[..., 1 : (n + 1) // 2].flip(-1)
    return torch.cat([turned.real, mirrored], -1) * _norms(n, x)


def inverse_cosine(y: Tensor) -> Tensor:
    """Inverse, and transpose, of ``cosine``."""
    n = y.shape[-1]
    scaled = y / _norms(n, y)
    mirrored = torch.cat([torch.zeros_like(y[..., :1]), scaled[..., 1:].flip(-1)], -1)
    half = n // 2 + 1
    turned = torch.complex(scaled[..., :half], -mirrored[..., :half])
    folded = from_frequency(turned * _quarter_turns(n, y).conj(), n, y.dtype)
    position = torch.arange(n, device=y.device)
    return folded[..., torch.where(position % 2 == 0, position // 2, n - 1 - position // 2)]


def _quarter_turns(n: int, like: Tensor) -> Tensor:
    """``exp(-i pi k / 2n)`` for the frequencies a real FFT gives, from angles in double precision."""
    angle = torch.arange(n // 2 + 1, dtype=torch.float64, device=like.device) * (-math.pi / (2 * n))
    return torch.complex(torch.cos(angle).to(like.dtype), torch.sin(angle).to(like.dtype))


def _norms(n: int, like: Tensor) -> Tensor:
    """Scale of each frequency that makes the cosine transform orthonormal."""
    first = torch.arange(n, device=like.device) == 0
    low, rest = torch.tensor([n**-0.5, (2 / n) ** 0.5], dtype=like.dtype, device=like.device)
    return torch.where(first, low, rest)
