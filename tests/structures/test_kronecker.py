"""Kronecker sums: against torch.kron, in both orders of application."""

from __future__ import annotations

import pytest
import torch

from kmatrix._errors import ArgumentError
from kmatrix.structures import Kronecker, Structure

EXAMPLES: list[tuple[Structure, int, int]] = [
    (Kronecker(), 12, 20),
    (Kronecker(), 1, 1),
    (Kronecker(left=(3, 4), rank=2), 15, 24),
    (Kronecker(left=(6, 5), rank=2), 13, 11),
    (Kronecker(rank=3), 13, 7),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("left", [(3, 4), (12, 8), (1, 1), (36, 40)])
def test_is_a_sum_of_kronecker_products(left: tuple[int, int], dtype: torch.dtype) -> None:
    m, n, r = 36, 40, 2
    s = Kronecker(left, rank=r)
    A = s.random(m, n, dtype=dtype)
    (m1, n1), (m2, n2) = s.shapes(m, n)
    if s.right_first(m, n):
        right, lefts = A.weights[0].reshape(r, m2, n2), A.weights[1].reshape(m1, n1, r).movedim(2, 0)
    else:
        lefts, right = (
            A.weights[0].reshape(m1, r, n1).movedim(1, 0),
            A.weights[1].reshape(m2, r, n2).movedim(1, 0),
        )
    expected = sum(torch.kron(lefts[k].contiguous(), right[k].contiguous()) for k in range(r))
    torch.testing.assert_close(A.to_dense(), expected)
    assert A.num_params == r * (m1 * n1 + m2 * n2)


@pytest.mark.parametrize(("left", "flops", "right_first"), [((2, 12), 192, False), ((12, 2), 192, True)])
def test_the_cheaper_order_is_taken(left: tuple[int, int], flops: int, right_first: bool) -> None:
    # The factor that shrinks the vector goes first: 4 * 48 operations instead of 4 * 288.
    s = Kronecker(left)
    assert s.right_first(24, 24) is right_first
    assert s.flops(24, 24) == flops


def test_default_factors_have_the_shape_of_the_roots() -> None:
    assert Kronecker().shapes(1000, 768) == ((25, 24), (40, 32))


@pytest.mark.parametrize("left", [(0, 2), (2,)])
def test_bad_shapes_are_refused(left: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="left"):
        Kronecker(left)
