"""Fixed permutations, and the relaxed ones against their definition as matrix products."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kmatrix import _permutations
from kmatrix._errors import ArgumentError
from kmatrix.structures import (
    BPPermutation,
    BPPermutationMatrix,
    Permutation,
    PermutationMatrix,
    Structure,
)

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Permutation(), 7, 7),
    (Permutation(), 1, 1),
    (Permutation("stride", 3), 12, 12),
    (Permutation("bit_reversal"), 8, 8),
    (Permutation("reverse"), 5, 5),
    (BPPermutation(), 16, 16),
    (BPPermutation(tied=True), 16, 16),
    (BPPermutation(levels=1), 8, 8),
    (BPPermutation(), 2, 2),
    (BPPermutation(), 1, 1),
]
SURE = 1000.0


def matrix_of(index: object) -> Tensor:
    where = torch.as_tensor(np.array(index))
    return torch.eye(len(where), dtype=torch.float64)[where]


def relaxed(n: int, logits: Tensor | None = None, **fields: bool | int | None) -> BPPermutationMatrix:
    matrix = BPPermutation(**fields).random(n, n, dtype=torch.float64)  # type: ignore[arg-type]
    assert isinstance(matrix, BPPermutationMatrix)
    if logits is not None:
        with torch.no_grad():
            matrix.logits.copy_(logits)
    return matrix


@pytest.mark.parametrize(
    ("structure", "n", "index"),
    [
        (Permutation("stride", 3), 12, _permutations.stride(3, 12)),
        (Permutation("bit_reversal"), 16, _permutations.bit_reversal(16)),
        (Permutation("reverse"), 5, np.arange(5)[::-1]),
    ],
)
def test_kinds_are_the_permutations_they_name(structure: Permutation, n: int, index: object) -> None:
    A = structure.random(n, n, dtype=torch.float64)
    assert torch.equal(A.to_dense(), matrix_of(index))
    assert torch.equal(A.T.to_dense(), matrix_of(index).T)
    assert (A.num_params, A.flops) == (0, 0)


def test_random_given_permutations_follow_the_generator() -> None:
    first, same, other = (
        Permutation().random(20, 20, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert isinstance(first, PermutationMatrix) and isinstance(other, PermutationMatrix)
    assert torch.equal(first.to_dense(), same.to_dense())
    assert not torch.equal(first.index, other.index)
    assert torch.equal(first.index.sort().values, torch.arange(20))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16])
def test_from_index(dtype: torch.dtype) -> None:
    A = PermutationMatrix.from_index(np.array([1, 0, 2])[::-1], dtype=dtype)
    x = torch.arange(3).to(dtype)
    assert torch.equal(A @ x, x[[2, 0, 1]])
    assert A.dtype == dtype


def test_misuse_of_fixed_permutations_is_explained() -> None:
    with pytest.raises(ArgumentError, match="unknown; use one of given, stride, bit_reversal, reverse"):
        Permutation("shuffle")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="permutations are square"):
        Permutation().random(3, 4)
    with pytest.raises(ArgumentError, match="not a power of two"):
        Permutation("bit_reversal").random(12, 12)
    with pytest.raises(ArgumentError, match="does not divide n=12"):
        Permutation("stride", 5).random(12, 12)
    with pytest.raises(ArgumentError, match=r"not a permutation of 0\.\.2"):
        PermutationMatrix.from_index(torch.tensor([0, 0, 2]))


def definition(n: int, probabilities: Tensor) -> Tensor:
    """The matrix product of the paper: largest block first; in each block split, then the two reversals."""
    product = torch.eye(n, dtype=torch.float64)
    for level, p in enumerate(probabilities):
        m = n >> level
        split = np.concatenate([np.arange(0, m, 2), np.arange(1, m, 2)])
        first = np.concatenate([np.arange(m // 2)[::-1], np.arange(m // 2, m)])
        second = np.concatenate([np.arange(m // 2), np.arange(m // 2, m)[::-1]])
        for share, index in zip(p, (split, first, second), strict=True):
            block = share * matrix_of(index) + (1 - share) * torch.eye(m, dtype=torch.float64)
            product = torch.block_diag(*[block] * (n // m)) @ product
    return product


@pytest.mark.parametrize("fields", [{}, {"tied": True}, {"levels": 2}])
@pytest.mark.parametrize("n", [1, 2, 4, 8, 32])
def test_relaxed_permutation_is_the_product_of_the_paper(n: int, fields: dict[str, bool | int]) -> None:
    A = relaxed(n, **fields)
    levels = max(0, min(int(math.log2(n)) - 1, fields.get("levels", 99)))
    assert A.probabilities.shape == (levels, 3)
    expected = definition(n, A.probabilities.detach())
    x = torch.randn(2, 3, n, dtype=torch.float64)
    torch.testing.assert_close(A.to_dense().detach(), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(A.rforward(x).detach(), x @ expected, rtol=0, atol=1e-13)
    # A mean of permutations: rows and columns sum to one.
    torch.testing.assert_close(A(torch.ones(n, dtype=torch.float64)).detach(), torch.ones(n).double())


@pytest.mark.parametrize("n", [4, 16, 64])
def test_one_zero_zero_is_bit_reversal(n: int) -> None:
    A = relaxed(n, torch.tensor([SURE, -SURE, -SURE]).double())
    assert torch.equal(A.to_dense().detach(), matrix_of(_permutations.bit_reversal(n)))


def test_one_zero_one_at_the_top_is_the_order_of_the_cosine_transform() -> None:
    A = relaxed(16, torch.tensor([[SURE, -SURE, SURE]]).double(), levels=1)
    assert torch.equal(A.to_dense().detach(), matrix_of(_permutations.even_odd_reversed(16)))


@pytest.mark.parametrize("tied", [False, True])
def test_harden_rounds_every_choice(tied: bool) -> None:
    for _ in range(8):
        A = relaxed(32, tied=tied)
        hard = A.harden()
        sure = relaxed(32, A.logits.detach().sign() * SURE, tied=tied)
        assert torch.equal(hard.to_dense(), sure.to_dense().detach())
        assert sure.sharpness == 1
        assert 0.5 <= A.sharpness < 1


def test_learning_from_samples_recovers_bit_reversal() -> None:
    A = relaxed(16)
    target = matrix_of(_permutations.bit_reversal(16))
    optimizer = torch.optim.Adam(A.parameters(), lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        (A.to_dense() - target).square().sum().backward()
        optimizer.step()
    assert A.sharpness > 0.95
    assert torch.equal(A.harden().to_dense(), target)


def test_counts() -> None:
    assert BPPermutation().num_params(1024, 1024) == 3 * 9
    assert BPPermutation(tied=True).num_params(1024, 1024) == 3
    assert BPPermutation(levels=1).num_params(1024, 1024) == 3
    assert BPPermutation().num_params(2, 2) == BPPermutation(tied=True).num_params(2, 2) == 0
    assert BPPermutation(tied=True).flops(16, 16) == BPPermutation().flops(16, 16) == 6 * 16 * 3


def test_misuse_of_relaxed_permutations_is_explained() -> None:
    with pytest.raises(ArgumentError, match=r"n=12: not a power of two; pad to a power of two, as BPBP does"):
        BPPermutation().random(12, 12)
    with pytest.raises(ArgumentError, match="permutations are square"):
        BPPermutation().random(8, 16)
    with pytest.raises(ArgumentError, match="levels=0"):
        BPPermutation(levels=0)
