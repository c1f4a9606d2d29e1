"""The lemmas of appendix H: each combination against dense arithmetic, in the stated width and expansion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch

import kmatrix as km
from kmatrix import ArgumentError, Kaleidoscope
from kmatrix.constructions import (
    block_diagonal,
    hadamard,
    inverse,
    kronecker,
    permutation,
    product_of,
    scale,
    sum_of,
)

Draw = Callable[..., km.StructuredMatrix]
Dense = Callable[[km.StructuredMatrix], np.ndarray]


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (1, 3)])
def test_scale(draw: Draw, dense: Dense, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    matrix = draw(*shape, 2, 2)
    left, right = rng.standard_normal(shape[0]), rng.standard_normal(shape[1])
    result = scale(matrix, left=left, right=right)
    assert result.structure == matrix.structure
    close(dense(result), left[:, None] * dense(matrix) * right)
    close(dense(scale(matrix, right=1j * right)), 1j * dense(matrix) * right)
    close(dense(scale(matrix)), dense(matrix))


def test_scale_refuses(draw: Draw) -> None:
    with pytest.raises(ArgumentError, match=r"left\.size=3"):
        scale(draw(4, 4), left=[1.0, 2.0, 3.0])
    with pytest.raises(ArgumentError, match="not a K-matrix"):
        scale(km.Butterfly().random(4, 4), left=[1.0] * 4)


def test_product(draw: Draw, dense: Dense) -> None:
    terms = [draw(5, 7, 1, 2), draw(7, 3, 2, 1), draw(3, 9, 1, 1)]
    result = product_of(terms)
    assert result.structure == Kaleidoscope(width=4, expansion=1)  # 16 points hold 5 x 9, and 7 x 5 expanded
    close(dense(result), dense(terms[0]) @ dense(terms[1]) @ dense(terms[2]))
    square = product_of([draw(4, 4, 1, 4), draw(4, 4, 2, 1)])
    assert square.structure == Kaleidoscope(width=3, expansion=4)


def test_product_does_not_leak_out_of_corners(draw: Draw, dense: Dense) -> None:
    # A wide inner shape and narrow outer ones: without the mask, padding would carry values across.
    terms = [draw(2, 2, 1, 4), draw(2, 2, 1, 4)]
    close(dense(product_of(terms)), dense(terms[0]) @ dense(terms[1]))


def test_product_refuses(draw: Draw) -> None:
    with pytest.raises(ArgumentError, match="cannot multiply"):
        product_of([draw(3, 4), draw(3, 4)])
    with pytest.raises(ArgumentError, match="nothing to combine"):
        product_of([])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_inverse(draw: Draw, dense: Dense, dtype: torch.dtype) -> None:
    matrix = draw(16, 16, 2, 1, dtype)
    with torch.no_grad():  # move away from singular blocks
        for stored in matrix.parameters():
            stored.mul_(0.1)
            (stored[..., 0] if dtype.is_complex else stored).add_(
                torch.eye(2, dtype=torch.float64)[..., None]
            )
    result = inverse(matrix)
    assert result.structure == matrix.structure
    close(dense(result) @ dense(matrix), np.eye(16))


def test_inverse_refuses(draw: Draw) -> None:
    for matrix in (draw(3, 3), draw(4, 8), draw(4, 4, 1, 2)):
        with pytest.raises(ArgumentError, match="corner"):
            inverse(matrix)
    with pytest.raises(ArgumentError, match="singular"):
        inverse(km.constructions.low_rank([[1.0], [1.0]], [[1.0, 1.0]]))


@pytest.mark.parametrize("terms", range(1, 12))
def test_sum(draw: Draw, dense: Dense, terms: int) -> None:
    matrices = [draw(5, 7, 1 + k % 2, 1 + k % 2) for k in range(terms)]
    result = sum_of(matrices)
    width, expansion = (2, 2) if terms > 1 else (1, 1)
    assert result.structure.width == width * max(1, math.ceil(terms / 2) - 1) <= width * terms
    assert result.structure.expansion == expansion * {1: 1, 2: 2}.get(terms, 4)
    close(dense(result), sum(dense(matrix) for matrix in matrices))


def test_sum_in_the_smallest_size(draw: Draw, dense: Dense) -> None:
    matrices = [draw(1, 1) for _ in range(5)]
    result = sum_of(matrices)
    assert result.num_params == sum(w.numel() for w in result.weights)
    close(dense(result), sum(dense(matrix) for matrix in matrices))


def test_sum_refuses(draw: Draw) -> None:
    with pytest.raises(ArgumentError, match="they differ"):
        sum_of([draw(3, 4), draw(4, 3)])


def test_block_diagonal(draw: Draw, dense: Dense) -> None:
    blocks = [draw(4, 4, 1, 2), draw(4, 4, 2, 1), draw(4, 4, 1, 4)]
    result = block_diagonal(blocks)
    assert result.shape == (12, 12)
    assert result.structure == Kaleidoscope(width=2, expansion=4)
    close(dense(result), scipy.linalg.block_diag(*(dense(block) for block in blocks)))


def test_block_diagonal_refuses(draw: Draw) -> None:
    for blocks in ([draw(3, 3)], [draw(4, 4), draw(2, 2)], [draw(4, 8)], [draw(1, 1)]):
        with pytest.raises(ArgumentError, match="power-of-two size"):
            block_diagonal(blocks)


def test_kronecker(draw: Draw, dense: Dense) -> None:
    a, b = draw(5, 3, 2, 4), draw(4, 4, 1, 2)
    result = kronecker(a, b)
    assert result.shape == (20, 12)
    assert result.structure == Kaleidoscope(width=2, expansion=8)
    close(dense(result), np.kron(dense(a), dense(b)))


def test_kronecker_of_butterflies_is_one_butterfly(dense: Dense) -> None:
    result = kronecker(hadamard(4, dtype=torch.float64), hadamard(8, dtype=torch.float64))
    assert result.structure == Kaleidoscope(width=1, expansion=1)
    np.testing.assert_array_equal(dense(result), scipy.linalg.hadamard(32))


def test_kronecker_refuses(draw: Draw) -> None:
    for b in (draw(3, 3), draw(4, 2), draw(1, 1)):
        with pytest.raises(ArgumentError, match=r"b\.shape"):
            kronecker(draw(4, 4), b)


def test_number_types_are_joined(draw: Draw) -> None:
    real, wide = permutation([1, 0], dtype=torch.float32), permutation([1, 0], dtype=torch.complex128)
    assert sum_of([real, real]).dtype == torch.float32
    assert product_of([real, wide]).dtype == torch.complex128
