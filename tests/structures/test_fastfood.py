"""Fastfood against its definition with scipy's Hadamard matrix."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from kmatrix.structures import Fastfood, Structure
from kmatrix.structures.fastfood import FastfoodMatrix, hadamard

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Fastfood(), 8, 8),
    (Fastfood(), 13, 5),
    (Fastfood(), 2, 11),
    (Fastfood(), 3, 1),
    (Fastfood(), 1, 1),
]


def draw(m: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> FastfoodMatrix:
    matrix = Fastfood().random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    assert isinstance(matrix, FastfoodMatrix)
    return matrix


def truth(A: FastfoodMatrix) -> Tensor:
    (m, n), (_, stacks, size) = A.shape, A.numbers.shape
    H = torch.as_tensor(scipy.linalg.hadamard(size)).to(A.dtype) / size**0.5
    stack = []
    for k in range(stacks):
        b, g, s = (d.detach() for d in A.numbers[:, k])
        P = torch.eye(size, dtype=A.dtype)[A.permutation[k * size : (k + 1) * size] - k * size]
        stack.append(torch.diag(s) @ H @ torch.diag(g) @ P @ H @ torch.diag(b))
    return torch.cat(stack)[:m, :n]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("structure", "m", "n"), EXAMPLES)
def test_forward_and_transpose_are_the_definition(
    structure: Structure, m: int, n: int, dtype: torch.dtype
) -> None:
    A = draw(m, n, dtype)
    dense = truth(A)
    x, y = torch.randn(2, 3, n, dtype=dtype), torch.randn(2, 3, m, dtype=dtype)
    torch.testing.assert_close(A(x).detach(), x @ dense.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(A.rforward(y).detach(), y @ dense, rtol=0, atol=1e-13)
    assert A(x[:0]).shape == (0, 3, m)


@pytest.mark.parametrize("size", [1, 2, 16])
def test_hadamard_is_orthonormal_and_its_own_inverse(size: int) -> None:
    x = torch.randn(3, size, dtype=torch.float64)
    torch.testing.assert_close(hadamard(hadamard(x)), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_rows_start_as_long_as_those_of_a_gaussian_matrix(dtype: torch.dtype) -> None:
    A = draw(1024, 256, dtype)
    # Squared lengths are chi-squared with 256 degrees of freedom, over 256: variance 2/256.
    squares = A.to_dense().abs().square().sum(1)
    assert 0.98 < squares.mean() < 1.02
    assert 0.7 < squares.var() * 128 < 1.4
    # Padding does not weaken the outputs.
    assert 0.9 < draw(600, 300, dtype).to_dense().abs().square().sum(1).mean() < 1.1


def test_the_draw_follows_the_generator() -> None:
    first, same, other = draw(16, 16, seed=1), draw(16, 16, seed=1), draw(16, 16, seed=2)
    assert torch.equal(first.to_dense(), same.to_dense())
    assert not torch.equal(first.permutation, other.permutation)
    signs = first.numbers[0]
    assert torch.equal(signs.abs(), torch.ones_like(signs)) and signs.unique().numel() == 2


def test_stacks_permute_within_themselves() -> None:
    A = draw(40, 16)
    blocks = A.permutation.reshape(3, 16).sort(1).values
    assert torch.equal(blocks.flatten(), torch.arange(48))


def test_counts() -> None:
    assert Fastfood().num_params(1024, 1024) == 3 * 1024
    assert Fastfood().num_params(300, 100) == 3 * 3 * 128
    assert Fastfood().flops(16, 16) == 2 * 4 * 4 * 16 + 3 * 16
