"""Members near a weight as its inputs see it: never farther than the blind ones, exact where the weight is a member."""

from __future__ import annotations

import pytest
import torch

import kmatrix as km
from kmatrix.compress.metric import Metric
from kmatrix.compress.weighted import aware, balanced, blind

STRUCTURES = [
    km.BlockDiagonal(3),
    km.Monarch(4),
    km.BlockTensorTrain((3, 4), 2),
    km.BlockLowRank((4, 3), 2),
    km.GroupShuffle(4),
    km.BLAST(2, 5),
    km.Sum((km.BlockDiagonal(4), km.LowRank(2))),
]


def metric_of(weight: torch.Tensor) -> Metric:
    m, n = weight.shape
    x = torch.randn(200, n, dtype=torch.float64) @ torch.randn(n, n, dtype=torch.float64)
    x = x * torch.logspace(0, -2, n, dtype=torch.float64)
    g = torch.randn(90, m, dtype=torch.float64) * torch.logspace(0, -1, m, dtype=torch.float64)
    return Metric.of(weight, x.mT @ x / 200, g.mT @ g / 90)


@pytest.mark.parametrize("shape", [(24, 36), (35, 22)])
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: type(s).__name__)
def test_activations_bring_a_member_nearer(structure: km.Structure, shape: tuple[int, int]) -> None:
    metric = metric_of(torch.randn(shape, dtype=torch.float64))
    start = blind(metric, structure)
    found = aware(metric, structure, start)
    with torch.no_grad():
        assert metric.impact(found.to_dense()) < metric.impact(start.to_dense())


@pytest.mark.parametrize("structure", STRUCTURES[:5], ids=lambda s: type(s).__name__)
def test_a_member_is_found_again(structure: km.Structure) -> None:
    member = structure.random(24, 36, dtype=torch.float64).to_dense().detach()
    metric = metric_of(member)
    found = aware(metric, structure, blind(metric, structure))
    with torch.no_grad():
        assert metric.error(found.to_dense()) < 1e-9  # single precision in the rounds over tiles


def test_one_tile_is_the_weighted_low_rank() -> None:
    weight = torch.randn(18, 25, dtype=torch.float64)
    metric = metric_of(weight)
    metric = Metric(metric.weight, metric.second, None, ridge=1e-12)
    structure = km.BlockTensorTrain(1, 6)
    found = aware(metric, structure, blind(metric, structure))
    left, right = metric.low_rank(6, torch.Generator())
    with torch.no_grad():
        assert metric.error(found.to_dense()) == pytest.approx(metric.error(left @ right), rel=1e-4)


def test_balanced_factors_have_the_same_product_and_equal_norms() -> None:
    left, right = torch.randn(9, 3, dtype=torch.float64) * 100, torch.randn(3, 7, dtype=torch.float64)
    right[2] = 0
    a, b = balanced(left, right)
    torch.testing.assert_close(a @ b, left @ right)
    torch.testing.assert_close(a[:, :2].norm(dim=0), b[:2].norm(dim=1))
