"""Walsh-Hadamard matrices in both orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from kmatrix import ArgumentError, DtypeError, transforms

SIZES = [2**k for k in range(11)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
)
def test_hadamard_is_exact_in_every_type(n: int, dtype: torch.dtype) -> None:
    matrix = transforms.hadamard(n, dtype=dtype)
    assert matrix.dtype == dtype
    assert torch.equal(matrix.to_dense(), torch.tensor(scipy.linalg.hadamard(n)).to(dtype))


@pytest.mark.parametrize("n", SIZES[:9])
def test_rows_of_walsh_change_sign_once_more_each(n: int) -> None:
    walsh = transforms.walsh(n).to_dense().detach().numpy()
    assert (np.diff(walsh, axis=1) != 0).sum(axis=1).tolist() == list(range(n))
    assert (walsh[:, 0] == 1).all()
    rows = {tuple(row) for row in scipy.linalg.hadamard(n)}
    assert {tuple(row) for row in walsh} == rows


@pytest.mark.parametrize("make", [transforms.hadamard, transforms.walsh])
@pytest.mark.parametrize("n", [1, 2, 8, 64, 512])
def test_norms(make: Any, n: int) -> None:
    dense = make(n, dtype=torch.float64).to_dense()
    for norm, scale in (("ortho", n**-0.5), ("forward", 1 / n), (None, 1)):
        scaled = make(n, norm=norm, tied=True, dtype=torch.float64).to_dense()
        torch.testing.assert_close(scaled, scale * dense, rtol=1e-14, atol=0)
    ortho = make(n, norm="ortho", dtype=torch.float64).to_dense()
    torch.testing.assert_close(ortho @ ortho, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("make", [transforms.hadamard, transforms.walsh])
@pytest.mark.parametrize("k", range(1, 11))
def test_counts(make: Any, k: int) -> None:
    matrix = make(2**k)
    assert matrix.num_params == sum(w.numel() for w in matrix.weights) == 2 * 2**k * k
    assert make(2**k, tied=True).num_params == 4 * k


@pytest.mark.parametrize("make", [transforms.hadamard, transforms.walsh])
def test_bad_requests_are_refused(make: Any) -> None:
    with pytest.raises(ArgumentError, match=r"n=12: not a power of two; use 8 or 16"):
        make(12)
    with pytest.raises(ArgumentError, match="n=0"):
        make(0)
    with pytest.raises(ArgumentError, match="norm='unit'"):
        make(8, norm="unit")
    with pytest.raises(DtypeError, match=r"dtype=torch\.int64"):
        make(8, dtype=torch.int64)
