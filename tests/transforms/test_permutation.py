"""Permutations as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kmatrix import ArgumentError, DtypeError, transforms


@pytest.mark.parametrize("n", [1, 2, 5, 31, 64, 100])
def test_permutation_reads_by_index(n: int) -> None:
    p = np.random.default_rng(n).permutation(n)
    matrix = transforms.permutation(p, dtype=torch.float64)
    assert matrix.num_params == matrix.flops == 0
    assert torch.equal(matrix.to_dense(), torch.eye(n, dtype=torch.float64)[p])
    assert torch.equal((matrix.T @ matrix).to_dense(), torch.eye(n, dtype=torch.float64))


def test_permutation_takes_lists_and_tensors() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    for p in ([1, 2, 0], torch.tensor([1, 2, 0]), np.array([1, 2, 0], dtype=np.int32)):
        assert torch.equal(transforms.permutation(p) @ x, x[[1, 2, 0]])


@pytest.mark.parametrize("k", range(8))
def test_bit_reversal_is_its_own_inverse(k: int) -> None:
    matrix = transforms.bit_reversal(2**k)
    got = (matrix @ torch.arange(2**k, dtype=torch.float32)).int().tolist()
    assert got == [int(f"{i:0{k}b}"[::-1], 2) if k else 0 for i in range(2**k)]
    assert torch.equal((matrix @ matrix).to_dense(), torch.eye(2**k))


@pytest.mark.parametrize(("k", "n"), [(1, 7), (7, 7), (2, 6), (3, 12), (10, 1000)])
def test_stride_transposes_a_grid(k: int, n: int) -> None:
    x = torch.arange(n, dtype=torch.float32)
    assert torch.equal(transforms.stride(k, n) @ x, x.reshape(k, n // k).T.reshape(-1))
    assert torch.equal(transforms.stride(n // k, n) @ (transforms.stride(k, n) @ x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex128])
def test_types_are_as_asked(dtype: torch.dtype) -> None:
    for matrix in (
        transforms.permutation([1, 0], dtype=dtype),
        transforms.bit_reversal(4, dtype=dtype),
        transforms.stride(2, 4, dtype=dtype),
    ):
        assert matrix.dtype == matrix.to_dense().dtype == dtype


@pytest.mark.parametrize("p", [[0, 0], [1, 2], [], [[0, 1]], [0.0, 1.0], [-1, 0]])
def test_what_is_no_permutation_is_refused(p: Any) -> None:
    with pytest.raises(ArgumentError, match=r"permutation: p=.*not a permutation of 0\.\.n-1"):
        transforms.permutation(p)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ArgumentError, match="bit_reversal: n=12: not a power of two"):
        transforms.bit_reversal(12)
    with pytest.raises(ArgumentError, match="bit_reversal: n=0"):
        transforms.bit_reversal(0)
    with pytest.raises(ArgumentError, match="stride: k=4: does not divide n=10"):
        transforms.stride(4, 10)
    with pytest.raises(DtypeError, match=r"stride: dtype=torch\.int32"):
        transforms.stride(2, 10, dtype=torch.int32)
