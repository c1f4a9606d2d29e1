"""Kaleidoscope matrices: the product of butterflies and their transposes that they are defined as."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError
from kmatrix.structures import Butterfly, ChainMatrix, Kaleidoscope
from kmatrix.structures.kaleidoscope import butterfly_factors, power_of_two

f64, c128 = torch.float64, torch.complex128


def butterfly(n: int, weights: list[Tensor]) -> Tensor:
    return ChainMatrix.from_weights(Butterfly(((2, 2),) * (n.bit_length() - 1)), (n, n), weights).to_dense()


@pytest.mark.parametrize("dtype", [f64, c128])
@pytest.mark.parametrize(
    ("width", "expansion", "m", "n"), [(1, 1, 8, 8), (2, 1, 5, 7), (1, 4, 3, 4), (3, 2, 2, 1)]
)
def test_it_is_the_corner_of_butterflies_and_their_adjoints(
    width: int, expansion: int, m: int, n: int, dtype: torch.dtype
) -> None:
    A = Kaleidoscope(width, expansion).random(m, n, dtype=dtype)
    assert isinstance(A, ChainMatrix)
    size = expansion * power_of_two(max(m, n))
    levels = size.bit_length() - 1
    whole = torch.eye(size, dtype=dtype)
    for pair in range(width):
        weights = A.weights[2 * levels * pair : 2 * levels * (pair + 1)]
        # The factors of M* in order of application are those of M, transposed, from last to first.
        adjoint = butterfly(size, [w.conj().transpose(1, 2) for w in reversed(weights[:levels])]).mH
        whole = butterfly(size, list(weights[levels:])) @ adjoint @ whole
    torch.testing.assert_close(A.to_dense(), whole[:m, :n])


@pytest.mark.parametrize("n", [2, 8, 256])
def test_it_counts_as_the_paper_does(n: int) -> None:
    levels = n.bit_length() - 1
    for width in (1, 3):
        for expansion in (1, 2):
            size, depth = expansion * n, levels + expansion - 1
            assert Kaleidoscope(width, expansion).num_params(n, n) == 4 * width * size * depth
            assert Kaleidoscope(width, expansion).flops(n, n) == 8 * width * size * depth


def test_other_sizes_are_padded_and_counted() -> None:
    s = Kaleidoscope()
    assert s.num_params(5, 3) == s.num_params(8, 8)
    assert s.num_params(1, 1) == s.num_params(2, 2) == 8
    assert s.random(5, 3).shape == (5, 3)


@pytest.mark.parametrize(("n", "power"), [(1, 1), (2, 2), (3, 4), (4, 4), (1000, 1024), (1025, 2048)])
def test_powers_of_two(n: int, power: int) -> None:
    assert power_of_two(n) == power
    increasing = butterfly_factors(power, increasing=True)
    assert butterfly_factors(power, increasing=False) == increasing[::-1]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Kaleidoscope(width=0), "width=0"),
        (lambda: Kaleidoscope(expansion=0), "expansion=0"),
        (lambda: Kaleidoscope(expansion=3), "expansion=3.*use 1, 2, 4"),
    ],
)
def test_bad_numbers_are_refused(make: Callable[[], Kaleidoscope], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        make()
