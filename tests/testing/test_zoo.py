"""The zoo: every matrix against a definition that is written or computed another way."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch

from kmatrix._errors import ArgumentError
from kmatrix.testing import zoo
from kmatrix.testing.zoo import hadamard, legendre, low_rank_plus_noise, randn, sparse

SIZES = (1, 2, 7, 12, 16)
REAL = {"dct2", "dst2", "hadamard", "hartley"}


@pytest.mark.parametrize("n", SIZES)
def test_transforms_are_those_of_scipy(n: int) -> None:
    found, eye = zoo(n), np.eye(n)
    fourier = scipy.fft.fft(eye, axis=0, norm="ortho")
    want = {
        "dft": fourier,
        "idft": scipy.fft.ifft(eye, axis=0, norm="ortho"),
        "dct2": scipy.fft.dct(eye, 2, axis=0, norm="ortho"),
        "dst2": scipy.fft.dst(eye, 2, axis=0, norm="ortho"),
        "hartley": fourier.real - fourier.imag,
        "hilbert": scipy.linalg.hilbert(n),
    }
    if not n & (n - 1):
        want["hadamard"] = scipy.linalg.hadamard(n) / math.sqrt(n)
    for name, matrix in want.items():
        np.testing.assert_allclose(found[name].numpy(), matrix, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("n", SIZES)
def test_transforms_are_unitary(n: int) -> None:
    eye = torch.eye(n, dtype=torch.complex128)
    for name, matrix in zoo(n).items():
        if name in REAL | {"dft", "idft"}:
            wide = matrix.to(torch.complex128)
            torch.testing.assert_close(wide @ wide.mH, eye, msg=name)


def test_angles_of_large_transforms_are_exact() -> None:
    # Entry (j, k) of a transform as large as this is off by 1e-9 if the angle is not reduced first.
    n = 3001
    entry = zoo(n)["dft"][3000, 2999]
    assert abs(complex(entry) - cmath.exp(-2j * math.pi * (3000 * 2999 % n) / n) / math.sqrt(n)) < 1e-17


@pytest.mark.parametrize("n", SIZES)
def test_every_matrix_is_square_double_finite_and_always_the_same(n: int) -> None:
    first, again = zoo(n), zoo(n)
    assert ("hadamard" in first) == (not n & (n - 1))
    for name, matrix in first.items():
        assert matrix.shape == (n, n) and torch.equal(matrix, again[name])
        assert matrix.dtype == (torch.complex128 if "dft" in name else torch.float64)
        assert bool(torch.isfinite(torch.view_as_real(matrix) if matrix.is_complex() else matrix).all())


def test_kernels_are_their_formulas() -> None:
    n = 7
    i, j = np.indices((n, n))
    found = zoo(n)
    np.testing.assert_allclose(found["decay"].numpy(), 1 / (1 + abs(i - j)))
    np.testing.assert_allclose(found["rbf"].numpy(), np.exp(-0.5 * ((i - j) / (n / 10)) ** 2) / n)
    c, t = found["circulant"].numpy(), found["toeplitz"].numpy()
    np.testing.assert_array_equal(c, scipy.linalg.circulant(c[:, 0]))
    np.testing.assert_array_equal(t, scipy.linalg.toeplitz(t[:, 0], t[0]))


def test_legendre_polynomials_are_their_recurrence() -> None:
    n = 9
    x = -1 + 2 * (np.arange(n) + 1) / (n + 1)
    rows = [np.ones(n), x]
    for k in range(1, n - 1):
        rows.append(((2 * k + 1) * x * rows[k] - k * rows[k - 1]) / (k + 1))
    np.testing.assert_allclose(legendre(n).numpy(), np.array(rows) / math.sqrt(n), atol=1e-15)


@pytest.mark.parametrize(
    ("n", "published"), [(8, 0.063), (16, 0.043), (32, 0.027), (64, 0.016), (128, 0.0089), (256, 0.0050)]
)
def test_legendre_has_the_published_errors_of_low_rank(n: int, published: float) -> None:
    """The scale and the grid are not printed in arXiv 1903.05895; its low-rank baseline tells them."""
    beyond = torch.linalg.svdvals(legendre(n))[n.bit_length() - 1 :]
    error = float(torch.linalg.vector_norm(beyond)) / n
    assert f"{error:.1e}" == f"{published:.1e}"


def test_random_matrices_have_the_scale_and_support_they_say() -> None:
    n = 100
    assert float(randn(n).square().mean()) == pytest.approx(1 / n, rel=6 * 2**0.5 / n)
    assert not torch.equal(randn(n), randn(n, seed=5))
    assert int(torch.count_nonzero(sparse(n))) == n * 7
    values = torch.linalg.svdvals(low_rank_plus_noise(n))
    assert values[4] > 20 * values[5]
    assert float(low_rank_plus_noise(n).square().mean()) == pytest.approx(1 / n, rel=0.5)


def test_sizes_are_checked() -> None:
    with pytest.raises(ArgumentError, match="n=0"):
        zoo(0)
    assert hadamard(1).tolist() == [[1.0]]
