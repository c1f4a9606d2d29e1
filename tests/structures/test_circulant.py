"""Circulant matrices and grids of circulant blocks against scipy's."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import BlockCirculant, BlockCirculantMatrix, Circulant, CirculantMatrix, Structure

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Circulant(), 1, 1),
    (Circulant(), 12, 12),
    (Circulant(), 13, 13),
    (BlockCirculant(3), 6, 9),
    (BlockCirculant(3), 7, 11),
    (BlockCirculant(1), 3, 4),
    (BlockCirculant(20), 5, 6),
]
WIDE = [torch.float64, torch.complex128]


def circulant(column: Tensor) -> Tensor:
    return torch.as_tensor(scipy.linalg.circulant(column.numpy()))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("n", [1, 2, 12, 13, 97])
def test_circulant_is_that_of_scipy(n: int, dtype: torch.dtype) -> None:
    column = torch.randn(n, dtype=dtype)
    A = CirculantMatrix.from_numbers(Circulant(), (n, n), column)
    dense = circulant(column)
    x = torch.randn(3, n, dtype=dtype)
    torch.testing.assert_close(A.to_dense().detach(), dense, rtol=0, atol=1e-12)
    torch.testing.assert_close(A(x).detach(), x @ dense.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(A.rforward(x).detach(), x @ dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(6, 9, 3), (7, 11, 3), (3, 4, 1), (5, 6, 20), (16, 8, 8), (1, 1, 2)]
)
def test_block_circulant_is_a_grid_of_circulants(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    A = BlockCirculant(k).random(m, n, dtype=dtype)
    assert isinstance(A, BlockCirculantMatrix)
    rows = [torch.cat([circulant(block) for block in row], 1) for row in A.numbers.detach()]
    dense = torch.cat(rows)[:m, :n]
    x, y = torch.randn(2, n, dtype=dtype), torch.randn(2, m, dtype=dtype)
    torch.testing.assert_close(A(x).detach(), x @ dense.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(A.rforward(y).detach(), y @ dense, rtol=0, atol=1e-13)


def test_counts() -> None:
    assert Circulant().num_params(1000, 1000) == 1000
    assert Circulant().flops(16, 16) == 2 * 160 + 54
    assert BlockCirculant(8).num_params(768, 1000) == 768 * 1000 // 8
    # Padding counts: a grid of 3 x 4 blocks.
    assert BlockCirculant(3).num_params(7, 11) == 36
    assert BlockCirculant(4).flops(8, 12) == 5 * 20 + 6 * 8 * 3


def test_large_prime_sizes_cost_what_they_cost() -> None:
    assert Circulant().flops(997, 997) > 3 * Circulant().flops(1000, 1000)


def test_random_members_have_the_scale_of_a_dense_layer() -> None:
    A = BlockCirculant(10).random(300, 300, dtype=torch.float64)
    assert 0.95 < torch.linalg.vector_norm(A.to_dense()).square() / 300 < 1.05


def test_misuse_is_explained() -> None:
    with pytest.raises(ArgumentError, match="circulant matrices are square; use BlockCirculant"):
        Circulant().random(3, 4)
    with pytest.raises(ArgumentError, match="block=0"):
        BlockCirculant(0)
    with pytest.raises(DtypeError, match="not a whole number"):
        BlockCirculant(2.5)  # type: ignore[arg-type]
