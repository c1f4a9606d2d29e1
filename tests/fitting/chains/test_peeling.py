"""Peeling takes members of BB* apart exactly, real and complex, and never fails on other matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.fitting.chains.peeling import Peeled, peel
from kmatrix.structures import OBB, ChainMatrix

PAIR = km.Kaleidoscope(width=1)


def rebuilt(found: Peeled) -> Tensor:
    n = len(found.diagonal)
    return ChainMatrix.from_weights(PAIR, (n, n), found.weights).to_dense().detach()


def gap(matrix: Tensor) -> float:
    found = rebuilt(peel(matrix))
    return float(torch.linalg.vector_norm(found - matrix) / torch.linalg.vector_norm(matrix))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("n", [2, 4, 8, 32, 128])
def test_generic_members_come_apart(n: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(n)
    member = PAIR.random(n, n, dtype=dtype, generator=generator).to_dense().detach()
    found = peel(member)
    assert [w.dtype for w in found.weights] == [dtype] * len(found.weights)
    assert gap(member) < 1e-10


@pytest.mark.parametrize("n", [4, 16, 64])
def test_circulant_matrices_come_apart_over_the_complex_numbers(n: int) -> None:
    column = np.random.default_rng(n).standard_normal(n)
    assert gap(torch.from_numpy(scipy.linalg.circulant(column))) < 1e-13


def test_hadamard_matrices_come_apart() -> None:
    assert gap(torch.from_numpy(scipy.linalg.hadamard(32).astype(float))) < 1e-13


def test_factors_of_orthogonal_members_are_orthogonal() -> None:
    member = OBB().random(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        member.stored_diagonals.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
    found = peel(member.to_dense().detach())
    for weight in (*found.shrinking, *found.growing):
        blocks = weight.permute(0, 3, 1, 2)
        eye = torch.eye(2, dtype=torch.float64).expand_as(blocks)
        torch.testing.assert_close(blocks.mT @ blocks, eye, rtol=0, atol=1e-11)
    expected = member.diagonals[0].detach().abs().sort().values
    torch.testing.assert_close(found.diagonal.sort().values, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_scale_does_not_matter(scale: float) -> None:
    member = PAIR.random(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert gap(member.to_dense().detach() * scale) < 1e-10


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(8, 8, dtype=torch.float64),
        torch.eye(16, dtype=torch.float64),
        torch.ones(16, 16, dtype=torch.float64),
        torch.eye(16, dtype=torch.float64).roll(3, 0).flip(1),
        torch.diag(torch.arange(32.0, dtype=torch.float64)),
        torch.arange(64.0 * 64, dtype=torch.float64).reshape(64, 64).sin(),
    ],
    ids=["zero", "identity", "ones", "permutation", "diagonal", "none of these"],
)
def test_other_matrices_give_finite_factors(matrix: Tensor) -> None:
    for weight in peel(matrix).weights:
        assert bool(torch.isfinite(weight.abs()).all())
