"""What a matrix is made of: the right pictures, in the order in which the product is written."""

from __future__ import annotations

import pytest
import torch

import kmatrix as km
from kmatrix.report.factors import terms
from kmatrix.report.pixels import picture
from kmatrix.structures import Diagonal, Monarch, PermutationMatrix, Sparse, Toeplitz
from kmatrix.structures.chain import ChainMatrix


def captions(matrix: km.StructuredMatrix) -> list[list[str]]:
    return [[p.caption for p in row] for row in terms(matrix)]


def dense_factors(matrix: ChainMatrix) -> list[torch.Tensor]:
    """The factors of a chain as dense matrices, from the definition of a pattern, left to right."""
    found = []
    for weight, factor in zip(matrix.weights, matrix.layout.factors, strict=True):
        alone = km.Chain((factor,))
        only = ChainMatrix.from_weights(alone, (factor.rows, factor.cols), [weight.detach()])
        found.append(only.to_dense().detach())
    return found[::-1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
@pytest.mark.parametrize(
    "structure", [km.Butterfly(), km.Butterfly(ranks=2), Monarch(3), km.Kaleidoscope()], ids=str
)
def test_factors_are_drawn_as_they_are(structure: km.Structure, dtype: torch.dtype) -> None:
    matrix = structure.random(12, 12, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert isinstance(matrix, ChainMatrix)
    (row,) = terms(matrix)
    assert [p.image for p in row] == [picture(f, "").image for f in dense_factors(matrix)]
    assert [p.caption for p in row] == [f"({f.a}, {f.b}, {f.c}, {f.d})" for f in matrix.layout.factors[::-1]]


def test_tied_factors_say_so() -> None:
    matrix = km.Chain((km.Factor(3, 2, 2, 1, tie="a"), km.Factor(1, 3, 3, 2, tie="ad"))).random(6, 6)
    assert [p.detail for p in terms(matrix)[0]] == ["9 numbers, tied over a and d", "4 numbers, tied over a"]


def test_permutations_stand_where_they_act() -> None:
    matrix = km.Chain((km.Permute(4, "reverse"), km.Factor(2, 2, 2, 1))).random(4, 4)
    assert captions(matrix) == [["(2, 2, 2, 1)", "permutation"]]
    assert terms(matrix)[0][1].image == picture(torch.eye(4).flip(0), "").image


def test_products_are_flattened_and_sums_are_terms() -> None:
    order = PermutationMatrix.from_index(torch.tensor([1, 2, 0]))
    tied, sparse = Toeplitz().random(3, 3), Sparse(2).random(3, 3)
    assert captions(order @ tied) == [["permutation", "Toeplitz"]]
    assert captions(2.0 * (order @ tied) + sparse) == [["permutation", "Toeplitz"], ["Sparse"]]
    assert captions(order @ (tied + sparse)) == [["permutation", "Sum"]]


def test_whatever_has_no_parts_is_shown_whole() -> None:
    matrix = Diagonal().random(5, 3)
    assert captions(matrix.T) == [["(1, 1, 1, 5)"]] or captions(matrix.T) == [["Transpose"]]
    whole = Toeplitz().random(4, 6).T
    (row,) = terms(whole)
    assert row[0].image == picture(whole.to_dense().detach(), "").image
    assert row[0].detail == "9 numbers"


def test_drawing_leaves_gradients_alone() -> None:
    matrix = km.Butterfly().random(8, 8)
    terms(matrix)
    assert all(p.grad is None for p in matrix.parameters())
    assert matrix(torch.ones(8)).requires_grad
