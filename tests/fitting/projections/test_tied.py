"""Projections onto repeated entries and permutations: optimal, idempotent, and exact on members."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError
from kmatrix.fitting.projections.nearest import project
from kmatrix.fitting.projections.tied import TiedStructure, project_permutation, project_tied, shared_numbers
from kmatrix.structures import BlockCirculant, Circulant, Hankel, Permutation, Structure, Toeplitz, Transpose

TIED: list[tuple[TiedStructure, int, int]] = [
    (Toeplitz(), 7, 5),
    (Toeplitz(), 1, 4),
    (Hankel(), 4, 11),
    (Hankel(), 6, 1),
    (Circulant(), 13, 13),
    (Circulant(), 1, 1),
    (BlockCirculant(3), 6, 9),
    (BlockCirculant(3), 7, 11),
    (BlockCirculant(8), 5, 6),
]
EXAMPLES: list[tuple[Structure, int, int]] = [*TIED, (Permutation(), 7, 7)]
WIDE = [torch.float64, torch.complex128]


def least_squares(structure: TiedStructure, target: Tensor, weight: Tensor) -> Tensor:
    """The closest member by solving the (weighted) least squares problem over a basis of the class."""
    m, n = target.shape
    count = structure.num_params(m, n)
    basis = torch.zeros(count, m * n, dtype=target.dtype)
    for k in range(count):
        member = structure.empty(m, n, dtype=target.dtype)
        with torch.no_grad():
            member.numbers.zero_()
            member.numbers.view(-1)[k] = 1.0
            basis[k] = member.to_dense().flatten()
    root = weight.sqrt().flatten().to(target.dtype)
    solution = torch.linalg.pinv((basis * root).mT) @ (target.flatten() * root)
    return (solution @ basis).reshape(m, n)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(("structure", "m", "n"), TIED)
def test_is_the_least_squares_solution(structure: TiedStructure, m: int, n: int, dtype: torch.dtype) -> None:
    target, weight = torch.randn(m, n, dtype=dtype), torch.rand(m, n, dtype=torch.float64) + 0.1
    plain, weighted = project_tied(target, structure), project_tied(target, structure, weight)
    ones = torch.ones_like(weight)
    torch.testing.assert_close(
        plain.to_dense().detach(), least_squares(structure, target, ones), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        weighted.to_dense().detach(), least_squares(structure, target, weight), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(("structure", "m", "n"), TIED)
def test_members_project_to_themselves(structure: TiedStructure, m: int, n: int, dtype: torch.dtype) -> None:
    member = structure.random(m, n, dtype=dtype).to_dense().detach()
    again = project_tied(member, structure)
    assert again.structure == structure and again.dtype == dtype
    torch.testing.assert_close(again.to_dense().detach(), member, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("structure", "m", "n"), TIED)
def test_shared_numbers_names_the_number_of_each_entry(structure: TiedStructure, m: int, n: int) -> None:
    A = structure.random(m, n, dtype=torch.float64)
    expected = A.numbers.flatten()[shared_numbers(structure, m, n)]
    torch.testing.assert_close(A.to_dense(), expected, rtol=0, atol=1e-13)


def test_entries_of_no_weight_do_not_matter() -> None:
    target, weight = torch.randn(6, 4, dtype=torch.float64), torch.ones(6, 4)
    weight[:, 0] = 0.0
    spoiled = target.clone()
    spoiled[:, 0] = 1e6
    A = project_tied(spoiled, Toeplitz(), weight)
    torch.testing.assert_close(A.numbers, project_tied(target, Toeplitz(), weight).numbers)
    # The bottom left diagonal has no entry left.
    assert A.numbers[-1] == 0


@pytest.mark.parametrize("dtype", WIDE)
def test_permutation_is_the_closest_of_all(dtype: torch.dtype) -> None:
    target = torch.randn(5, 5, dtype=dtype)
    everyone = (torch.eye(5, dtype=dtype)[list(p)] for p in itertools.permutations(range(5)))
    best = min(float(torch.linalg.matrix_norm(target - P)) for P in everyone)
    A = project_permutation(target, Permutation())
    assert A.dtype == dtype
    assert float(torch.linalg.matrix_norm(target - A.to_dense())) == pytest.approx(best, rel=1e-14)


def test_permutations_project_to_themselves_under_noise() -> None:
    member = Permutation().random(30, 30, dtype=torch.float64).to_dense()
    noisy = member + 0.3 * torch.rand(30, 30, dtype=torch.float64)
    assert torch.equal(project_permutation(noisy, Permutation()).to_dense(), member)


def test_a_kind_with_one_member_gives_it() -> None:
    A = project_permutation(torch.eye(4), Permutation("reverse"))
    assert torch.equal(A.to_dense(), torch.eye(4).flip(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
@pytest.mark.parametrize(("structure", "m", "n"), EXAMPLES)
def test_project_knows_these_families(structure: Structure, m: int, n: int, dtype: torch.dtype) -> None:
    target = torch.randn(m, n, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)
    A = project(structure, target)
    assert A.structure == structure and A.dtype == dtype
    if isinstance(structure, Permutation):
        expected = project_permutation(target, structure)
    else:
        expected = project_tied(target, structure)  # type: ignore[arg-type]
    assert torch.equal(A.to_dense(), expected.to_dense())


def test_the_transpose_is_projected_through_its_base() -> None:
    target = torch.randn(5, 7, dtype=torch.complex128)
    A = project(Transpose(Toeplitz(), conjugate=True), target)
    torch.testing.assert_close(A.to_dense(), project_tied(target, Toeplitz()).to_dense(), rtol=0, atol=1e-13)


def test_misuse_is_explained() -> None:
    with pytest.raises(ArgumentError, match="circulant matrices are square"):
        project_tied(torch.zeros(3, 4), Circulant())
    with pytest.raises(ArgumentError, match="not 3 x 4 real numbers that are not negative"):
        project_tied(torch.zeros(3, 4), Toeplitz(), -torch.ones(3, 4))
    with pytest.raises(ArgumentError, match=r"weight=\(4, 3\)"):
        project_tied(torch.zeros(3, 4), Toeplitz(), torch.ones(4, 3))
    with pytest.raises(ArgumentError, match="permutations are square"):
        project_permutation(torch.zeros(3, 4), Permutation())
