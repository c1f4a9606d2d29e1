"""Circulant, Toeplitz and Hankel matrices and convolutions against scipy, tied and as chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import torch

from kmatrix import ArgumentError, DtypeError, Factor, Permute, transforms

SIZES = [1, 2, 3, 4, 7, 12, 16, 31, 60, 64, 97, 127, 128, 243, 251, 360, 509]
SHAPES = [(1, 1), (1, 9), (9, 1), (31, 12), (12, 31), (64, 64), (100, 250), (257, 96)]
IMAGES = [(1, 1), (1, 7), (5, 1), (4, 4), (8, 12), (9, 16), (3, 67), (28, 28)]


def numbers(*shape: int, dtype: Any = torch.float64) -> npt.NDArray[Any]:
    rng = np.random.default_rng(sum(shape))
    real = rng.standard_normal(shape)
    return real + 1j * rng.standard_normal(shape) if dtype.is_complex else real


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("n", SIZES)
def test_circulant_is_scipys(n: int, dtype: torch.dtype, units: Any) -> None:
    c = numbers(n, dtype=dtype)
    tied, chain = transforms.circulant(c), transforms.circulant_chain(c)
    assert tied.num_params == n
    assert chain.num_params == sum(w.numel() for w in chain.weights)
    for matrix in (tied, chain):
        assert matrix.dtype == dtype
        assert units(matrix, scipy.linalg.circulant(c)) < 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_toeplitz_is_scipys(m: int, n: int, dtype: torch.dtype, units: Any) -> None:
    c, r = numbers(m, dtype=dtype), numbers(n, dtype=dtype)
    truth = scipy.linalg.toeplitz(c, r)
    assert transforms.toeplitz(c, r).num_params == m + n - 1
    assert units(transforms.toeplitz(c, r), truth) < 4
    assert units(transforms.toeplitz_chain(c, r), truth) < 4
    assert units(transforms.toeplitz_chain(c), scipy.linalg.toeplitz(c)) < 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_hankel_is_scipys(m: int, n: int, dtype: torch.dtype, units: Any) -> None:
    c, r = numbers(m, dtype=dtype), numbers(n, dtype=dtype)
    assert transforms.hankel(c, r).num_params == m + n - 1
    assert units(transforms.hankel(c, r), scipy.linalg.hankel(c, r)) < 4
    assert units(transforms.hankel(c), scipy.linalg.hankel(c)) < 4


@pytest.mark.parametrize("n", [31, 97, 256, 360])
def test_single_precision_errs_within_a_few_units_of_rounding(n: int, units: Any) -> None:
    c = numbers(n)
    for dtype in (torch.float32, torch.complex64):
        assert units(transforms.circulant_chain(c, dtype=dtype), scipy.linalg.circulant(c)) < 2
        assert units(transforms.toeplitz_chain(c, dtype=dtype), scipy.linalg.toeplitz(c)) < 2


@pytest.mark.parametrize("n", [16, 60, 64, 360])
def test_complex_circulant_chain_is_in_bb_star_without_permutation(n: int) -> None:
    """Strides shrink to 1, then grow back: one butterfly and one transposed butterfly that share a factor."""
    stages = transforms.circulant_chain(numbers(n), dtype=torch.complex128).layout.stages
    assert all(isinstance(stage, Factor) and stage.b == stage.c for stage in stages)
    strides = [stage.d for stage in stages if isinstance(stage, Factor)]
    half = len(strides) // 2
    assert strides == strides[::-1]
    assert strides[half:] == sorted(strides[half:])
    assert strides[half] == 1


@pytest.mark.parametrize("n", [16, 60, 97])
def test_real_circulant_chain_permutes_only_at_the_ends(n: int) -> None:
    stages = transforms.circulant_chain(numbers(n)).layout.stages
    assert not any(isinstance(stage, Permute) for stage in stages[1:-1])


@pytest.mark.parametrize("k", range(6, 12))
def test_counts_of_powers_of_two(k: int) -> None:
    n = 2**k
    c = numbers(n)
    assert transforms.circulant_chain(c, dtype=torch.complex64).num_params == 4 * n * (k - 1)
    assert transforms.circulant_chain(c).num_params == 8 * n * (k - 2)
    assert transforms.toeplitz_chain(c, dtype=torch.complex64).num_params == 8 * n * (k - 1)
    assert transforms.toeplitz_chain(c).num_params == 16 * n * (k - 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_large_primes_hold_at_most_half_of_dense(dtype: torch.dtype) -> None:
    for n in (509, 1009):
        assert transforms.circulant_chain(np.ones(n), dtype=dtype).num_params <= n * n / 2


@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 3), (1, 8), (3, 31), (17, 100)])
def test_conv1d_is_circular_convolution(k: int, n: int) -> None:
    kernel, x = numbers(k), np.random.default_rng(0).standard_normal(n)
    expected = scipy.ndimage.convolve1d(x, np.roll(np.pad(kernel, (0, 2 * n - k + 1)), n), mode="wrap")
    np.testing.assert_allclose(transforms.conv1d(kernel, n) @ x, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("h", "w"), IMAGES)
def test_conv2d_is_circular_convolution(h: int, w: int, dtype: torch.dtype) -> None:
    kernel = numbers((h + 1) // 2, (w + 2) // 3, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((3, h, w))
    matrix = transforms.conv2d(kernel, (h, w))
    assert matrix.dtype == dtype
    assert matrix.num_params == sum(weight.numel() for weight in matrix.weights)
    spectrum = scipy.fft.fft2(x) * scipy.fft.fft2(kernel, (h, w))
    expected = scipy.fft.ifft2(spectrum).reshape(3, -1)
    got = matrix @ x.reshape(3, -1).T
    np.testing.assert_allclose(got.T, expected if dtype.is_complex else expected.real, atol=1e-12)


def test_transpose_of_conv2d_is_the_correlation_of_neural_networks() -> None:
    kernel, image = torch.randn(3, 3, dtype=torch.float64), torch.randn(1, 1, 8, 10, dtype=torch.float64)
    wrapped = torch.nn.functional.pad(image, (0, 2, 0, 2), mode="circular")
    expected = torch.nn.functional.conv2d(wrapped, kernel[None, None])
    got = transforms.conv2d(kernel, (8, 10)).T(image.reshape(-1))
    torch.testing.assert_close(got, expected.reshape(-1), rtol=0, atol=1e-12)


def test_counts_of_conv2d() -> None:
    """Radices 7 and 4 both ways, the first of the width merged; 2 x 2 blocks, half of them at the ends."""
    n, kernel = 28 * 28, np.ones((3, 3))
    assert transforms.conv2d(kernel, (28, 28), dtype=torch.complex64).num_params == n * (7 + 2 * (4 + 4 + 7))
    assert transforms.conv2d(kernel, (28, 28)).num_params == n * (4 * (7 + 2 * (4 + 4)) + 2 * 2 * 7)


def test_numbers_may_come_as_lists_arrays_and_tensors() -> None:
    for c in ([1, 2, 3], np.array([1.0, 2.0, 3.0], dtype=np.float32), torch.tensor([1.0, 2.0, 3.0])):
        matrix = transforms.circulant_chain(c)
        assert matrix.dtype == torch.float32
        assert matrix.to_dense().round().int()[:, 0].tolist() == [1, 2, 3]
    assert transforms.circulant(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert transforms.toeplitz([1.0, 2.0], [1.0, 2j]).dtype == torch.complex128


MAKERS: dict[str, Any] = {
    "circulant": transforms.circulant,
    "circulant_chain": transforms.circulant_chain,
    "toeplitz": transforms.toeplitz,
    "toeplitz_chain": transforms.toeplitz_chain,
    "hankel": transforms.hankel,
    "conv1d": lambda c, **kind: transforms.conv1d(c, 8, **kind),
    "conv2d": lambda c, **kind: transforms.conv2d(np.asarray(c)[None], (8, 8), **kind),
}


@pytest.mark.parametrize("name", MAKERS)
def test_bad_numbers_are_refused(name: str) -> None:
    make = MAKERS[name]
    for bad in (np.nan, np.inf):
        with pytest.raises(ArgumentError, match=f"{name}: .*not finite"):
            make([1.0, bad])
    with pytest.raises(ArgumentError, match=f"{name}: .*shape=.*must have"):
        make([])
    with pytest.raises(ArgumentError, match=f"{name}: .*shape=.*must have"):
        make([[1.0, 2.0]])
    with pytest.raises(DtypeError, match=rf"{name}: dtype=torch\.float64: (c|kernel) is complex"):
        make([1.0, 1j], dtype=torch.float64)
    with pytest.raises(DtypeError, match=f"{name}: dtype=torch.int64"):
        make([1.0, 2.0], dtype=torch.int64)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(DtypeError, match="circulant: c=str: not an array of numbers"):
        transforms.circulant("abc")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"toeplitz: r\.shape"):
        transforms.toeplitz([1.0], [])
    with pytest.raises(ArgumentError, match=r"hankel: r=array\(2,\): holds numbers that are not finite"):
        transforms.hankel([1.0], [1.0, np.nan])


def test_kernels_must_fit_the_signals() -> None:
    with pytest.raises(ArgumentError, match=r"conv1d: kernel\.shape=\(3,\): larger than the signals"):
        transforms.conv1d([1.0, 2.0, 3.0], 2)
    with pytest.raises(ArgumentError, match=r"conv2d: kernel\.shape=\(1, 3\): larger than the signals"):
        transforms.conv2d([[1.0, 2.0, 3.0]], (4, 2))
    with pytest.raises(ArgumentError, match="conv2d: shape=4: not a height and a width"):
        transforms.conv2d([[1.0]], 4)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="conv1d: n=0"):
        transforms.conv1d([1.0], 0)
