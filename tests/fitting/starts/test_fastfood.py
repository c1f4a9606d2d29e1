"""Fastfood matrices are recognised from their entries alone; other matrices are refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from kmatrix import FitError
from kmatrix.fitting.starts.fastfood import recognise_fastfood
from kmatrix.structures import Fastfood


@pytest.mark.parametrize("n", [32, 64, 128])
def test_gaussian_diagonals_and_a_random_permutation(n: int) -> None:
    rng = np.random.default_rng(n)
    s, g, b = rng.standard_normal((3, n))
    h, p = scipy.linalg.hadamard(n), rng.permutation(n)
    dense = s[:, None] * (h @ (g[:, None] * (h * b)[p])) / n
    found = recognise_fastfood(torch.from_numpy(dense))
    np.testing.assert_allclose(found.dense(), dense, rtol=0, atol=1e-11 * np.abs(dense).max())
    # The permutation is known up to translations of both sides, which signs of the outer diagonals make up for.
    shifts = [p[np.arange(n) ^ c] ^ p[c] for c in range(n)]
    assert any(np.array_equal(found.p, shift) for shift in shifts)


def test_members_of_the_structure_are_recognised_as_members() -> None:
    member = Fastfood().random(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = recognise_fastfood(member.to_dense().detach()).matrix()
    assert found.structure == Fastfood()
    assert found.num_params == 96
    torch.testing.assert_close(found.to_dense(), member.to_dense(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (torch.eye(12, dtype=torch.float64), "power-of-two"),
        (torch.eye(16, dtype=torch.complex128), "real"),
        (torch.ones(16, 16, dtype=torch.float64), "singular"),
        (torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), "every pair"),
    ],
)
def test_other_matrices_are_refused(matrix: torch.Tensor, reason: str) -> None:
    with pytest.raises(FitError, match=reason):
        recognise_fastfood(matrix)
