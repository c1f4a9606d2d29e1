"""Fourier and Hartley matrices against scipy, their inverses, norms and counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import torch

from kmatrix import ArgumentError, DtypeError, Factor, Permute, transforms
from kmatrix._permutations import prime_factors
from kmatrix.structures import ChainMatrix
from kmatrix.transforms._draft import unit_roots

SIZES = [1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 37, 60, 64, 67, 97, 127, 128, 134, 243, 251, 256, 360, 509, 768]
LARGE = [1000, 1009, 1018, 1024]
SMOOTH = [n for n in SIZES + LARGE if max(prime_factors(n), default=1) <= 67]
NORMS = ["backward", "ortho", "forward"]
PAIRS = [(1, 1), (1, 7), (5, 1), (4, 4), (8, 12), (9, 16), (2, 97), (97, 3)]


def fourier(n: int, norm: str | None = "backward") -> npt.NDArray[Any]:
    return scipy.fft.fft(np.eye(n), axis=0, norm=norm)


def cas(n: int, norm: str | None = "backward") -> npt.NDArray[Any]:
    spectrum = fourier(n, norm)
    return spectrum.real - spectrum.imag


def factor_matrices(matrix: ChainMatrix) -> list[npt.NDArray[Any]]:
    """The factors as dense matrices."""
    made = []
    for f, w in zip(matrix.layout.factors, matrix.weights, strict=True):
        dense = torch.zeros(f.a, f.b, f.d, f.a, f.c, f.d, dtype=matrix.dtype)
        for a in range(f.a):
            for d in range(f.d):
                dense[a, :, d, a, :, d] = w[a if w.shape[0] > 1 else 0, :, :, d if w.shape[3] > 1 else 0]
        made.append(dense.reshape(f.rows, f.cols).detach().numpy())
    return made


@pytest.mark.parametrize("n", SIZES + LARGE)
def test_dft_is_scipys(n: int, units: Any) -> None:
    assert units(transforms.dft(n, dtype=torch.complex128), fourier(n)) < 1


@pytest.mark.parametrize("n", [1, 4, 31, 97, 128, 360, 509])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tied", [False, True])
def test_norms_and_inverse_are_scipys(n: int, norm: Any, tied: bool, units: Any) -> None:
    kind = {"norm": norm, "tied": tied, "dtype": torch.complex128}
    inverse = scipy.fft.ifft(np.eye(n), axis=0, norm=norm)
    assert units(transforms.dft(n, **kind), fourier(n, norm)) < 1
    assert units(transforms.idft(n, **kind), inverse) < 1


@pytest.mark.parametrize("n", [2, 31, 60, 97, 256, 1000, 1009])
def test_single_precision_errs_within_a_unit_of_rounding(n: int, units: Any) -> None:
    assert units(transforms.dft(n, dtype=torch.complex64), fourier(n)) < 1
    assert units(transforms.idft(n, dtype=torch.complex64), np.conj(fourier(n)) / n) < 1
    assert units(transforms.hartley(n, dtype=torch.float32), cas(n)) < 1


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_inverse_undoes(n: int, norm: Any, units: Any) -> None:
    kind = {"norm": norm, "dtype": torch.complex128}
    both = transforms.idft(n, **kind) @ transforms.dft(n, **kind)
    assert units(both, np.eye(n)) < 2


@pytest.mark.parametrize("n", SMOOTH)
def test_count_is_size_times_radices(n: int) -> None:
    matrix = transforms.dft(n)
    stored = sum(w.numel() for w in matrix.weights)
    assert matrix.num_params == stored == (n * sum(prime_factors(n)) if n > 1 else 1)


@pytest.mark.parametrize("k", range(1, 12))
def test_powers_of_two_take_two_n_log_n(k: int) -> None:
    assert transforms.dft(2**k).num_params == transforms.idft(2**k).num_params == 2 * 2**k * k


@pytest.mark.parametrize(("n", "numbers"), [(97, 4508), (127, 6144), (509, 32768), (1009, 70875)])
def test_large_primes_take_a_chirp(n: int, numbers: int) -> None:
    """By hand for 127: 256 points, radix 4; half of the outer factors, the two in the middle merged."""
    matrix = transforms.dft(n)
    assert matrix.num_params == numbers <= n * n / 2
    if n == 127:
        assert numbers == 256 * (2 + 4 + 4 + 4 + 4 + 4 + 2)


def test_chirp_of_a_factor_keeps_the_other_radices() -> None:
    """509 twice by chirp with 512 rows each, then a radix 2 over them."""
    assert transforms.dft(1018).num_params == 2 * 32768 + 2 * 2 * 512


@pytest.mark.parametrize(("n", "radices"), [(64, (2,) * 6), (128, (2,) * 7), (360, (2, 2, 2, 3, 3, 5))])
def test_tied_blocks_are_stored_once(n: int, radices: tuple[int, ...]) -> None:
    strides = [math.prod(radices[:i]) for i in range(len(radices))]
    expected = sum(r * r * s for r, s in zip(radices, strides, strict=True))
    assert transforms.dft(n, tied=True).num_params == expected


@pytest.mark.parametrize("n", SMOOTH)
def test_chain_is_one_permutation_and_growing_strides(n: int) -> None:
    stages = transforms.dft(n).layout.stages
    factors = [stage for stage in stages if isinstance(stage, Factor)]
    assert all(isinstance(stage, Permute) for stage in stages[: len(stages) - len(factors)])
    assert len(stages) - len(factors) <= 1
    assert [f.d for f in factors] == [math.prod(g.b for g in factors[:i]) for i in range(len(factors))]


@pytest.mark.parametrize("n", [8, 27, 60])
@pytest.mark.parametrize("make", [transforms.dft, transforms.idft])
def test_orthonormal_transforms_have_unitary_factors(n: int, make: Any) -> None:
    for factor in factor_matrices(make(n, norm="ortho", dtype=torch.complex128)):
        assert np.abs(factor @ factor.conj().T - np.eye(len(factor))).max() < 1e-14


@pytest.mark.parametrize(("n1", "n2"), PAIRS)
@pytest.mark.parametrize("norm", NORMS)
def test_dft2_is_the_kronecker_product(n1: int, n2: int, norm: Any, units: Any) -> None:
    truth = np.kron(fourier(n1, norm), fourier(n2, norm))
    assert units(transforms.dft2(n1, n2, norm=norm, dtype=torch.complex128), truth) < 1
    assert units(transforms.dft2(n1, n2, norm=norm, tied=True, dtype=torch.complex64), truth) < 1


@pytest.mark.parametrize(("n1", "n2"), [(8, 12), (5, 1), (16, 64)])
def test_dft2_counts_as_one_butterfly(n1: int, n2: int) -> None:
    expected = n1 * n2 * sum(prime_factors(n1) + prime_factors(n2))
    # A side of length 1 is one factor of radix 1.
    assert transforms.dft2(n1, n2).num_params == expected + n1 * n2 * (1 in (n1, n2))


@pytest.mark.parametrize("n", SIZES + LARGE)
def test_hartley_is_cos_plus_sin(n: int, units: Any) -> None:
    assert units(transforms.hartley(n, dtype=torch.float64), cas(n)) < 1


@pytest.mark.parametrize("n", [3, 64, 97, 1000])
@pytest.mark.parametrize("norm", NORMS)
def test_hartley_norms(n: int, norm: Any, units: Any) -> None:
    assert units(transforms.hartley(n, norm=norm, tied=True, dtype=torch.float64), cas(n, norm)) < 1


@pytest.mark.parametrize("k", range(2, 12))
def test_hartley_of_powers_of_two_takes_four_n_log_n(k: int) -> None:
    n = 2**k
    matrix = transforms.hartley(n)
    assert matrix.num_params == sum(w.numel() for w in matrix.weights) == 4 * n * (k - 1)


@pytest.mark.parametrize("n", [16, 60, 128])
def test_orthonormal_hartley_has_orthogonal_factors(n: int) -> None:
    for factor in factor_matrices(transforms.hartley(n, norm="ortho", dtype=torch.float64)):
        assert np.abs(factor @ factor.T - np.eye(len(factor))).max() < 1e-14


@pytest.mark.parametrize("name", ["dft", "idft", "hartley"])
@pytest.mark.parametrize("n", [0, -4, 2.5, True])
def test_sizes_below_one_are_refused(name: str, n: Any) -> None:
    with pytest.raises((ArgumentError, DtypeError), match=rf"{name}: n="):
        getattr(transforms, name)(n)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ArgumentError, match="dft2: n2=0"):
        transforms.dft2(4, 0)
    with pytest.raises(ArgumentError, match="dft: norm='unitary'"):
        transforms.dft(4, norm="unitary")  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"dft: dtype=torch\.float64: the transform is complex"):
        transforms.dft(4, dtype=torch.float64)
    with pytest.raises(DtypeError, match=r"hartley: dtype=torch\.complex64: the transform is real"):
        transforms.hartley(4, dtype=torch.complex64)


def test_default_types_follow_torch() -> None:
    assert transforms.dft(4).dtype == torch.complex64
    assert transforms.hartley(4).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert transforms.dft(4).dtype == torch.complex128
        assert transforms.hartley(4, norm=None).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_roots_are_right_to_the_last_bit_but_one() -> None:
    assert unit_roots(np.arange(4), 4).tolist() == [1, -1j, -1, 1j]
    for n in (8, 360, 1009, 10**6 + 3):
        k = np.arange(0, 10 * n, max(1, n // 100))
        angle = 2 * np.longdouble("3.14159265358979323846264338327950288") * (k % n) / n
        exact = np.cos(angle) - 1j * np.sin(angle)
        assert np.abs(unit_roots(k, n) - exact).max() < 2**-53 * 1.5
