"""Sparse matrices in the orthogonal hierarchy: right values, and only one factor in a pair not orthogonal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kmatrix import ArgumentError
from kmatrix.constructions import sparse_obb


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("fill", [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 3), (5, 8), (16, 16), (9, 20)])
def test_values_and_orthogonality(shape: tuple[int, int], fill: float, is_complex: bool) -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0.0)
    target *= rng.random(shape) < fill
    matrix = sparse_obb(target)
    np.testing.assert_allclose(matrix.to_dense().detach().numpy(), target, rtol=0, atol=1e-12)

    size = max(2, 1 << (max(shape) - 1).bit_length())
    groups = max(1, math.ceil(np.count_nonzero(target) / size))
    assert matrix.structure.width == 4 * groups
    assert matrix.structure.expansion == (1 if groups == 1 else 4)

    per_half = len(matrix.weights) // (2 * matrix.structure.width)
    for k, w in enumerate(matrix.weights):
        gram = torch.einsum("arcd,ared->aced", w.conj(), w)
        assert gram[:, 0, 1].abs().max() < 1e-12
        if k % (2 * per_half) != per_half:  # all but the first factor of a half of class B, which takes D
            ones = torch.ones_like(gram[:, 0, 0])
            torch.testing.assert_close(gram[:, 0, 0], ones, rtol=0, atol=1e-13)
            torch.testing.assert_close(gram[:, 1, 1], ones, rtol=0, atol=1e-13)


def test_refuses() -> None:
    with pytest.raises(ArgumentError, match="not finite"):
        sparse_obb([[math.nan]])
