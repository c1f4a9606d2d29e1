"""Pictures of matrices: colours that say zero, sign and phase, and shrinking that loses no entry that matters."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from kmatrix.report.pixels import (
    NEGATIVE,
    PIXELS,
    POSITIVE,
    ZERO,
    colours,
    picture,
    png,
    sparse_picture,
)


def decoded(address: str) -> np.ndarray:
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return np.round(255 * imread(io.BytesIO(base64.b64decode(data)), format="png")).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (256, 5)])
def test_a_png_reads_back_as_it_was_drawn(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(png(image))[..., :3], image)


def test_zero_is_grey_and_signs_have_their_hues() -> None:
    drawn = colours(torch.tensor([[0.0, 2.0, -2.0]]))
    assert drawn[0].tolist() == [list(ZERO), list(POSITIVE), list(NEGATIVE)]


def test_real_numbers_look_the_same_in_a_complex_matrix() -> None:
    matrix = torch.tensor([[0.0, 1.0, -1.0, 0.25, -0.5]])
    np.testing.assert_array_equal(colours(matrix), colours(matrix.to(torch.complex128)))


def test_phases_differ_and_the_circle_closes() -> None:
    angles = torch.linspace(0, 2 * torch.pi, 9, dtype=torch.float64)
    drawn = colours(torch.polar(torch.ones(9, dtype=torch.float64), angles)[None])[0]
    assert len({tuple(c) for c in drawn[:8].tolist()}) == 8
    assert np.abs(drawn[0].astype(int) - drawn[8]).max() <= 1


def test_depth_is_relative_to_the_largest_entry_or_to_what_is_given() -> None:
    small = torch.tensor([[1e-300, 5e-301]], dtype=torch.float64)
    np.testing.assert_array_equal(colours(small), colours(small * 1e300))
    assert colours(small, largest=1.0)[0, 0].tolist() == [255, 255, 255]


def test_a_zero_matrix_is_all_grey() -> None:
    assert {tuple(c) for c in colours(torch.zeros(4, 4)).reshape(-1, 3).tolist()} == {ZERO}


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize("place", [(0, 0), (999, 600), (501, 3)])
def test_a_single_large_entry_survives_shrinking(dtype: torch.dtype, place: tuple[int, int]) -> None:
    matrix = torch.zeros(1000, 601, dtype=dtype)
    matrix[place] = -3
    drawn = decoded(picture(matrix, "one entry").image)[..., :3]
    assert max(drawn.shape[:2]) <= PIXELS
    marked = (drawn != list(ZERO)).any(axis=2)
    assert marked.sum() == 1
    assert drawn[marked][0].tolist() == list(NEGATIVE)


@pytest.mark.parametrize("shape", [(5, 9), (300, 700), (1025, 256)])
def test_a_sparse_picture_is_that_of_the_dense_matrix(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.01)
    rows, cols = matrix.nonzero(as_tuple=True)
    drawn = sparse_picture(rows, cols, matrix[rows, cols], shape, "sparse")
    assert drawn.image == picture(matrix, "dense").image
    assert drawn.shape == shape


def test_a_sparse_picture_never_lays_the_matrix_out() -> None:
    n = 10**7  # dense, this would be 10**14 entries
    index = torch.arange(0, n, 1000)
    drawn = decoded(sparse_picture(index, index, torch.ones(len(index)), (n, n), "diagonal").image)
    assert drawn.shape[:2] == (PIXELS, PIXELS)
    assert drawn[7, 7, :3].tolist() == list(POSITIVE)
    assert drawn[7, 9, :3].tolist() == list(ZERO)
