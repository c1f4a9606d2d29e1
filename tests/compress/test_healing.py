"""Healing lowers the loss, keeps the best state, and says no to what cannot be learnt from."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmatrix as km
from kmatrix.compress.healing import divergence, rate


@pytest.fixture
def small(mlp: nn.Sequential, batches: list[Tensor]) -> nn.Sequential:
    model = copy.deepcopy(mlp)
    km.compress_(model, 0.4, calibration=batches, verify_speed=False, structures=[km.LowRank])
    return model


def distance(a: nn.Module, b: nn.Module, batches: list[Tensor]) -> float:
    with torch.no_grad():
        return sum(float(divergence(a(x), b(x), 1.0)) for x in batches)


def test_a_teacher_draws_the_model_back(
    mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor]
) -> None:
    before = distance(small, mlp, batches)
    report = km.heal(small, batches, teacher=mlp, steps=60, lr=3e-3)
    assert distance(small, mlp, batches) < 0.7 * before
    assert len(report.losses) == 60
    assert dict(report.scores)[report.best_step] == min(score for _, score in report.scores)
    assert re.fullmatch(
        r"60 steps in \S+ s: divergence from the teacher on the first batches from \S+ to \S+ after \d+ steps",
        str(report),
    )


def test_targets_are_learnt(small: nn.Sequential, batches: list[Tensor]) -> None:
    data = [(x, x[:, :4].argmax(1)) for x in batches]
    report = km.heal(small, data, steps=40, lr=3e-3)
    assert report.scores[-1][1] < report.scores[0][1]
    numbers = [{"input": x, "labels": x[:, :4]} for x in batches]
    report = km.heal(small, numbers, steps=40, lr=3e-3)
    assert report.scores[-1][1] < report.scores[0][1]


def test_the_best_state_is_kept_whatever_comes_after(small: nn.Sequential, batches: list[Tensor]) -> None:
    before = copy.deepcopy(small.state_dict())
    scores = iter(range(100))
    report = km.heal(
        small, batches, loss=lambda out, x: out.square().mean(), steps=12, validate=lambda model: next(scores)
    )
    assert report.best_step == 0
    assert str(report).endswith("s: no step was better by validate; the model is unchanged (score 0)")
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())


def test_both_losses_are_mixed(mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor]) -> None:
    said: list[float] = []

    def loss(output: Tensor, batch: Tensor) -> Tensor:
        said.append(1.0)
        return output.mean() * 0 + 8.0

    report = km.heal(small, batches, loss, teacher=mlp, steps=1, mix=0.25)
    with torch.no_grad():
        assert report.losses[0] > 6.0
    assert said


def test_the_mode_of_every_module_stays(
    mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor]
) -> None:
    small.train()
    small[1].eval()
    km.heal(small, batches, teacher=mlp, steps=2)
    assert small.training and not small[1].training


def test_ctrl_c_keeps_the_best_so_far(
    mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor]
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    report = km.heal(small, batches, teacher=mlp, steps=50, progress=stop)
    assert report.interrupted and len(report.losses) == 3


def test_the_rate_rises_and_falls() -> None:
    rates = [rate(k, 100) for k in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == 1.0
    assert 0 < rates[0] < 0.2 and 0 < rates[-1] < 0.01
    assert rate(0, 1) == 1.0


def test_what_cannot_be_healed_is_refused(
    mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor]
) -> None:
    def refused(error: type[Exception], words: str, data: Any = batches, **options: Any) -> None:
        with pytest.raises(error, match=words):
            km.heal(small, data, **options)

    def twice() -> Iterator[Tensor]:
        yield from batches[:2]

    refused(km.ArgumentError, "neither a loss nor a teacher")
    refused(km.ArgumentError, "it has no batches", data=[], teacher=mlp)
    refused(km.ArgumentError, "cannot be begun again", data=twice(), teacher=mlp, steps=9)
    refused(km.DtypeError, "data=int: not iterable", data=3)
    refused(km.ArgumentError, "lr=-1", lr=-1, teacher=mlp)
    refused(km.ArgumentError, "steps=0", steps=0, teacher=mlp)
    refused(km.ArgumentError, "not finite in the first step", loss=lambda out, x: out.sum() / 0, steps=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_16_bits_are_healed_and_stay_of_16_bits(
    mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor], dtype: torch.dtype
) -> None:
    dense, data = copy.deepcopy(mlp).to(dtype), [x.to(dtype) for x in batches]
    small.to(dtype)
    before = distance(small, dense, data)
    report = km.heal(small, data, teacher=dense, steps=40, lr=1e-3)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert not any(math.isnan(score) for _, score in report.scores)
    assert distance(small, dense, data) < before


def test_scores_that_are_no_numbers_never_win(
    mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor]
) -> None:
    scores = iter([1.0, float("nan"), 0.5, float("nan"), float("nan"), float("nan"), float("nan")])
    report = km.heal(small, batches, teacher=mlp, steps=6, validate=lambda model: next(scores))
    assert report.best_step == 2


def test_after_a_failure_the_model_has_its_best_state(
    mlp: nn.Sequential, small: nn.Sequential, batches: list[Tensor]
) -> None:
    before = copy.deepcopy(small.state_dict())

    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise OSError("no more data")

    mlp.train()
    with pytest.raises(OSError, match="no more data"):
        km.heal(small, batches, teacher=mlp, steps=50, progress=stop)
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    assert all(p.grad is None for p in small.parameters())
    assert mlp.training


def test_frozen_norms_keep_their_statistics() -> None:
    def built() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
        return model.train()

    model, teacher = built(), built().eval()
    model[1].eval()
    before = [model[k].running_mean.clone() for k in (1, 3)]
    data = [torch.randn(16, 8) + 3 for _ in range(4)]
    scores = iter(range(9, 0, -1))
    km.heal(model, data, teacher=teacher, steps=3, validate=lambda model: next(scores))
    assert torch.equal(model[1].running_mean, before[0])
    assert not torch.equal(model[3].running_mean, before[1])
    assert model[3].training and not model[1].training


def test_the_report_says_what_states_were_compared_on(small: nn.Sequential, batches: list[Tensor]) -> None:
    many = [(x, x[:, :4]) for x in batches * 4]
    assert ": loss on the held-out batches from " in str(km.heal(small, many, steps=20, lr=1e-2))
    assert km.heal(small, iter(many * 10), steps=2).judged == "on the held-out batches"
    report = km.heal(small, many, lambda out, batch: out.sum() * 0, teacher=small, steps=1)
    assert re.fullmatch(
        r"1 step in \S+ s: no step was better on the held-out batches; the model is unchanged "
        r"\(loss with the divergence from the teacher \S+\)",
        str(report),
    )
