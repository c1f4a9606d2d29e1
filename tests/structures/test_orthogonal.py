"""Orthogonal butterflies and OBB: orthogonal whatever the numbers are, and both signs of the determinant."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import (
    OBB,
    Butterfly,
    OBBMatrix,
    OrthogonalButterfly,
    OrthogonalButterflyMatrix,
    Structure,
    StructuredMatrix,
)

EXAMPLES: list[tuple[Structure, int, int]] = [
    (OrthogonalButterfly(), 8, 8),
    (OrthogonalButterfly(), 30, 30),
    (OrthogonalButterfly(), 13, 13),
    (OrthogonalButterfly(), 12, 7),
    (OrthogonalButterfly(), 5, 6),
    (OrthogonalButterfly(), 1, 1),
    (OrthogonalButterfly(radices=(4, 4)), 16, 16),
    (OrthogonalButterfly(unitary=True), 8, 8),
    (OrthogonalButterfly(unitary=True), 12, 10),
    (OBB(), 8, 8),
    (OBB(width=2), 12, 7),
    (OBB(), 1, 13),
    (OBB(), 1, 1),
    (OBB(width=2, unitary=True), 6, 6),
]


def draw(structure: OrthogonalButterfly | OBB, m: int, n: int, seed: int = 0) -> StructuredMatrix:
    dtype = torch.complex128 if structure.unitary else torch.float64
    return structure.random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def eye(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype)


@pytest.mark.parametrize("unitary", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 12, 25, 30])
def test_orthogonal_whatever_the_numbers(n: int, unitary: bool) -> None:
    A = draw(OrthogonalButterfly(unitary=unitary), n, n)
    with torch.no_grad():
        for p in A.parameters():
            p.add_(torch.randn_like(p), alpha=3.0)
    dense = A.to_dense().detach()
    torch.testing.assert_close(dense.mH @ dense, eye(n, dense), rtol=0, atol=1e-13)


@pytest.mark.parametrize("unitary", [False, True])
@pytest.mark.parametrize(("m", "n"), [(12, 7), (7, 12), (1, 6), (16, 3)])
def test_rectangular_members_are_semi_orthogonal(m: int, n: int, unitary: bool) -> None:
    dense = draw(OrthogonalButterfly(unitary=unitary), m, n).to_dense().detach()
    gram = dense.mH @ dense if m > n else dense @ dense.mH
    torch.testing.assert_close(gram, eye(min(m, n), dense), rtol=0, atol=1e-13)


def test_training_keeps_it_orthogonal() -> None:
    A = draw(OrthogonalButterfly(), 12, 12)
    target = torch.randn(12, 12, dtype=torch.float64)
    optimizer = torch.optim.Adam(A.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (A.to_dense() - target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    dense = A.to_dense().detach()
    torch.testing.assert_close(dense.mT @ dense, eye(12, dense), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_random_draws_both_signs_of_the_determinant(n: int) -> None:
    draws = [draw(OrthogonalButterfly(), n, n, seed).to_dense() for seed in range(20)]
    signs = {round(torch.linalg.det(dense).item()) for dense in draws}
    assert signs == {-1, 1}


@pytest.mark.parametrize("n", [8, 12, 30])
def test_is_a_butterfly_of_the_same_layout(n: int) -> None:
    assert OrthogonalButterfly().layout(n, n) == Butterfly().layout(n, n)


def test_radix_two_is_a_rotation_by_its_angle() -> None:
    A = OrthogonalButterfly().empty(2, 2, dtype=torch.float64)
    assert isinstance(A, OrthogonalButterflyMatrix)
    with torch.no_grad():
        A.angles[0].fill_(math.pi / 6)
    c, s = 3**0.5 / 2, 0.5
    expected = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    torch.testing.assert_close(A.to_dense().detach(), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("unitary", [False, True])
@pytest.mark.parametrize("n", [2, 8, 12, 13])
def test_singular_values_of_obb_are_the_diagonal(n: int, unitary: bool) -> None:
    A = draw(OBB(unitary=unitary), n, n)
    assert isinstance(A, OBBMatrix)
    with torch.no_grad():
        A.stored_diagonals.normal_()
        A.stored_diagonals[0, 0] = 0.0
    expected = A.diagonals[0].detach().abs().sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(A.to_dense().detach()), expected, rtol=0, atol=1e-13)


def test_obb_starts_orthogonal() -> None:
    dense = draw(OBB(width=2), 12, 12).to_dense().detach()
    torch.testing.assert_close(dense.mT @ dense, eye(12, dense), rtol=0, atol=1e-13)


def test_obb_contains_the_swap() -> None:
    """A permutation of determinant -1, from rotations and a diagonal of free sign."""
    A = OBB().empty(2, 2, dtype=torch.float64)
    with torch.no_grad():
        A.angles[0].fill_(-math.pi / 4)
        A.angles[1].fill_(math.pi / 4)
        A.stored_diagonals.copy_(torch.tensor([[1.0, -1.0]]))
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(A.to_dense().detach(), swap, rtol=0, atol=1e-15)


def test_wider_obb_is_a_product_of_terms() -> None:
    terms = [draw(OBB(), 12, 12, seed) for seed in (1, 2)]
    wide = OBB(width=2).empty(12, 12, dtype=torch.float64)
    angles = [angle for term in terms for angle in term.angles]
    with torch.no_grad():
        for mine, its in zip(wide.angles, angles, strict=True):
            mine.copy_(its)
        for term in terms:
            term.stored_diagonals.normal_()
        wide.stored_diagonals.copy_(torch.cat([term.stored_diagonals for term in terms]))
        expected = terms[1].to_dense() @ terms[0].to_dense()
        torch.testing.assert_close(wide.to_dense(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_orthogonal_up_to_rounding(dtype: torch.dtype) -> None:
    A = OrthogonalButterfly().random(12, 12, dtype=dtype)
    dense = A.to_dense().detach().double()
    assert (dense.mT @ dense - eye(12, dense)).abs().max() < 8 * torch.finfo(dtype).eps


def test_counts() -> None:
    assert OrthogonalButterfly().num_params(1024, 1024) == 512 * 10
    assert OrthogonalButterfly(unitary=True).num_params(1024, 1024) == 2 * 512 * 10
    assert OrthogonalButterfly().num_params(12, 7) == 6 + 6 + 4 * 3
    assert OrthogonalButterfly(radices=(4, 4)).num_params(16, 16) == 8 * 6
    assert OBB().num_params(1024, 1024) == 1024 * 10 + 1024
    assert OBB(width=3).num_params(8, 8) == 3 * (8 * 3 + 8)
    # Three rows of nine real angles, two to a complex number, and the complex diagonal.
    assert OBB(unitary=True).num_params(3, 3) == 9 + 3
    assert OrthogonalButterfly().flops(8, 8) == Butterfly().flops(8, 8)


def test_misuse_is_explained() -> None:
    with pytest.raises(ArgumentError, match=r"not max\(m, n\) = 10: padding would not stay orthogonal"):
        OrthogonalButterfly(radices=(2, 4)).random(10, 10)
    with pytest.raises(ArgumentError, match="width=0"):
        OBB(width=0)
    with pytest.raises(DtypeError, match=r"use OBB\(unitary=True\)"):
        OBB().random(4, 4, dtype=torch.complex64)
    with pytest.raises(DtypeError, match="unitary matrices are complex"):
        OrthogonalButterfly(unitary=True).random(4, 4, dtype=torch.float64)
