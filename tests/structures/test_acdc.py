"""ACDC and AFDF against their definitions with scipy's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import ACDC, AFDF, Structure
from kmatrix.structures.tied import NumbersMatrix

EXAMPLES: list[tuple[Structure, int, int]] = [
    (ACDC(), 8, 8),
    (ACDC(depth=2), 9, 5),
    (ACDC(), 7, 7),
    (ACDC(), 2, 3),
    (ACDC(), 1, 1),
    (AFDF(depth=2), 7, 5),
    (AFDF(), 4, 8),
    (AFDF(), 1, 1),
]


def truth(A: NumbersMatrix) -> Tensor:
    (m, n), size = A.shape, max(A.shape)
    transform = scipy.fft.dct if isinstance(A.structure, ACDC) else scipy.fft.fft
    T = torch.as_tensor(transform(np.eye(size), axis=0, norm="ortho")).to(A.dtype)
    dense = torch.eye(size, dtype=A.dtype)
    for d, a in A.numbers.detach():
        dense = torch.diag(a) @ T.mH @ torch.diag(d) @ T @ dense
    return dense[:m, :n]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("structure", "m", "n"), EXAMPLES)
def test_forward_and_transpose_are_the_definition(
    structure: Structure, m: int, n: int, dtype: torch.dtype
) -> None:
    if isinstance(structure, AFDF) and not dtype.is_complex:
        with pytest.raises(
            DtypeError, match=r"members are complex; pass dtype=torch\.complex64, or use RealPart"
        ):
            structure.random(m, n, dtype=dtype)
        return
    A = structure.random(m, n, dtype=dtype)
    assert isinstance(A, NumbersMatrix)
    dense = truth(A)
    x, y = torch.randn(2, 3, n, dtype=dtype), torch.randn(2, 3, m, dtype=dtype)
    torch.testing.assert_close(A(x).detach(), x @ dense.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(A.rforward(y).detach(), y @ dense, rtol=0, atol=1e-13)
    assert A(x[:0]).shape == (0, 3, m)


def test_half_precision_is_computed_in_single() -> None:
    A = ACDC(depth=3).random(50, 50, dtype=torch.bfloat16)
    x = torch.randn(4, 50, dtype=torch.bfloat16)
    y = A(x)
    assert y.dtype == torch.bfloat16
    exact = A.double()(x.double())
    assert ((y.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


def test_random_members_start_near_the_identity() -> None:
    A = ACDC().random(64, 64, dtype=torch.float64)
    assert torch.linalg.matrix_norm(A.to_dense() - torch.eye(64, dtype=torch.float64), 2) < 1


def test_counts() -> None:
    assert ACDC(depth=2).num_params(1000, 1000) == AFDF(depth=2).num_params(600, 1000) == 4000
    assert ACDC().flops(16, 16) == 2 * (160 + 64) + 32
    assert AFDF(depth=3).flops(16, 16) == 3 * 2 * (96 + 16)


def test_misuse_is_explained() -> None:
    for family in (ACDC, AFDF):
        with pytest.raises(ArgumentError, match="depth=0"):
            family(depth=0)
