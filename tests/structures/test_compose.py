"""The algebra: what transposes, products, sums and multiples are made of, share, and refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import (
    Butterfly,
    Circulant,
    Dense,
    Diagonal,
    LowRank,
    Product,
    Scaled,
    Sum,
    Transpose,
    product,
    sum_of,
)
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, SumMatrix, TransposedMatrix

f64, c128 = torch.float64, torch.complex128


def test_transposing_twice_gives_the_matrix_back() -> None:
    A, C = Dense().random(3, 4), Dense().random(3, 4, dtype=c128)
    assert A.T.T is A and A.H.H is A and A.T.H is A and A.H.T is A
    assert C.T.T is C and C.H.H is C
    assert C.T.structure == Transpose(Dense()) and C.H.structure == Transpose(Dense(), conjugate=True)


def test_transposes_of_complex_matrices_do_not_pile_up() -> None:
    A = Dense().random(3, 4, dtype=c128)
    B = A
    for _ in range(50):
        B = B.T.H
    assert B.shape == (3, 4)
    torch.testing.assert_close(B.to_dense(), A.to_dense())
    assert sum(isinstance(part, TransposedMatrix) for part in B.modules()) <= 2
    torch.testing.assert_close(A.T.H.T.to_dense(), A.to_dense().mH)
    torch.testing.assert_close(A.H.T.H.to_dense(), A.to_dense().mT)


def test_transposes_share_their_numbers() -> None:
    A = Butterfly().random(4, 6, dtype=c128)
    (A.H @ torch.randn(4, dtype=c128)).abs().sum().backward()
    assert all(stored.grad is not None for stored in A.parameters())
    assert A.T.num_params == A.num_params and A.T.flops == A.flops


def test_products_and_sums_are_flat() -> None:
    A, B, C = (Dense().random(3, 3, dtype=f64) for _ in range(3))
    for P in ((A @ B) @ C, A @ (B @ C), product(A, B, C)):
        assert isinstance(P, ProductMatrix) and P.members == (A, B, C)
        torch.testing.assert_close(P.to_dense(), A.to_dense() @ B.to_dense() @ C.to_dense())
    for S in ((A + B) + C, A + (B + C), sum_of(A, B, C)):
        assert isinstance(S, SumMatrix) and S.members == (A, B, C)
        torch.testing.assert_close(S.to_dense(), A.to_dense() + B.to_dense() + C.to_dense())
    assert product(A) is A and sum_of(A) is A


def test_multiples_are_multiplied_out_and_exact() -> None:
    A = Dense().random(3, 3, dtype=torch.float32)
    B = 0.1 * (3 * A)
    assert isinstance(B, ScaledMatrix) and B.base is A
    assert B.structure == Scaled(Dense(), 0.1 * 3)
    # The number is no buffer that a conversion would round.
    assert A.half().float().dtype == torch.float32
    assert B.half().float().structure == Scaled(Dense(), 0.1 * 3)
    assert list(B.state_dict()) == ["base.factors.0"]


def test_complex_multiples_need_a_complex_matrix() -> None:
    C = Dense().random(2, 2, dtype=c128)
    torch.testing.assert_close((1j * C).to_dense(), 1j * C.to_dense())
    torch.testing.assert_close((1j * C).H.to_dense(), -1j * C.to_dense().mH)
    real = Dense().random(2, 2)
    assert ((2 + 0j) * real).structure == Scaled(Dense(), 2.0)
    with pytest.raises(ArgumentError, match="complex multiple of a real matrix"):
        1j * real
    for infinite in (float("nan"), float("inf"), complex(0, float("inf"))):
        with pytest.raises(ArgumentError, match="not finite"):
            infinite * C


def test_shapes_must_fit() -> None:
    A, B = Dense().random(3, 4), Dense().random(3, 4)
    with pytest.raises(ArgumentError, match="4 columns meet 3 rows"):
        A @ B
    with pytest.raises(ArgumentError, match="add matrices of one shape"):
        A + B.T


def test_precisions_must_agree() -> None:
    A, B = Dense().random(3, 3), Dense().random(3, 3, dtype=f64)
    for make in (lambda: A @ B, lambda: A + B, lambda: A + Dense().random(3, 3, dtype=c128)):
        with pytest.raises(DtypeError, match="precisions do not mix"):
            make()


def test_real_and_complex_parts_mix() -> None:
    A, C = Dense().random(3, 3, dtype=f64), Dense().random(3, 3, dtype=c128)
    real, whole = A.to_dense().to(c128), C.to_dense()
    for mixed, want in ((A @ C, real @ whole), (C - A, whole - real)):
        assert mixed.dtype == c128
        torch.testing.assert_close(mixed.to_dense(), want)
        torch.testing.assert_close(mixed(torch.ones(3, dtype=f64)), want.sum(1))
        torch.testing.assert_close(mixed.H.to_dense(), want.mH)
    assert (A @ C).float().dtype == torch.complex64


def test_counts_add_up() -> None:
    A = Product((Butterfly(), Diagonal(), Dense()), inner=(8, 8))
    assert A.num_params(8, 3) == 48 + 8 + 24
    assert A.flops(8, 3) == 96 + 16 + 48
    B = Sum((LowRank(2), Circulant(), Dense()))
    assert B.num_params(4, 4) == 16 + 4 + 16
    assert B.flops(4, 4) == 32 + Circulant().flops(4, 4) + 32 + 2 * 4
    assert Scaled(Dense(), 2.0).num_params(3, 4) == Transpose(Dense()).num_params(3, 4) == 12
    assert Scaled(Dense(), 2.0).flops(3, 4) == 24 + 3


def test_structures_make_their_members() -> None:
    s = Product((Butterfly(), Transpose(Butterfly())), inner=(6,))
    assert s.shapes(4, 9) == ((4, 6), (6, 9))
    A = s.random(4, 9, dtype=c128)
    assert A.structure == s and A.shape == (4, 9) and A.dtype == c128
    with pytest.raises(ArgumentError, match="circulant matrices are square"):
        Sum((Dense(), Circulant())).random(3, 4)
    with pytest.raises(ArgumentError, match="circulant matrices are square"):
        Product((Circulant(), Dense()), inner=(5,)).random(4, 4)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Sum(()), "at least one"),
        (lambda: Product((), ()), "0 factors"),
        (lambda: Product((Dense(), Dense()), ()), "2 factors need 1 inner sizes"),
        (lambda: Product((Dense(), Dense()), (0,)), "inner=0"),
    ],
)
def test_bad_structures_are_refused(make: Any, reason: str) -> None:
    with pytest.raises(ArgumentError, match=reason):
        make()


def test_resetting_redraws_every_part() -> None:
    A = (Dense().random(3, 3) @ Dense().random(3, 3)).T + 2 * Dense().random(3, 3)
    before = [stored.detach().clone() for stored in A.parameters()]
    A.reset_parameters(torch.Generator().manual_seed(1))
    assert all(not torch.equal(a, b) for a, b in zip(before, A.parameters(), strict=True))
