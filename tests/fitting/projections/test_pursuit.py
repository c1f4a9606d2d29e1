"""Sparse plus low rank: planted splits come back exactly, and noise is told apart from outliers."""

from __future__ import annotations

import pytest
import torch

import kmatrix as km
from kmatrix.fitting.projections.pursuit import pursue, split
from kmatrix.fitting.search.families import _left_of_noise


def planted(m: int, n: int, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(m + n)
    low = torch.randn(m, rank, dtype=dtype, generator=generator) @ torch.randn(
        rank, n, dtype=dtype, generator=generator
    )
    mask = torch.rand(m, n, generator=generator) < 0.03
    return low + 20 * mask, mask


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("m", "n"), [(60, 60), (50, 90)])
def test_planted_outliers_and_rank_are_found(m: int, n: int, dtype: torch.dtype) -> None:
    dense, mask = planted(m, n, 2, dtype)
    found, rank = pursue(dense, tol=1e-6)
    assert rank == 2
    assert not (mask & ~found).any()
    matrix = split(dense, found, rank, tol=1e-12)
    gap = torch.linalg.norm(matrix.to_dense().detach() - dense) / torch.linalg.norm(dense)
    assert gap < 1e-12


def test_fit_finds_the_split_by_itself() -> None:
    dense, mask = planted(80, 80, 2, torch.float64)
    found = km.fit(dense, tol=1e-9, batches=())
    assert found.method.startswith("sparse + low rank")
    assert found.certificate.num_params <= int(mask.sum()) * 1.2 + 2 * 160


def test_what_is_left_of_noise_is_what_sampling_says() -> None:
    energies = (
        torch.randn(400_000, generator=torch.Generator().manual_seed(0)).double().square().sort().values
    )
    for share in (0.05, 0.125, 0.5):
        kept = int(len(energies) * (1 - share))
        assert _left_of_noise(share) == pytest.approx(float(energies[:kept].sum() / energies.sum()), abs=5e-3)
