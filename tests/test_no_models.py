"""Whatever takes a model says so when it is given something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix.compress import compress_stream


@pytest.mark.parametrize("wrong", [None, "model", 3, nn.Linear])
@pytest.mark.parametrize(
    "take",
    [
        lambda m: km.compress_(m, verify_speed=False),
        lambda m: km.heal(m, [torch.randn(4, 8)]),
        km.lower_,
        km.densify_,
        lambda m: km.replace_linear_(m, km.LowRank(2)),
        lambda m: km.nn.param_groups(m, lr=1e-3),
    ],
    ids=["compress_", "heal", "lower_", "densify_", "replace_linear_", "param_groups"],
)
def test_what_is_no_model_is_refused(take: Callable[[Any], object], wrong: object) -> None:
    with pytest.raises(km.DtypeError, match=r"not an nn\.Module; pass the"):
        take(wrong)


def test_a_teacher_is_a_model() -> None:
    with pytest.raises(km.DtypeError, match=r"teacher=str: not an nn\.Module; pass the dense model"):
        km.heal(nn.Linear(8, 8), [torch.randn(4, 8)], teacher="dense")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["lr", "weight_decay", "butterfly"])
def test_rates_are_numbers(name: str) -> None:
    with pytest.raises(km.DtypeError, match=f"param_groups: {name}='1'"):
        km.nn.param_groups(nn.Linear(2, 2), **{"lr": 1e-3, name: "1"})


def test_a_stream_of_no_tensors_is_refused(tmp_path: Any) -> None:
    with pytest.raises(km.ArgumentError, match=r"weights\['a'\]=NoneType: not a real matrix"):
        compress_stream({"a": lambda: None}, tmp_path, verify_speed=False)
