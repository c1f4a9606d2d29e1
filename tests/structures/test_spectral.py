"""The cosine transform and the operation counts of the FFT."""

from __future__ import annotations

import pytest
import scipy.fft
import torch

from kmatrix.structures.spectral import cosine, fft_flops, good_size, inverse_cosine


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 30, 64])
def test_cosine_is_the_orthonormal_dct_of_scipy(n: int) -> None:
    x = torch.randn(3, n, dtype=torch.float64)
    torch.testing.assert_close(
        cosine(x), torch.as_tensor(scipy.fft.dct(x.numpy(), norm="ortho")), rtol=0, atol=1e-14
    )
    torch.testing.assert_close(
        inverse_cosine(x), torch.as_tensor(scipy.fft.idct(x.numpy(), norm="ortho")), rtol=0, atol=1e-14
    )


def test_cosine_takes_an_empty_batch() -> None:
    assert cosine(torch.empty(0, 6)).shape == inverse_cosine(torch.empty(0, 6)).shape == (0, 6)


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 8), (799, 800), (1021, 1024)])
def test_good_sizes(n: int, size: int) -> None:
    assert good_size(n) == size


def test_fft_operations() -> None:
    assert fft_flops(1) == 0
    assert fft_flops(16) == 160
    assert fft_flops(16, in_complex=True) == 96
    # Bluestein: two FFTs of 25 points, a product between them, two chirps of 13.
    assert fft_flops(13, in_complex=True) == 2 * fft_flops(25, in_complex=True) + 25 + 26
    assert fft_flops(13) > 4 * fft_flops(14)
