"""Truncated singular value decompositions of batches: as good as the full ones, whatever the spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kmatrix.fitting.projections import truncation
from kmatrix.fitting.projections.truncation import truncate

DTYPES = (torch.float64, torch.complex128)


def errors(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Distance of the approximations and of the best ones, per matrix."""
    left, right = truncate(matrices, rank)
    s = torch.linalg.svdvals(matrices)
    best = s[..., rank:].square().sum(-1).sqrt()
    return torch.linalg.vector_norm(matrices - left @ right, dim=(-2, -1)), best


def spectrum(*values: float, sides: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Matrices with the given leading singular values, zeros after."""
    m, n = sides
    u = torch.linalg.qr(torch.randn(5, m, len(values), dtype=dtype)).Q
    v = torch.linalg.qr(torch.randn(5, n, len(values), dtype=dtype)).Q
    return (u * torch.tensor(values, dtype=torch.float64)) @ v.mH


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sides", "rank"), [((16, 16), 1), ((40, 24), 6), ((24, 40), 5), ((9, 9), 8), ((1, 7), 1)]
)
def test_errors_are_the_best(sides: tuple[int, int], rank: int, dtype: torch.dtype) -> None:
    reached, best = errors(torch.randn(7, *sides, dtype=dtype), rank)
    torch.testing.assert_close(reached, best, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "values",
    [
        (1.0, 1e-3, 1e-6, 1e-9),  # steep: the Gram matrix cannot resolve its end
        (1.0, 1.0, 1e-5, 1e-5),  # a clear gap after the rank
        (1.0, 1e-6, 1e-6, 1e-6),  # no gap at the rank
        (1.0, 1.0, 1.0, 1.0),
        (1.0, 1e-12, 1e-12, 1e-12),
    ],
)
def test_errors_are_the_best_for_hard_spectra(values: tuple[float, ...], dtype: torch.dtype) -> None:
    reached, best = errors(spectrum(*values, sides=(20, 28), dtype=dtype), 2)
    torch.testing.assert_close(reached, best, rtol=1e-9, atol=2e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_members_are_returned_at_any_scale(scale: float, dtype: torch.dtype) -> None:
    member = scale * spectrum(3.0, 1e-4, sides=(17, 30), dtype=dtype)
    left, right = truncate(member, 2)
    torch.testing.assert_close(left @ right, member, rtol=0, atol=1e-14 * scale)


def test_a_batch_may_mix_easy_hard_and_zero_matrices() -> None:
    hard = spectrum(1.0, 1e-6, 1e-6, sides=(16, 16), dtype=torch.float64)[:1]
    batch = torch.cat(
        [torch.randn(2, 16, 16, dtype=torch.float64), hard, torch.zeros(1, 16, 16, dtype=torch.float64)]
    )
    reached, best = errors(batch, 2)
    torch.testing.assert_close(reached, best, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("sides", [(6, 40), (40, 6), (40, 40)])
def test_factors_are_balanced(sides: tuple[int, int]) -> None:
    left, right = truncate(1e6 * torch.randn(3, *sides, dtype=torch.float64), 1)
    torch.testing.assert_close(left.norm(dim=(1, 2)), right.norm(dim=(1, 2)))


def test_ranks_over_the_sides_are_zeros() -> None:
    matrices = torch.randn(2, 3, 5, dtype=torch.float64)
    left, right = truncate(matrices, 4)
    assert left.shape == (2, 3, 4) and right.shape == (2, 4, 5)
    torch.testing.assert_close(left @ right, matrices)
    assert torch.count_nonzero(right[:, 3]) == 0


def test_gram_route_decides_alone_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        raise RuntimeError("full decomposition")

    monkeypatch.setattr(truncation, "_in_full", fail)
    for values in ((1.0, 0.9, 0.8, 0.7), (1.0, 0.5, 1e-6, 1e-7), (1.0, 0.5)):
        truncate(spectrum(*values, sides=(20, 28), dtype=torch.float64), 2)
    with pytest.raises(RuntimeError, match="full decomposition"):
        truncate(spectrum(1.0, 1e-6, 1e-6, sides=(20, 28), dtype=torch.float64), 2)


def test_failure_of_the_eigensolver_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gram: Tensor, rank: int) -> Tensor:
        raise np.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(truncation, "_leading_eigenvectors", fail)
    reached, best = errors(torch.randn(2, 16, 16, dtype=torch.float64), 2)
    torch.testing.assert_close(reached, best)
