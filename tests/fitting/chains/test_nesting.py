"""Chains that nest are solved in closed form: any orientation, ties, padding, ranks beyond full, orders at the ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmatrix import Butterfly, Chain, Factor, Kaleidoscope, Permute
from kmatrix.fitting.chains.nesting import nest, renest
from kmatrix.structures import FixedBPBP
from kmatrix.structures.chain import ChainMatrix, ChainStructure

RANKED = Butterfly(radices=((2, 2), (3, 3), (4, 2)), ranks=(2, 3))


def turned(structure: ChainStructure, m: int, n: int) -> Chain:
    """The chain of the transposed matrices."""
    return Chain(tuple(Factor(f.a, f.c, f.b, f.d) for f in reversed(structure.layout(m, n).factors)))


def drawn(structure: ChainStructure, m: int, n: int, dtype: torch.dtype) -> ChainMatrix:
    matrix = structure.random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert isinstance(matrix, ChainMatrix)
    return matrix


def gap(target: Tensor, matrix: ChainMatrix | None) -> float:
    assert matrix is not None
    return float(
        torch.linalg.vector_norm(target - matrix.to_dense().detach()) / torch.linalg.vector_norm(target)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("structure", "m", "n"),
    [
        (Butterfly(), 16, 16),
        (Butterfly(), 30, 12),
        (RANKED, 24, 12),
        (turned(RANKED, 24, 12), 12, 24),
        (Butterfly(ranks=5), 8, 8),
        (turned(Butterfly(ranks=5), 8, 8), 8, 8),
        (FixedBPBP(depth=1), 16, 16),
        (
            Chain((Permute(12, "reverse"), *Butterfly().layout(12, 12).factors, Permute(12, "stride", 3))),
            12,
            12,
        ),
    ],
)
def test_members_are_found(structure: ChainStructure, m: int, n: int, dtype: torch.dtype) -> None:
    target = drawn(structure, m, n, dtype).to_dense().detach()
    found = nest(structure, target)
    assert gap(target, found) < 1e-14
    assert found is not None and found.structure == structure


def test_padded_members_are_found_where_the_padding_is_zero() -> None:
    structure = Butterfly(radices=((2, 2),) * 4)
    corner = drawn(Butterfly(radices=((2, 2),) * 3), 8, 8, torch.float64).to_dense().detach()
    assert gap(corner, nest(structure, corner)) < 1e-14


def test_permutations_of_a_matrix_are_kept() -> None:
    matrix = FixedBPBP(depth=1, kind="given").random(16, 16, dtype=torch.float64)
    assert isinstance(matrix, ChainMatrix)
    order = torch.randperm(16)
    matrix.set_permutations([order])
    target = matrix.to_dense().detach()
    found = renest(matrix, target)
    assert gap(target, found) < 1e-14
    assert found is not None and torch.equal(found.permutation(0), order)


def test_noise_around_a_tied_member_hardly_grows() -> None:
    target = drawn(FixedBPBP(depth=1), 8, 8, torch.float64).to_dense().detach()
    noise = 1e-4 * torch.randn(8, 8, dtype=torch.float64)
    share = float(torch.linalg.vector_norm(noise) / torch.linalg.vector_norm(target + noise))
    # Two levels are truncated, each as well as the best member would be, and errors of levels are orthogonal.
    assert gap(target + noise, nest(FixedBPBP(depth=1), target + noise)) <= 2**0.5 * share


@pytest.mark.parametrize(
    "structure",
    [Kaleidoscope(), FixedBPBP(depth=2), Chain((Factor(1, 8, 8, 1, tie="d"), Factor(2, 4, 4, 1, tie="d")))],
)
def test_what_does_not_nest_is_left_alone(structure: ChainStructure) -> None:
    assert nest(structure, torch.eye(8, dtype=torch.float64)) is None


def test_a_complex_matrix_is_not_made_real() -> None:
    matrix = drawn(Butterfly(), 8, 8, torch.complex128)
    assert renest(matrix, torch.eye(8, dtype=torch.float64)) is None
