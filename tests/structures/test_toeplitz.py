"""Toeplitz and Hankel matrices against scipy's."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError
from kmatrix.structures import Circulant, Hankel, HankelMatrix, Structure, Toeplitz, ToeplitzMatrix
from kmatrix.structures.tied import NumbersMatrix

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Toeplitz(), 7, 5),
    (Toeplitz(), 16, 16),
    (Toeplitz(), 1, 1),
    (Toeplitz(), 1, 9),
    (Toeplitz(), 13, 1),
    (Hankel(), 4, 11),
    (Hankel(), 9, 2),
    (Hankel(), 1, 1),
]
WIDE = [torch.float64, torch.complex128]


def draw(structure: Structure, m: int, n: int, dtype: torch.dtype) -> NumbersMatrix:
    matrix = structure.random(m, n, dtype=dtype)
    assert isinstance(matrix, NumbersMatrix)
    return matrix


def truth(matrix: NumbersMatrix) -> Tensor:
    n, numbers = matrix.shape[1], matrix.numbers.detach().numpy()
    if isinstance(matrix.structure, Hankel):
        return torch.as_tensor(
            scipy.linalg.hankel(numbers[: matrix.shape[0]], numbers[matrix.shape[0] - 1 :])
        )
    return torch.as_tensor(scipy.linalg.toeplitz(numbers[n - 1 :], numbers[n - 1 :: -1]))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(("structure", "m", "n"), EXAMPLES)
def test_forward_and_transpose_are_those_of_scipy(
    structure: Structure, m: int, n: int, dtype: torch.dtype
) -> None:
    A = draw(structure, m, n, dtype)
    dense = truth(A)
    x, y = torch.randn(2, 3, n, dtype=dtype), torch.randn(2, 3, m, dtype=dtype)
    torch.testing.assert_close(A.to_dense(), dense, rtol=0, atol=1e-13)
    torch.testing.assert_close(A(x), x @ dense.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(A.rforward(y), y @ dense, rtol=0, atol=1e-13)
    torch.testing.assert_close(A.H(y), y @ dense.conj(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("structure", "m", "n"), EXAMPLES)
def test_numbers_are_all_learned(structure: Structure, m: int, n: int) -> None:
    A = draw(structure, m, n, torch.float64)
    weight = torch.randn(m, n, dtype=torch.float64)
    (A.to_dense() * weight).sum().backward()
    # The gradient with respect to a number is the sum over the entries that equal it.
    expected = [float((weight * (truth(A) == number)).sum()) for number in A.numbers]
    torch.testing.assert_close(A.stored.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_round_once(dtype: torch.dtype) -> None:
    A = draw(Toeplitz(), 40, 23, dtype)
    x = torch.randn(5, 23, dtype=dtype)
    exact = x.double() @ truth(A.double()).mT
    y = A.to(dtype)(x)
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-5).all()


def test_an_empty_batch_has_gradients() -> None:
    A = draw(Toeplitz(), 4, 3, torch.float64)
    x = torch.empty(0, 3, dtype=torch.float64, requires_grad=True)
    A(x).sum().backward()
    assert x.grad is not None and x.grad.shape == (0, 3)
    torch.testing.assert_close(A.stored.grad, torch.zeros(6, dtype=torch.float64))


def test_counts() -> None:
    assert Toeplitz().num_params(300, 500) == 799
    # N = 16 points: two real FFTs of 2.5 * 16 * 4, nine complex products of 6.
    assert Toeplitz().flops(9, 8) == Hankel().flops(8, 9) == 320 + 54


def test_random_members_have_the_scale_of_a_dense_layer() -> None:
    A = draw(Toeplitz(), 400, 400, torch.complex128)
    assert 0.8 < 400 * A.numbers.abs().square().mean() < 1.2


def test_from_numbers_is_the_member_with_these_numbers() -> None:
    numbers = torch.arange(6.0, dtype=torch.float64) * (1 + 2j)
    A = HankelMatrix.from_numbers(Hankel(), (2, 5), numbers)
    assert torch.equal(A.numbers, numbers)
    assert A.dtype == torch.complex128


def test_from_numbers_refuses_what_does_not_fit() -> None:
    with pytest.raises(ArgumentError, match=r"a 2 x 5 Toeplitz holds \(6,\)"):
        ToeplitzMatrix.from_numbers(Toeplitz(), (2, 5), torch.zeros(5))
    with pytest.raises(ArgumentError, match=r"call CirculantMatrix\.from_numbers"):
        ToeplitzMatrix.from_numbers(Circulant(), (5, 5), torch.zeros(5))
