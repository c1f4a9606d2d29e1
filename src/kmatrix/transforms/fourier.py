"""Exact Fourier matrices of any size as learnable chains: DFT, inverse, 2-D, and the real Hartley."""

from __future__ import annotations

import numpy as np
import torch

from kmatrix._checks import check_size
from kmatrix.structures import ChainMatrix
from kmatrix.transforms._butterfly import fourier
from kmatrix.transforms._draft import Draft, beside
from kmatrix.transforms._folded import folded
from kmatrix.transforms._requests import EXPONENT, INVERSE, Norm, check_norm, complex_dtype, real_dtype


def dft(
    n: int,
    *,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the discrete Fourier transform, ``F[k, j] = exp(-2 pi i j k / n)``, of any size.

    One digit reversal, then one factor per radix (4, 2, odd primes; stride 1 first): ``n (r1 + ... + rk)``
    complex numbers, ``2 n log2 n`` for powers of two. Tied, they are ``n (rk + r(k-1) / rk + ...)``, under
    ``16/3 n`` for powers of four. Where that halves the numbers (primes from about 70 on), a large prime p
    goes through the chirp rule: a convolution of at least ``2 p - 1`` points, of which only what is used is
    stored. With ``norm="ortho"`` the factors of sizes without chirp are unitary.

    Args:
        n: size.
        norm: ``"backward"`` leaves it as above, ``"ortho"`` divides by ``sqrt(n)``, ``"forward"`` by ``n``.
        tied: store the blocks that a factor repeats once.
        dtype: complex type; the one of torch's default precision if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n < 1`` or the norm is none of the three.
        DtypeError: if ``dtype`` is not complex.

    Example:
        >>> import numpy as np, torch
        >>> from kmatrix import transforms
        >>> F = transforms.dft(1000, dtype=torch.complex128)
        >>> x = np.random.default_rng(0).standard_normal(1000)
        >>> np.allclose(F @ x, np.fft.fft(x)), F.num_params
        (True, 21000)

    Reference: Cooley and Tukey, Math. Comp. 19 (1965) 297; arXiv 2012.14966, lemma J.1; for large primes
    Bluestein, IEEE Trans. Audio Electroacoust. 18 (1970) 451.
    """
    n = check_size("dft", "n", n)
    draft = _dft("dft", n, norm)
    return draft.build((n, n), complex_dtype("dft", dtype), device, tied=tied)


def idft(
    n: int,
    *,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the inverse discrete Fourier transform, ``A[j, k] = exp(2 pi i j k / n) / n``, of any size.

    The conjugate of ``dft``, with as many numbers; ``idft(n, norm=s) @ dft(n, norm=s)`` is the identity.

    Args:
        n: size.
        norm: ``"backward"`` divides by ``n``, ``"ortho"`` by ``sqrt(n)``, ``"forward"`` by nothing.
        tied: store the blocks that a factor repeats once.
        dtype: complex type; the one of torch's default precision if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n < 1`` or the norm is none of the three.
        DtypeError: if ``dtype`` is not complex.

    Example:
        >>> import numpy as np, torch
        >>> from kmatrix import transforms
        >>> A = transforms.idft(12, dtype=torch.complex128)
        >>> x = np.random.default_rng(0).standard_normal(12)
        >>> np.allclose(A @ np.fft.fft(x), x), A.num_params
        (True, 84)

    Reference: arXiv 2012.14966, lemma J.1.
    """
    n = check_size("idft", "n", n)
    draft = _dft("idft", n, INVERSE[check_norm("idft", norm)]).conjugated
    return draft.build((n, n), complex_dtype("idft", dtype), device, tied=tied)


def dft2(
    n1: int,
    n2: int,
    *,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the two-dimensional DFT of ``n1 x n2`` images flattened row by row, ``F_n1 (x) F_n2``.

    One butterfly of ``n1 n2`` points: the factors along the rows, then those along the columns with their
    strides times ``n2``, after one permutation. ``n1 n2 (r1 + ... + rk)`` numbers over the radices of both
    sizes, ``2 n log2 n`` for ``n = n1 n2`` a power of two.

    Args:
        n1: height of the images.
        n2: width of the images.
        norm: as for ``dft``, by the number of pixels.
        tied: store the blocks that a factor repeats once.
        dtype: complex type; the one of torch's default precision if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if a size is below 1 or the norm is none of the three.
        DtypeError: if ``dtype`` is not complex.

    Example:
        >>> import numpy as np, torch
        >>> from kmatrix import transforms
        >>> image = np.random.default_rng(0).standard_normal((8, 12))
        >>> spectrum = transforms.dft2(8, 12, dtype=torch.complex128) @ image.reshape(-1)
        >>> np.allclose(spectrum.reshape(8, 12), np.fft.fft2(image))
        True

    Reference: arXiv 2012.14966, lemma J.10.
    """
    n1, n2 = check_size("dft2", "n1", n1), check_size("dft2", "n2", n2)
    n = n1 * n2
    both = beside(_dft("dft2", n1, norm), n1, _dft("dft2", n2, norm), n2)
    return both.build((n, n), complex_dtype("dft2", dtype), device, tied=tied)


def hartley(
    n: int,
    *,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the Hartley transform, ``H[k, j] = cos(2 pi j k / n) + sin(2 pi j k / n)``, of any size.

    A real butterfly of tile rank 2 that computes the conjugate half of no spectrum: a leaf of ``r1`` points
    and a factor of ``2 r n`` numbers for every other radix, ``4 n (log2 n - 1)`` for powers of two from 4
    on. After an odd leaf, the other factors hold a slot more, ``(r1 + 1) / r1`` times the numbers. Large
    primes go through the chirp rule where that halves the numbers. Symmetric, ``H H = n I``: its inverse is
    ``hartley(n, norm="forward")``.

    Args:
        n: size.
        norm: ``"backward"`` leaves it as above, ``"ortho"`` divides by ``sqrt(n)``, ``"forward"`` by ``n``.
        tied: store the blocks that a factor repeats once.
        dtype: real type; torch's default if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n < 1`` or the norm is none of the three.
        DtypeError: if ``dtype`` is not real.

    Example:
        >>> import numpy as np, torch
        >>> from kmatrix import transforms
        >>> H = transforms.hartley(1024, dtype=torch.float64)
        >>> x = np.random.default_rng(0).standard_normal(1024)
        >>> spectrum = np.fft.fft(x)
        >>> np.allclose(H @ x, spectrum.real - spectrum.imag), H.num_params
        (True, 36864)

    Reference: Bracewell, J. Opt. Soc. Am. 73 (1983) 1832; arXiv 2012.14966, appendix J (there as part of a
    complex K-matrix).
    """
    n = check_size("hartley", "n", n)
    exponent = EXPONENT[check_norm("hartley", norm)]
    draft = folded(n, np.full(n, (1 + 1j) * float(n) ** exponent), exponent=exponent)
    return draft.build((n, n), real_dtype("hartley", dtype), device, tied=tied)


def _dft(where: str, n: int, norm: Norm | None) -> Draft:
    return fourier(n, EXPONENT[check_norm(where, norm)])
