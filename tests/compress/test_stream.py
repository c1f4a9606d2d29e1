"""Weights one at a time: the budget is kept, files hold what is said, and nothing is left aside."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import kmatrix as km
from kmatrix.compress import compress_stream, weights_of


def decaying(seed: int, power: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, 60, generator=generator) * torch.logspace(0, -power, 60)


WEIGHTS = {f"w{k}": functools.partial(decaying, k, k) for k in range(3)}


def test_the_budget_goes_where_it_is_needed(tmp_path: Path) -> None:
    found = compress_stream(WEIGHTS, tmp_path, 0.5, verify_speed=False)
    assert sum(one.num_params for one in found) <= 0.5 * 3 * 2400
    assert found[0].num_params > found[2].num_params
    for one in found:
        if one.rank is None:
            assert (one.num_params, one.error) == (2400, 0.0)
            continue
        there = km.load(tmp_path / f"{one.name}.safetensors")
        assert there.structure == km.LowRank(one.rank)
        weight = WEIGHTS[one.name]().double()
        tail = torch.linalg.svdvals(weight)[one.rank :].square().sum() / weight.square().sum()
        assert one.error == pytest.approx(float(tail), rel=1e-6)
        gap = (weight - there.to_dense().detach().double()).square().sum() / weight.square().sum()
        assert one.error == pytest.approx(float(gap), rel=1e-3)
    written = [f"{one.name}.safetensors" for one in found if one.rank is not None]
    assert len(written) >= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == written


def test_moments_count(tmp_path: Path) -> None:
    second = torch.diag(torch.logspace(0, -6, 60))
    seen = compress_stream(WEIGHTS, tmp_path / "a", 0.3, moments=lambda name: second, verify_speed=False)
    unseen = compress_stream(WEIGHTS, tmp_path / "b", 0.3, verify_speed=False)
    assert seen[0].error < 0.5 * unseen[0].error


def test_weights_of_a_file_are_read_one_by_one(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, 4), "bias": torch.ones(3)}, tmp_path / "m.safetensors")
    ((name, read),) = weights_of(tmp_path / "m.safetensors")
    assert (name, read().shape) == ("a", (3, 4))


def test_a_budget_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(km.ArgumentError, match="budget=0: not a share of dense"):
        compress_stream(WEIGHTS, tmp_path, 0, verify_speed=False)


@pytest.mark.parametrize("name", ["../out", "a/b", "", "a\\b"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(km.ArgumentError, match="it cannot be the name of a file"):
        compress_stream({name: WEIGHTS["w0"]}, tmp_path / "small", 0.5, verify_speed=False)
    assert list(tmp_path.iterdir()) == []


def test_old_files_are_neither_overwritten_nor_taken_for_new_ones(tmp_path: Path) -> None:
    (tmp_path / "w1.safetensors").write_text("old")
    with pytest.raises(km.ArgumentError, match=r"w1.safetensors is there already"):
        compress_stream(WEIGHTS, tmp_path, 0.5, verify_speed=False)
    assert (tmp_path / "w1.safetensors").read_text() == "old"


@pytest.mark.parametrize("weight", [torch.ones(3, 4, 2), torch.ones(3, 4, dtype=torch.int64)])
def test_what_is_no_real_matrix_is_refused(tmp_path: Path, weight: Tensor) -> None:
    with pytest.raises(km.ArgumentError, match=r"weights\['w'\]=.*not a real matrix"):
        compress_stream({"w": lambda: weight}, tmp_path, 0.5, verify_speed=False)
    assert list(tmp_path.iterdir()) == []
