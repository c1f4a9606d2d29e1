"""The transforms of appendix J in the stated classes, against numpy's FFT and scipy's matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from kmatrix import ArgumentError, DtypeError, Kaleidoscope, StructuredMatrix
from kmatrix.constructions import circulant, dft, fastfood, hadamard, toeplitz

POWERS = [1, 2, 4, 8, 64]


def close(matrix: StructuredMatrix, expected: np.ndarray) -> None:
    error = np.abs(matrix.to_dense().detach().numpy() - expected).max()
    assert error <= 1e-12 * max(1.0, np.linalg.norm(expected, 2))


@pytest.mark.parametrize("n", POWERS)
def test_dft(n: int) -> None:
    matrix = dft(n, dtype=torch.complex128)
    assert matrix.structure == Kaleidoscope(width=2, expansion=1)
    close(matrix, np.fft.fft(np.eye(n)))
    close(dft(n, unitary=True, dtype=torch.complex128), np.fft.fft(np.eye(n), norm="ortho"))


@pytest.mark.parametrize("shape", [(8, 8), (2, 1, 4), (2, 4, 2)])
def test_dft_in_more_dimensions(shape: tuple[int, ...]) -> None:
    n = math.prod(shape)
    matrix = dft(shape, dtype=torch.complex128)
    assert matrix.structure == Kaleidoscope(width=2, expansion=1)
    axes = tuple(range(1, len(shape) + 1))
    close(matrix, np.fft.fftn(np.eye(n).reshape(n, *shape), axes=axes).reshape(n, n).T)


def test_unitary_dft_has_unitary_factors() -> None:
    for w in dft(16, unitary=True, dtype=torch.complex128).weights:
        gram = torch.einsum("arcd,ared->aced", w.conj(), w)
        eye = torch.eye(2, dtype=gram.dtype)[None, :, :, None].expand_as(gram)
        torch.testing.assert_close(gram, eye, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", POWERS)
def test_hadamard(n: int) -> None:
    matrix = hadamard(n)
    assert matrix.structure == Kaleidoscope(width=1, expansion=1)
    np.testing.assert_array_equal(matrix.to_dense().detach().numpy(), scipy.linalg.hadamard(n))
    close(hadamard(n, unitary=True, dtype=torch.float64), scipy.linalg.hadamard(n) / math.sqrt(n))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 16, 20])
def test_circulant(n: int, is_complex: bool) -> None:
    rng = np.random.default_rng(n)
    c = rng.standard_normal(n) + (1j * rng.standard_normal(n) if is_complex else 0.0)
    matrix = circulant(c)
    assert matrix.structure == Kaleidoscope(width=1, expansion=2 if n & (n - 1) else 1)
    close(matrix, scipy.linalg.circulant(c))


def test_circulant_in_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    c, x = rng.standard_normal((2, 4, 8))
    matrix = circulant(c)
    assert matrix.structure == Kaleidoscope(width=1, expansion=1)
    expected = np.fft.ifft2(np.fft.fft2(c) * np.fft.fft2(x)).reshape(-1)
    np.testing.assert_allclose(matrix @ x.reshape(-1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 8, 11])
@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_toeplitz(m: int, n: int) -> None:
    rng = np.random.default_rng(m)
    c, r = rng.standard_normal(m), rng.standard_normal(n)
    matrix = toeplitz(c, r)
    assert (matrix.structure.width, matrix.structure.expansion <= 2) == (1, True)
    close(matrix, scipy.linalg.toeplitz(c, r))


@pytest.mark.parametrize("n", POWERS)
def test_fastfood(n: int) -> None:
    rng = np.random.default_rng(n)
    s, g, b = rng.standard_normal((3, n))
    p = rng.permutation(n)
    matrix = fastfood(s, g, p, b)
    assert matrix.structure == Kaleidoscope(width=2, expansion=1)
    h = scipy.linalg.hadamard(n)
    close(matrix, np.diag(s) @ h @ np.diag(g) @ np.eye(n)[p] @ h @ np.diag(b))


def test_refusals() -> None:
    for call in (
        lambda: dft(6),
        lambda: dft((4, 3)),
        lambda: hadamard(3),
        lambda: circulant(np.ones((2, 3))),
    ):
        with pytest.raises(ArgumentError, match="not a power of two"):
            call()
    with pytest.raises(DtypeError, match="complex"):
        dft(4, dtype=torch.float64)
    with pytest.raises(ArgumentError, match=r"g\.size"):
        fastfood([1.0, 1.0], [1.0], [0, 1], [1.0, 1.0])
    with pytest.raises(ArgumentError, match="not finite"):
        toeplitz([np.nan], [1.0])
