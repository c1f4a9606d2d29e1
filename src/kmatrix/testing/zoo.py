"""Named test matrices: transforms, kernels and noise, each with its exact definition.

All are scaled so that their entries are of the order ``1 / sqrt(n)`` or their norm of the order one, unless the
definition says otherwise. Indices start at 0; rows are outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.polynomial.legendre import legvander
from torch import Tensor

from kmatrix._checks import check_size


def dft(n: int) -> Tensor:
    """Unitary discrete Fourier transform, ``exp(-2 pi i j k / n) / sqrt(n)``; complex."""
    # The product is reduced first: the angle of j k is exact only while it is small.
    turns = _products(n) % n
    return torch.polar(torch.full((n, n), n**-0.5, dtype=torch.float64), turns * (-2 * math.pi / n))


def idft(n: int) -> Tensor:
    """Inverse of ``dft``, ``exp(2 pi i j k / n) / sqrt(n)``; complex."""
    return dft(n).conj().resolve_conj()


def dct2(n: int) -> Tensor:
    """Orthonormal DCT-II, ``sqrt(2/n) cos(pi k (2 j + 1) / (2 n))``, row ``k = 0`` divided by ``sqrt(2)``."""
    k, j = _grid(n)
    matrix = math.sqrt(2 / n) * torch.cos(k * (2 * j + 1) % (4 * n) * (math.pi / (2 * n)))
    matrix[0] *= math.sqrt(0.5)
    return matrix


def dst2(n: int) -> Tensor:
    """Orthonormal DST-II, ``sqrt(2/n) sin(pi (k + 1) (2 j + 1) / (2 n))``, last row divided by ``sqrt(2)``."""
    k, j = _grid(n)
    matrix = math.sqrt(2 / n) * torch.sin((k + 1) * (2 * j + 1) % (4 * n) * (math.pi / (2 * n)))
    matrix[-1] *= math.sqrt(0.5)
    return matrix


def hadamard(n: int) -> Tensor:
    """Orthonormal Hadamard matrix of a power of two, ``(-1)**popcount(j & k) / sqrt(n)``."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(n)


def hartley(n: int) -> Tensor:
    """Orthonormal Hartley transform, ``(cos + sin)(2 pi j k / n) / sqrt(n)``."""
    angle = _products(n) % n * (2 * math.pi / n)
    return (torch.cos(angle) + torch.sin(angle)) / math.sqrt(n)


def legendre(n: int) -> Tensor:
    """Legendre polynomials on a grid, ``L_k(x_j) / sqrt(n)`` with ``x_j = -1 + 2 (j + 1) / (n + 1)``.

    The polynomials are not normalised (``L_k(1) = 1``) and the grid leaves out the ends. With these choices the
    errors of the best approximation of rank ``log2 n`` are those published for the butterfly experiments.

    Reference: arXiv 1903.05895, section 4.1 and its table of errors.
    """
    points = np.linspace(-1.0, 1.0, n + 2)[1:-1]
    return torch.as_tensor(legvander(points, n - 1).T / math.sqrt(n))


def hilbert(n: int) -> Tensor:
    """Hilbert matrix, ``1 / (i + j + 1)``: norm below pi, singular values that decay exponentially."""
    i, j = _grid(n)
    return 1 / (i + j + 1)


def decay(n: int) -> Tensor:
    """Polynomial decay off the diagonal, ``1 / (1 + |i - j|)``: Toeplitz, smooth away from the diagonal."""
    i, j = _grid(n)
    return 1 / (1 + (i - j).abs())


def rbf(n: int) -> Tensor:
    """Gaussian kernel of ``n`` equally spaced points on [0, 1], ``exp(-((i - j) / (n / 10))**2 / 2) / n``."""
    i, j = _grid(n)
    return torch.exp(-(((i - j) / (n / 10)) ** 2) / 2) / n


def circulant(n: int, seed: int = 0) -> Tensor:
    """Circulant matrix ``c[(i - j) mod n]`` of independent normal numbers of variance ``1 / n``."""
    i, j = _grid(n)
    return _normal(n, seed=seed)[((i - j) % n).long()] / math.sqrt(n)


def toeplitz(n: int, seed: int = 0) -> Tensor:
    """Toeplitz matrix ``t[i - j]`` of ``2 n - 1`` independent normal numbers of variance ``1 / n``."""
    i, j = _grid(n)
    return _normal(2 * n - 1, seed=seed)[(i - j + n - 1).long()] / math.sqrt(n)


def randn(n: int, seed: int = 0) -> Tensor:
    """Independent normal numbers of mean 0 and variance ``1 / n``: nothing to find."""
    return _normal(n, n, seed=seed) / math.sqrt(n)


def low_rank_plus_noise(n: int, seed: int = 0) -> Tensor:
    """``U V / sqrt(r n)`` of normal ``n x r`` and ``r x n`` factors, ``r = ceil(sqrt(n) / 2)``, and noise.

    The noise is normal of 1% of the standard deviation of the entries.
    """
    r = math.ceil(math.sqrt(n) / 2)
    factors = _normal(2, n, r, seed=seed)
    return factors[0] @ factors[1].T / math.sqrt(r * n) + 0.01 * randn(n, seed + 1)


def sparse(n: int, seed: int = 0) -> Tensor:
    """``n ceil(log2(n + 1))`` normal numbers of variance ``1 / ceil(log2(n + 1))`` at random places."""
    a_row = math.ceil(math.log2(n + 1))
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.zeros(n * n, dtype=torch.float64)
    places = torch.randperm(n * n, generator=generator)[: n * a_row]
    matrix[places] = torch.randn(len(places), generator=generator, dtype=torch.float64) / math.sqrt(a_row)
    return matrix.reshape(n, n)


_MATRICES: tuple[Callable[[int], Tensor], ...] = (
    dft,
    idft,
    dct2,
    dst2,
    hadamard,
    hartley,
    legendre,
    hilbert,
    decay,
    rbf,
    circulant,
    toeplitz,
    randn,
    low_rank_plus_noise,
    sparse,
)


def zoo(n: int) -> dict[str, Tensor]:
    """Every named matrix of size ``n`` in double precision, always the same; Hadamard for powers of two only.

    Args:
        n: side of the matrices, any positive number.

    Raises:
        ArgumentError: if ``n`` is not positive.

    Example:
        >>> from kmatrix.testing import zoo
        >>> sorted(zoo(12))[:6]
        ['circulant', 'dct2', 'decay', 'dft', 'dst2', 'hartley']
        >>> zoo(12)["dct2"].shape
        torch.Size([12, 12])
    """
    check_size("zoo", "n", n)
    skip = {hadamard} if n & (n - 1) else set()
    return {make.__name__: make(n) for make in _MATRICES if make not in skip}


def _grid(n: int) -> tuple[Tensor, Tensor]:
    """Row and column index of every entry, as floats that broadcast."""
    index = torch.arange(n, dtype=torch.float64)
    return index.unsqueeze(1), index.unsqueeze(0)


def _products(n: int) -> Tensor:
    j, k = _grid(n)
    return j * k


def _normal(*size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)
