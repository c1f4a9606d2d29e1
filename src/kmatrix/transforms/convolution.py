"""Exact convolutions in one and two dimensions: circulant, Toeplitz and Hankel, tied or as chains."""

from __future__ import annotations

import numpy as np
import torch

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import digit_reversal
from kmatrix.structures import ChainMatrix, Circulant, Hankel, Toeplitz
from kmatrix.structures.circulant import CirculantMatrix
from kmatrix.structures.toeplitz import HankelMatrix, ToeplitzMatrix
from kmatrix.transforms._butterfly import butterfly, convolution, embedding
from kmatrix.transforms._convolution import real_embedding
from kmatrix.transforms._draft import Array, Draft, blocks, radices_of, realified, strided
from kmatrix.transforms._requests import Kernel, Numbers, take_kernel


def circulant(
    c: Numbers, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> CirculantMatrix:
    """Make the circulant matrix of circular convolution with ``c``: ``A[i, j] = c[(i - j) mod n]``.

    Index-tied: ``n`` numbers, applied by FFT. ``circulant_chain`` writes it as a chain.

    Args:
        c: ``(n,)`` first column.
        dtype: number type; the one of ``c`` if not given.
        device: where the numbers live; where ``c`` is if not given.

    Raises:
        ArgumentError: if ``c`` is not a non-empty vector of finite numbers.
        DtypeError: if ``c`` is complex and ``dtype`` real, or no number type.

    Example:
        >>> from kmatrix import transforms
        >>> transforms.circulant([1., 2., 3.]).to_dense().round().int().tolist()
        [[1, 3, 2], [2, 1, 3], [3, 2, 1]]

    Reference: arXiv 2012.14966, lemma J.5.
    """
    kernel = take_kernel("circulant", "c", c, dtype=dtype, device=device)
    return CirculantMatrix.from_numbers(Circulant(), (kernel.size, kernel.size), kernel.tensor)


def toeplitz(
    c: Numbers,
    r: Numbers | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ToeplitzMatrix:
    """Make the Toeplitz matrix with first column ``c`` and first row ``r``: ``A[i, j] = t[i - j]``.

    Index-tied: ``m + n - 1`` numbers, applied by FFT. ``toeplitz_chain`` writes it as a chain.

    Args:
        c: ``(m,)`` first column.
        r: ``(n,)`` first row, its first number ignored; the conjugate of ``c`` if not given.
        dtype: number type; the one that holds ``c`` and ``r`` if not given.
        device: where the numbers live; where ``c`` is if not given.

    Raises:
        ArgumentError: if ``c`` or ``r`` is not a non-empty vector of finite numbers.
        DtypeError: if one is complex and ``dtype`` real, or no number type.

    Example:
        >>> from kmatrix import transforms
        >>> transforms.toeplitz([1., 2.], [1., 5., 6.]).to_dense().round().int().tolist()
        [[1, 5, 6], [2, 1, 5]]

    Reference: arXiv 2012.14966, lemma J.6.
    """
    kernel, shape = _diagonals("toeplitz", c, r, dtype, device)
    return ToeplitzMatrix.from_numbers(Toeplitz(), shape, kernel.tensor)


def hankel(
    c: Numbers,
    r: Numbers | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> HankelMatrix:
    """Make the Hankel matrix with first column ``c`` and last row ``r``: ``A[i, j] = h[i + j]``.

    Index-tied: ``m + n - 1`` numbers, applied by FFT.

    Args:
        c: ``(m,)`` first column.
        r: ``(n,)`` last row, its first number ignored; zeros, as many as ``c`` has, if not given.
        dtype: number type; the one that holds ``c`` and ``r`` if not given.
        device: where the numbers live; where ``c`` is if not given.

    Raises:
        ArgumentError: if ``c`` or ``r`` is not a non-empty vector of finite numbers.
        DtypeError: if one is complex and ``dtype`` real, or no number type.

    Example:
        >>> from kmatrix import transforms
        >>> transforms.hankel([1., 2.], [2., 3., 4.]).to_dense().round().int().tolist()
        [[1, 2, 3], [2, 3, 4]]

    Reference: arXiv 2012.14966, lemma J.6 with the columns reversed.
    """
    column = take_kernel("hankel", "c", c, dtype=dtype, device=device)
    row = column if r is None else take_kernel("hankel", "r", r, dtype=dtype, device=device)
    rest = 0 * row.numbers[1:] if r is None else row.numbers[1:]
    kernel = column.joined(row, np.concatenate([column.numbers, rest]))
    return HankelMatrix.from_numbers(Hankel(), (column.size, row.size), kernel.tensor)


def circulant_chain(
    c: Numbers, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> ChainMatrix:
    """Make the circulant matrix of ``c`` as a chain: transform, multiply, transform back.

    Complex: ``conj(G) diag(h) G^T / n`` with the butterfly G of the DFT and h its values on ``c``, a member
        of BB* (strides shrink, then grow) without any permutation. The diagonal and the two factors of
        stride 1 are one, so it holds ``n (2 (r1 + ... + rk) - r1)`` numbers, ``4 n (log2 n - 1)`` for powers
        of two from 4 on. Real: the same with the folded real butterfly, where the two factors of largest
        stride merge, and a permutation at either end; ``8 n (log2 n - 2)`` real numbers for powers of two
        from 16 on. Where that halves the numbers, sizes with large primes sit in the corner of a circulant
        of at least ``2 n - 1`` points, of which only what is used is stored.

    Args:
        c: ``(n,)`` first column.
        dtype: number type, complex for the complex chain; the one of ``c`` if not given.
        device: where the numbers live; where ``c`` is if not given.

    Raises:
        ArgumentError: if ``c`` is not a non-empty vector of finite numbers.
        DtypeError: if ``c`` is complex and ``dtype`` real, or no number type.

    Example:
        >>> import numpy as np, scipy.linalg
        >>> from kmatrix import transforms
        >>> c = np.random.default_rng(0).standard_normal(1024)
        >>> A = transforms.circulant_chain(c)
        >>> np.allclose(A.to_dense().detach(), scipy.linalg.circulant(c)), A.num_params
        (True, 65536)

    Reference: arXiv 2012.14966, lemma J.5.
    """
    kernel = take_kernel("circulant_chain", "c", c, dtype=dtype, device=device)
    n = kernel.size
    lags = kernel.numbers[np.arange(1 - n, n)]
    return _chain(kernel, lags, (n, n), period=n)


def toeplitz_chain(
    c: Numbers,
    r: Numbers | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make a Toeplitz matrix as a chain: the corner of a circulant of at least ``m + n - 1`` points.

    The circulant is one of a size without primes over 7, written as ``circulant_chain`` does; of the first
    and the last factor only what the corner uses is stored. ``8 n log2 n`` complex numbers for squares of a
    power of two, and twice as many real ones.

    Args:
        c: ``(m,)`` first column.
        r: ``(n,)`` first row, its first number ignored; the conjugate of ``c`` if not given.
        dtype: number type, complex for the complex chain; the one that holds ``c`` and ``r`` if not given.
        device: where the numbers live; where ``c`` is if not given.

    Raises:
        ArgumentError: if ``c`` or ``r`` is not a non-empty vector of finite numbers.
        DtypeError: if one is complex and ``dtype`` real, or no number type.

    Example:
        >>> import numpy as np, scipy.linalg
        >>> from kmatrix import transforms
        >>> c, r = np.random.default_rng(0).standard_normal((2, 100))
        >>> A = transforms.toeplitz_chain(c, r)
        >>> np.allclose(A.to_dense().detach(), scipy.linalg.toeplitz(c, r))
        True

    Reference: arXiv 2012.14966, lemma J.6.
    """
    kernel, shape = _diagonals("toeplitz_chain", c, r, dtype, device)
    return _chain(kernel, kernel.numbers, shape)


def conv1d(
    kernel: Numbers, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> CirculantMatrix:
    """Make the circular convolution of signals with a kernel: ``y_i = sum_k kernel_k x_((i - k) mod n)``.

    Index-tied: ``n`` numbers (the kernel and zeros), applied by FFT. Its transpose is the cross-correlation
    that neural networks call convolution.

    Args:
        kernel: ``(k,)``, ``k <= n``.
        n: length of the signals.
        dtype: number type; the one of ``kernel`` if not given.
        device: where the numbers live; where ``kernel`` is if not given.

    Raises:
        ArgumentError: if ``kernel`` is not a vector of 1 to ``n`` finite numbers.
        DtypeError: if ``kernel`` is complex and ``dtype`` real, or no number type.

    Example:
        >>> from kmatrix import transforms
        >>> transforms.conv1d([1., 2.], 3).to_dense().round().int().tolist()
        [[1, 0, 2], [2, 1, 0], [0, 2, 1]]

    Reference: arXiv 2012.14966, lemma J.5.
    """
    given = take_kernel("conv1d", "kernel", kernel, dtype=dtype, device=device)
    n = check_size("conv1d", "n", n)
    padded = given.joined(given, _padded("conv1d", given, (n,)))
    return CirculantMatrix.from_numbers(Circulant(), (n, n), padded.tensor)


def conv2d(
    kernel: Numbers,
    shape: tuple[int, int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the circular convolution of flattened images with a kernel, as a chain.

    ``y[i, j] = sum_(a, b) kernel[a, b] x[(i - a) mod h, (j - b) mod w]`` on images of ``shape = (h, w)``
    flattened row by row: ``conj(G) diag(fft2(kernel)) G^T / n`` with the butterfly G of ``dft2``, no
    permutation, ``n (2 (r1 + ... + rk) - r1)`` complex numbers over the radices of both sizes (r1 the
    largest of the width's); large primes stay radices. A real chain stores every complex number as a 2 x 2
    block, half of it in the first and the last factor.

    Args:
        kernel: ``(k, l)``, ``k <= h`` and ``l <= w``.
        shape: height and width of the images.
        dtype: number type, complex for the complex chain; the one of ``kernel`` if not given.
        device: where the numbers live; where ``kernel`` is if not given.

    Raises:
        ArgumentError: if ``kernel`` is no array of finite numbers with two axes that fits the images.
        DtypeError: if ``kernel`` is complex and ``dtype`` real, or no number type.

    Example:
        >>> import numpy as np
        >>> from kmatrix import transforms
        >>> blur, image = np.full((3, 3), 1 / 9), np.random.default_rng(0).standard_normal((28, 28))
        >>> A = transforms.conv2d(blur, (28, 28))
        >>> y = np.fft.ifft2(np.fft.fft2(blur, (28, 28)) * np.fft.fft2(image)).real
        >>> np.allclose(A @ image.reshape(-1), y.reshape(-1)), A.dtype
        (True, torch.float64)

    Reference: arXiv 2012.14966, lemmas J.5 and J.11.
    """
    import scipy.fft

    given = take_kernel("conv2d", "kernel", kernel, ndim=2, dtype=dtype, device=device)
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        reason, way_out = "not a height and a width", "pass shape=(h, w)"
        raise ArgumentError(complaint("conv2d", "shape", shape, reason, way_out))
    h, w = (check_size("conv2d", "shape", size) for size in shape)
    down, along = radices_of(h), radices_of(w)[::-1]
    grown = [blocks(h, f) for f in butterfly(along, -0.5)] + [strided(f, w) for f in butterfly(down, -0.5)]
    spectrum = scipy.fft.fft2(_padded("conv2d", given, (h, w)))
    order = np.ix_(digit_reversal(down), digit_reversal(along))
    factors = convolution(grown, spectrum[order].reshape(-1))
    draft = Draft(tuple(factors))
    if not given.dtype.is_complex:
        draft = realified(factors, len(grown) - 1, np.ones((1, h * w)), inputs=(1,))
    return draft.build((h * w, h * w), given.dtype, given.device)


def _diagonals(
    where: str, c: Numbers, r: Numbers | None, dtype: torch.dtype | None, device: torch.device | str | None
) -> tuple[Kernel, tuple[int, int]]:
    """The numbers of a Toeplitz matrix from the top right corner to the bottom left, and its shape."""
    column = take_kernel(where, "c", c, dtype=dtype, device=device)
    row = column if r is None else take_kernel(where, "r", r, dtype=dtype, device=device)
    first_row = np.conj(row.numbers) if r is None else row.numbers
    kernel = column.joined(row, np.concatenate([first_row[:0:-1], column.numbers]))
    return kernel, (column.size, row.size)


def _chain(kernel: Kernel, lags: Array, shape: tuple[int, int], period: int | None = None) -> ChainMatrix:
    """The chain of ``y_k = sum_j lags[k - j + n - 1] x_j``."""
    m, n = shape
    if kernel.dtype.is_complex:
        draft = Draft(tuple(embedding(n, m, period).factors(lags)))
    else:
        draft = real_embedding(n, m, period).draft(lags)
    return draft.build(shape, kernel.dtype, kernel.device)


def _padded(where: str, kernel: Kernel, shape: tuple[int, ...]) -> Array:
    """The kernel in the corner of an array of zeros."""
    got = kernel.numbers.shape
    if any(k > size for k, size in zip(got, shape, strict=True)):
        reason, way_out = (
            f"larger than the signals, {shape}",
            "pass a smaller kernel, or wrap it around by hand",
        )
        raise ArgumentError(complaint(where, "kernel.shape", got, reason, way_out))
    padded = np.zeros(shape, dtype=kernel.numbers.dtype)
    padded[tuple(slice(k) for k in got)] = kernel.numbers
    return padded
