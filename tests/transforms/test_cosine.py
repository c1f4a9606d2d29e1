"""Cosine and sine transforms of all types against scipy, their inverses, norms and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import torch

from kmatrix import ArgumentError, DtypeError, transforms
from kmatrix._permutations import even_odd_reversed

SIZES = [1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 37, 60, 64, 67, 97, 127, 128, 134, 243, 251, 256, 360]
LARGE = [509, 768, 1000, 1009, 1018, 1024]
NORMS = ["backward", "ortho", "forward"]
NAMES = ["dct", "idct", "dst", "idst"]


def exists(name: str, type: int, n: int) -> bool:
    return n > 1 or type > 1 or name.endswith("dst")


CASES = [(name, type, n) for name in NAMES for type in (1, 2, 3, 4) for n in SIZES if exists(name, type, n)]
LARGE_CASES = [(name, type, n) for name in ("dct", "dst") for type in (1, 2, 4) for n in LARGE]


def truth(name: str, n: int, **kind: Any) -> npt.NDArray[Any]:
    return getattr(scipy.fft, name)(np.eye(n), axis=0, **kind)


@pytest.mark.parametrize(("name", "type", "n"), CASES)
def test_every_type_and_norm_is_scipys(name: str, type: Any, n: int, units: Any) -> None:
    for norm in NORMS:
        kind = {"type": type, "norm": norm}
        matrix = getattr(transforms, name)(n, dtype=torch.float64, **kind)
        assert units(matrix, truth(name, n, **kind)) < 2
        assert matrix.num_params == sum(w.numel() for w in matrix.weights)


@pytest.mark.parametrize(("name", "type", "n"), LARGE_CASES)
def test_large_sizes_are_scipys(name: str, type: Any, n: int, units: Any) -> None:
    assert units(getattr(transforms, name)(n, type=type, dtype=torch.float64), truth(name, n, type=type)) < 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("type", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [2, 31, 97, 256, 1000])
def test_single_precision_errs_within_a_unit_of_rounding(name: str, type: Any, n: int, units: Any) -> None:
    matrix = getattr(transforms, name)(n, type=type, dtype=torch.float32)
    assert units(matrix, truth(name, n, type=type)) < 1


@pytest.mark.parametrize(("name", "type", "n"), [c for c in CASES if c[0] in ("dct", "dst")])
def test_inverse_undoes(name: str, type: Any, n: int, units: Any) -> None:
    kind = {"type": type, "dtype": torch.float64}
    both = getattr(transforms, f"i{name}")(n, **kind) @ getattr(transforms, name)(n, **kind)
    assert units(both, np.eye(n)) < 4


@pytest.mark.parametrize(("name", "type", "n"), [c for c in CASES if c[2] in (3, 31, 64, 127, 251, 360)])
def test_orthonormal_transforms_are_orthogonal(name: str, type: Any, n: int) -> None:
    matrix = getattr(transforms, name)(n, type=type, norm="ortho", dtype=torch.float64)
    product = (matrix @ matrix.T).to_dense().detach().numpy()
    assert np.abs(product - np.eye(n)).max() < 1e-13


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("type", [2, 3, 4])
@pytest.mark.parametrize("n", [16, 60, 512])
def test_orthonormal_transforms_of_even_leaf_have_orthogonal_factors(name: str, type: Any, n: int) -> None:
    matrix = getattr(transforms, name)(n, type=type, norm="ortho", dtype=torch.float64)
    for w in matrix.weights:
        tiles = w.permute(0, 3, 1, 2)
        eye = torch.eye(w.shape[1], dtype=torch.float64).expand(*tiles.shape)
        torch.testing.assert_close(tiles @ tiles.mT, eye, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("type", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [8, 97, 120])
def test_tied_members_are_the_same_matrix(name: str, type: Any, n: int) -> None:
    kind = {"type": type, "dtype": torch.float64}
    free, tied = getattr(transforms, name)(n, **kind), getattr(transforms, name)(n, tied=True, **kind)
    torch.testing.assert_close(tied.to_dense(), free.to_dense(), rtol=0, atol=1e-13)
    assert tied.num_params <= free.num_params


def test_tied_blocks_are_stored_once() -> None:
    """Radix 4 over a leaf of 4: factors of 4 * 4 and 8 * 8 * (2, 8, 32) numbers."""
    assert transforms.dct(256, tied=True).num_params == 16 + 64 * (2 + 8 + 32)
    assert transforms.dst(256, tied=True).num_params == 16 + 64 * (2 + 8 + 32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("type", [2, 3, 4])
@pytest.mark.parametrize("k", range(2, 12))
def test_powers_of_two_take_four_n_log_n(name: str, type: Any, k: int) -> None:
    assert getattr(transforms, name)(2**k, type=type).num_params == 4 * 2**k * (k - 1)


def test_counts_of_other_sizes() -> None:
    """A leaf and 2 r n for every other radix; after an odd leaf the slots of one point more."""
    assert transforms.dct(1000).num_params == 1000 * (8 + 2 * (5 + 5 + 5))
    assert transforms.dct(243).num_params == (243 // 9) * (10 * 9 + 10 * 2 * (3 + 3 + 3))
    assert transforms.dct(31).num_params == 31**2


@pytest.mark.parametrize("k", range(5, 12))
def test_type_one_counts(k: int) -> None:
    """A leaf of s points has s/2 + 1 slots; every other radix r costs 4 r per slot."""
    n = 2**k
    cosine, sine = transforms.dct(n + 1, type=1), transforms.dst(n - 1, type=1)
    leaf = cosine.layout.factors[0].c - 1
    radices = 2 * (k - (leaf.bit_length() - 1))
    assert cosine.num_params == n // leaf * (leaf + 2) * (leaf + 1 + 2 * radices)
    leaf = sine.layout.factors[0].c
    radices = 2 * (k - (leaf.bit_length() - 1))
    assert sine.num_params == n // leaf * (leaf + 2) * (leaf + 2 * radices)


@pytest.mark.parametrize(("n", "numbers"), [(251, 251**2), (509, 92160), (1009, 208896)])
def test_large_primes_are_dense_until_a_chirp_halves_the_numbers(n: int, numbers: int) -> None:
    assert transforms.dct(n).num_params == transforms.dst(n).num_params == numbers


@pytest.mark.parametrize("n", [4, 31, 60, 128])
def test_type_two_is_a_turned_fourier_transform(n: int) -> None:
    """The phase of the sine transform is the corrected one, i exp(-i pi (k + 1) / 2n)."""
    fourier = transforms.dft(n, dtype=torch.complex128)
    order = transforms.permutation(even_odd_reversed(n), dtype=torch.complex128)
    spectrum = (fourier @ order).to_dense().detach().numpy()
    k = np.arange(n)
    cosine = 2 * np.real(np.exp(-0.5j * np.pi * k / n)[:, None] * spectrum)
    np.testing.assert_allclose(transforms.dct(n, dtype=torch.float64).to_dense().detach(), cosine, atol=1e-12)
    signs = np.where(k < (n + 1) // 2, 1, -1) * np.exp(-2j * np.pi * k / n)
    turned = fourier.to_dense().detach().numpy() @ np.diag(signs) @ np.eye(n)[even_odd_reversed(n)]
    sine = 2 * np.real(1j * np.exp(-0.5j * np.pi * (k + 1) / n)[:, None] * turned)
    np.testing.assert_allclose(transforms.dst(n, dtype=torch.float64).to_dense().detach(), sine, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_bad_requests_are_refused(name: str) -> None:
    make = getattr(transforms, name)
    with pytest.raises(ArgumentError, match=f"{name}: n=0"):
        make(0)
    with pytest.raises(ArgumentError, match=f"{name}: type=5: no such type"):
        make(8, type=5)
    with pytest.raises(ArgumentError, match=f"{name}: norm='unit'"):
        make(8, norm="unit")
    with pytest.raises(DtypeError, match=rf"{name}: dtype=torch\.complex128: the transform is real"):
        make(8, dtype=torch.complex128)


@pytest.mark.parametrize("name", ["dct", "idct"])
def test_type_one_needs_two_ends(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name}: n=1: type 1 has two ends"):
        getattr(transforms, name)(1, type=1)
