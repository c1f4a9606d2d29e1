"""The eight matrices of arXiv 1903.05895, section 4.1, in double precision and at the scale of its released results.

With these scales, and the two random targets drawn by numpy from seed 0, the errors of the sparse and the low-rank
baseline are those that the authors stored, to every digit. DCT and DST are scipy's, whose factor of two makes them
``sqrt(2)`` times an orthogonal matrix; DFT, Hadamard and Hartley are orthonormal; the rest have entries of the order
``1 / sqrt(n)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are asked for
import torch
from numpy.polynomial.legendre import legvander
from torch import Tensor

Array = npt.NDArray[np.float64] | npt.NDArray[np.complex128]


def dft(n: int) -> Array:
    """``exp(-2 pi i j k / n) / sqrt(n)``."""
    made: Array = scipy.fft.fft(np.eye(n), axis=0, norm="ortho")
    return made


def dct(n: int) -> Array:
    """``2 cos(pi k (2 j + 1) / (2 n)) / sqrt(n)``."""
    made: Array = scipy.fft.dct(np.eye(n), axis=0) / math.sqrt(n)
    return made


def dst(n: int) -> Array:
    """``2 sin(pi (k + 1) (2 j + 1) / (2 n)) / sqrt(n)``."""
    made: Array = scipy.fft.dst(np.eye(n), axis=0) / math.sqrt(n)
    return made


def convolution(n: int) -> Array:
    """A circulant matrix of normal numbers of variance ``1 / n``."""
    made: Array = scipy.linalg.circulant(_normal(n)) / math.sqrt(n)
    return made


def hadamard(n: int) -> Array:
    """Sylvester's matrix over ``sqrt(n)``."""
    return np.asarray(scipy.linalg.hadamard(n) / math.sqrt(n), dtype=np.float64)


def hartley(n: int) -> Array:
    """``(cos + sin)(2 pi j k / n) / sqrt(n)``."""
    angle = np.outer(np.arange(n), np.arange(n)) % n * (2 * math.pi / n)
    return np.asarray((np.cos(angle) + np.sin(angle)) / math.sqrt(n))


def legendre(n: int) -> Array:
    """Legendre polynomials ``L_k(x_j) / sqrt(n)`` at equispaced points that leave out the ends of [-1, 1]."""
    points = np.linspace(-1.0, 1.0, n + 2)[1:-1]
    return np.asarray(legvander(points, n - 1).T / math.sqrt(n), dtype=np.float64)


def random(n: int) -> Array:
    """Normal numbers of variance ``1 / n``."""
    return _normal(n, n) / math.sqrt(n)


def _normal(*shape: int) -> npt.NDArray[np.float64]:
    # The generator of the released code, so that these two targets are the paper's.
    return np.random.RandomState(0).randn(*shape)


TARGETS: dict[str, Callable[[int], Array]] = {
    make.__name__: make for make in (dft, dct, dst, convolution, hadamard, hartley, legendre, random)
}


def target(name: str, n: int) -> Tensor:
    """One of the targets as a tensor, float64 or complex128."""
    return torch.from_numpy(np.ascontiguousarray(TARGETS[name](n)))


def rmse(target: Tensor, matrix: Tensor) -> float:
    """Root of the mean squared difference of entries, the error that the paper reports."""
    return float((target - matrix).abs().square().mean().sqrt())
