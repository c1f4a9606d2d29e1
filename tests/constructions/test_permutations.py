"""Every permutation is exactly a product of two butterflies of zeros and ones, on either side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmatrix import ArgumentError, DtypeError, Kaleidoscope
from kmatrix._permutations import bit_reversal
from kmatrix.constructions import permutation

SIZES = [1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 64, 100, 256]


@pytest.mark.parametrize("side", ["BB*", "B*B"])
@pytest.mark.parametrize("n", SIZES)
def test_exact_for_random_permutations(n: int, side: str) -> None:
    p = np.random.default_rng(n).permutation(n)
    matrix = permutation(p, side=side)  # type: ignore[arg-type]
    assert matrix.shape == (n, n)
    assert torch.equal(matrix.to_dense(), torch.eye(n)[p])


@pytest.mark.parametrize("n", [2**k for k in range(1, 13)])
def test_exact_at_every_power_of_two(n: int) -> None:
    p = np.random.default_rng(n).permutation(n)
    x = torch.arange(n, dtype=torch.float64)
    for side in ("BB*", "B*B"):
        assert torch.equal(permutation(p, side=side, dtype=torch.float64) @ x, x[p])  # type: ignore[arg-type]


@given(st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))))
def test_exact_for_any_permutation(p: list[int]) -> None:
    x = torch.arange(len(p), dtype=torch.float32)
    for side in ("BB*", "B*B"):
        assert torch.equal(permutation(p, side=side) @ x, x[p])  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [2, 8, 12, 64])
def test_stated_class(n: int) -> None:
    p = np.random.default_rng(n).permutation(n)
    matrix = permutation(p)
    size = 1 << (n - 1).bit_length()
    levels = size.bit_length() - 1
    assert matrix.structure == Kaleidoscope(width=1, expansion=1)
    assert len(matrix.weights) == 2 * levels
    assert matrix.num_params == 4 * size * levels
    assert [w.shape[3] for w in permutation(p, side="B*B").weights] == (
        [2**k for k in range(levels)] + [2**k for k in reversed(range(levels))]
    )


def test_every_block_is_the_identity_or_a_swap() -> None:
    for w in permutation(np.random.default_rng(0).permutation(64)).weights:
        assert torch.equal(w[:, 0, 0], w[:, 1, 1])
        assert torch.equal(w[:, 0, 1], w[:, 1, 0])
        assert torch.equal(w[:, 0, 0] + w[:, 0, 1], torch.ones(w.shape[0], w.shape[3]))
        assert set(w.unique().tolist()) <= {0.0, 1.0}


def test_special_permutations() -> None:
    n = 16
    for p in (np.arange(n), np.arange(n)[::-1], bit_reversal(n), np.roll(np.arange(n), 5)):
        assert torch.equal(permutation(p).to_dense(), torch.eye(n)[p.copy()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_number_types(dtype: torch.dtype) -> None:
    matrix = permutation([2, 0, 1], dtype=dtype)
    assert matrix.dtype == dtype
    assert torch.equal(matrix.to_dense(), torch.eye(3, dtype=dtype)[[2, 0, 1]])


@pytest.mark.parametrize("p", [[0, 0], [1, 2], [-1, 0], [], [[0, 1]], [0.0, 1.0], [True, False]])
def test_refuses_what_is_not_a_permutation(p: list[object]) -> None:
    with pytest.raises(ArgumentError, match="not a permutation"):
        permutation(p)


@pytest.mark.parametrize("p", ["ab", None, [[0], [1, 2]]])
def test_refuses_what_is_not_an_array(p: object) -> None:
    with pytest.raises(DtypeError, match="not an array of numbers"):
        permutation(p)  # type: ignore[arg-type]


def test_refuses_unknown_side_and_dtype() -> None:
    with pytest.raises(ArgumentError, match="side"):
        permutation([0, 1], side="BB")  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="int64"):
        permutation([0, 1], dtype=torch.int64)
