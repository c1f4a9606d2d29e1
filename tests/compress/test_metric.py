"""The norm of a layer's inputs: low rank is optimal in it, whatever the inputs, and errors are what they are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.compress import metric as module
from kmatrix.compress.candidates import candidates
from kmatrix.compress.metric import Metric


def moments(n: int, rank: int | None = None) -> Tensor:
    x = torch.randn(4 * n, n, dtype=torch.float64) * torch.logspace(0, -2, n, dtype=torch.float64)
    if rank is not None:
        x[:, rank:] = 0
    return x.mT @ x / len(x)


def best_error(weight: Tensor, second: Tensor, outer: Tensor, rank: int) -> float:
    """The discarded singular values of ``G^(1/2) W C^(1/2)``: the least that any matrix of the rank can have."""
    values, vectors = torch.linalg.eigh(second)
    scales, axes = torch.linalg.eigh(outer)
    inside = scales.sqrt().unsqueeze(-1) * (axes.mT @ weight @ vectors) * values.clamp_min(0).sqrt()
    return float(torch.linalg.svdvals(inside)[rank:].square().sum())


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (17, 17)])
@pytest.mark.parametrize("alive", [None, 9])
def test_low_rank_is_the_best_of_its_rank_also_with_dead_inputs(
    shape: tuple[int, int], alive: int | None
) -> None:
    weight = torch.randn(shape, dtype=torch.float64)
    second = moments(shape[1], alive)
    metric = Metric.of(weight, second)
    left, right = metric.low_rank(12, torch.Generator())
    for rank in (1, 5, 12):
        got = metric.impact(left[:, :rank] @ right[:rank])
        least = best_error(weight, second, torch.eye(shape[0], dtype=torch.float64), rank)
        assert got == pytest.approx(least, rel=1e-9, abs=1e-12 * metric.energy)


def test_low_rank_is_the_best_where_outputs_matter_differently() -> None:
    weight, second = torch.randn(20, 30, dtype=torch.float64), moments(30)
    metric = Metric.of(weight, second, moments(20))
    assert metric.outer is not None
    left, right = metric.low_rank(8, torch.Generator())
    for rank in (1, 4, 8):
        least = best_error(weight, second, metric.outer, rank)
        assert metric.impact(left[:, :rank] @ right[:rank]) == pytest.approx(least, rel=1e-9)


def test_random_directions_come_near_the_best_subspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RANDOMISED_FROM", 64)
    weight = torch.randn(200, 180, dtype=torch.float64) * torch.logspace(0, -2, 180, dtype=torch.float64)
    metric = Metric.of(weight, None)
    left, right = metric.low_rank(20, torch.Generator().manual_seed(0))
    least = best_error(weight, torch.eye(180, dtype=torch.float64), torch.eye(200, dtype=torch.float64), 20)
    assert metric.impact(left @ right) <= 1.01 * least


@pytest.mark.parametrize("matters", [False, True])
def test_errors_of_candidates_are_those_of_their_matrices(matters: bool) -> None:
    weight, second = torch.randn(32, 24, dtype=torch.float64), moments(24)
    metric = Metric.of(weight, second, moments(32) if matters else None)
    found, failed = candidates(
        metric,
        [km.LowRank, km.Monarch, km.BlockDiagonal, km.BlockLowRank(2, 3)],
        dtype=torch.float64,
        prune=False,
    )
    assert failed == []
    assert {type(c.structure) for c in found} == {km.LowRank, km.Monarch, km.BlockDiagonal, km.BlockLowRank}
    whole = metric.impact(torch.zeros_like(weight))
    for c in found:
        dense = c.make().to_dense().detach()
        assert c.error == pytest.approx(metric.error(dense), rel=1e-8, abs=1e-12)
        assert c.impact == pytest.approx(metric.impact(dense), rel=1e-8, abs=1e-12 * whole)
        gap = weight - dense
        assert c.error == pytest.approx(
            float(torch.trace(gap @ second @ gap.mT) / torch.trace(weight @ second @ weight.mT)), abs=1e-12
        )
        assert c.num_params == c.make().num_params


def test_a_rank_over_the_sides_is_padded_with_zeros() -> None:
    weight = torch.randn(6, 40, dtype=torch.float64)
    (one,), _ = candidates(Metric.of(weight, None), [km.LowRank(5)], dtype=torch.float64)
    assert one.make().num_params == 5 * 46
    narrow = Metric.of(torch.outer(torch.ones(8), torch.ones(30)), moments(30))
    (flat,), _ = candidates(narrow, [km.LowRank(2)], dtype=torch.float64)
    assert flat.error < 1e-12


def test_a_weight_of_zeros_has_no_error() -> None:
    metric = Metric.of(torch.zeros(16, 16), moments(16))
    found, _ = candidates(metric, [km.LowRank(2), km.Monarch(4)], dtype=torch.float32)
    assert [c.error for c in found] == [0.0, 0.0]
    assert all(bool((c.make().to_dense() == 0).all()) for c in found)
