"""The recipe of fast transforms: the targets and baselines of the paper, trials side by side, and the command."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.fft
import torch
from click.testing import Result

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


baselines, models, paper, running, settings, tables, targets = (
    part(f"transforms.{name}")
    for name in ("baselines", "models", "paper", "run", "settings", "tables", "targets")
)
common, trials = part("common"), part("common.trials")


def made_run(folder: Path, **changes: Any) -> Any:
    return common.Run(1, torch.device("cpu"), folder, **changes)


def members(count: int, n: int = 8) -> list[km.StructuredMatrix]:
    generator = torch.Generator().manual_seed(0)
    return [models.random_member("dct", n, generator=generator) for _ in range(count)]


# Targets and baselines


def test_targets_are_the_transforms_of_scipy() -> None:
    x = torch.randn(16, dtype=torch.float64)
    wanted = {
        "dft": torch.fft.fft(x) / 4,
        "dct": torch.from_numpy(scipy.fft.dct(x.numpy())) / 4,
        "dst": torch.from_numpy(scipy.fft.dst(x.numpy())) / 4,
        "hartley": (torch.fft.fft(x).real - torch.fft.fft(x).imag) / 4,
    }
    for name, y in wanted.items():
        dense = targets.target(name, 16)
        assert torch.allclose(dense @ x.to(dense.dtype), y, atol=1e-12)
    for name in ("dft", "hadamard", "hartley"):
        dense = targets.target(name, 16)
        assert torch.allclose(dense @ dense.mH, torch.eye(16, dtype=dense.dtype), atol=1e-12)


@pytest.mark.parametrize("n", [8, 32, 64])
@pytest.mark.parametrize("target", list(targets.TARGETS))
def test_baselines_are_those_of_the_paper(target: str, n: int) -> None:
    """To every printed digit; they fix the scale of the targets, the draws of the random ones, and the budget."""
    dense = targets.target(target, n)
    for method, table in ((baselines.sparse, paper.SPARSE), (baselines.low_rank, paper.LOW_RANK)):
        printed = paper.printed(table, target, n)
        if printed is not None:
            digit = 1e-3 if printed >= 0.01 else 1e-4
            assert abs(method(dense, baselines.budget(n)) - printed) <= 0.501 * digit


def test_a_planted_sum_of_sparse_and_low_rank_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 32, 1, generator=draw, dtype=torch.float64)
    planted = u @ v.T
    places = torch.randperm(32 * 32, generator=draw)[:40]
    planted.view(-1)[places] += 20.0
    error, rank = baselines.sparse_plus_low_rank(planted, 64 + 40, 20)
    assert rank == 1 and error < 1e-8 < baselines.sparse(planted, 104)


# Trials side by side


def test_trials_multiply_as_their_members_do() -> None:
    some = members(3)
    x = torch.randn(4, 8, dtype=torch.complex64)
    together = trials.Trials(some)
    wanted = torch.stack([member(x) for member in some])
    assert torch.allclose(together(x), wanted, atol=1e-5)
    few = together.kept(torch.tensor([2, 0]))
    assert len(few) == 2 and torch.allclose(few(x), wanted[[2, 0]], atol=1e-5)
    with torch.no_grad():
        for numbers in few.numbers:
            numbers[1] *= 2
    assert torch.allclose(few.matrix(1)(x), few(x)[1], atol=1e-5)


def test_each_trial_has_adam_of_its_own() -> None:
    start = torch.randn(3, 5, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.01, 0.5], dtype=torch.float64)
    stacked = torch.nn.Parameter(start.clone())
    mine = trials.RatedAdam([stacked], rates)
    alone = [torch.nn.Parameter(row.clone()) for row in start]
    theirs = [
        torch.optim.Adam([row], lr=float(rate), betas=(0.9, 0.99), eps=1e-12)
        for row, rate in zip(alone, rates, strict=True)
    ]
    for _ in range(7):
        for optimizer, numbers in ((mine, stacked), *zip(theirs, alone, strict=True)):
            optimizer.zero_grad()
            (numbers - 1).pow(4).sum().backward()
            optimizer.step()
    assert torch.allclose(stacked, torch.stack(list(alone)), atol=1e-9)


def test_the_gap_is_the_squared_error_of_the_real_part() -> None:
    some, dense = members(2), targets.target("dct", 8)
    found = trials.Gap(dense, torch.complex64)(trials.Trials(some))
    wanted = [targets.rmse(dense, member.to_dense().detach().real.double()) ** 2 for member in some]
    assert torch.allclose(found.detach().double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-5)
    complex_target = targets.target("dft", 8)
    found = trials.Gap(complex_target, torch.complex64)(trials.Trials(some))
    wanted = [targets.rmse(complex_target, member.to_dense().detach()) ** 2 for member in some]
    assert torch.allclose(found.detach().double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-5)


def test_polish_comes_back_to_a_planted_member() -> None:
    planted = km.FixedBPBP(depth=1).random(16, 16, dtype=torch.float64)
    dense = planted.to_dense().detach()
    with torch.no_grad():
        for numbers in planted.parameters():
            numbers.add_(torch.randn_like(numbers), alpha=0.05)
    assert targets.rmse(dense, planted.to_dense().detach()) > 1e-3
    error = trials.polish(planted, dense, 400, enough=1e-9)
    assert error < 1e-8 and math.isclose(
        targets.rmse(dense, planted.to_dense().detach()), error, rel_tol=1e-6
    )


def test_rounding_keeps_what_has_settled() -> None:
    (member,) = members(1, 16)
    with torch.no_grad():
        for name, numbers in member.named_parameters():
            if "logits" in name:
                numbers.copy_(30 * numbers.sign())
    hard = models.hardened(member)
    assert not any("logits" in name for name, _ in hard.named_parameters())
    assert torch.allclose(hard.to_dense(), member.to_dense(), atol=1e-5)


def test_models_are_those_of_the_paper() -> None:
    assert [models.name_of(t) for t in ("dft", "dct", "dst", "convolution")] == ["BP", "BPP", "BPP", "BPBP"]
    n, levels = 32, 4
    counts = {"dft": 4 * n - 4 + 3 * levels, "dct": 4 * n - 4 + 3 * levels + 3}
    counts["convolution"] = 2 * counts["dft"]
    for target, count in counts.items():
        assert models.random_member(target, n).num_params == count
    assert models.random_member("dft", n, tied_logits=True).num_params == 4 * n - 4 + 3


# Runs


def test_a_transform_is_learned(tmp_path: Path) -> None:
    chosen = dataclasses.replace(settings.settings("small"), together=12, logits="tied")
    row = running.learned(chosen, "dft", 8, made_run(tmp_path))
    assert row["success"] and row["rmse"] < 1e-4 and row["num_params"] == 2 * (4 * 8 - 4)


def test_the_fit_is_exact_or_says_what_is_near() -> None:
    chosen = settings.settings("smoke")
    row = running.fitted(targets.target("hartley", 32), chosen)
    assert row["fast"] and row["rmse"] < 1e-12 and row["num_params"] <= 2 * row["budget"]
    row = running.fitted(targets.target("random", 32), chosen)
    assert not row["fast"] and row["family"] == "dense" and row["within"]["num_params"] <= row["budget"]
    assert 0.07 < row["within"]["rmse"] < 0.08  # the sparse baseline; nothing is nearer


def test_the_recipe_runs(kmatrix: Command, tmp_path: Path) -> None:
    names = [f"{target}/8/*" for target in ("dct", "convolution", "random")]
    arguments = [x for name in names for x in ("--cases", name)]
    done = kmatrix("recipe", "run", "transforms", "--seeds", "2", "--out", str(tmp_path), *arguments)
    assert done.exit_code == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 3 * 3
    text = (tmp_path / "tables.md").read_text()
    assert "4.4e-06" in text and "convolution" in text and (tmp_path / "rmse.svg").is_file()


def test_rate_start_and_ties_are_searched(kmatrix: Command, tmp_path: Path) -> None:
    arguments = ("--seeds", "1", "--out", str(tmp_path), "--cases", "hadamard/8/gradient", "--search", "1")
    done = kmatrix("recipe", "run", "transforms", *arguments)
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    params = found["searched"]["hadamard/8/gradient"]["params"]
    assert set(params) == {"rate", "init", "logits"} and found["rows"][0]["rate"] == pytest.approx(
        params["rate"]
    )


def test_the_setting_of_the_paper_goes_through_a_step(kmatrix: Command) -> None:
    arguments = ("--preset", "paper", "--dry-run", "--cases", "*/16/gradient", "--cases", "dct/1024/fit")
    done = kmatrix("recipe", "run", "transforms", *arguments)
    assert done.exit_code == 0, done.stderr
    assert all(f"{target}/16/gradient" in done.stdout for target in targets.TARGETS)
    assert len(settings.cases(settings.settings("paper"))) == 8 * 8 * 3


def test_the_table_tells_success_from_failure() -> None:
    options = {"target": "dct", "n": 16, "method": "gradient"}
    common_part = {"case": "dct/16/gradient", "options": options, "trials": 40}
    rows = [
        {**common_part, "seed": 1, "rmse": 2e-6, "success": True},
        {**common_part, "seed": 2, "rmse": 0.1, "success": False},
        {"case": "dct/16/fit", "options": {**options, "method": "fit"}, "seed": 2, "rmse": None},
    ]
    (sheet,) = tables.sheets(settings.settings("small"), rows)
    (line,) = sheet.rows
    assert line[:6] == ["DCT", "16", "2.0e-06 to 0.1", "1 of 2", "40", "1.1e-05"] and line[6:] == [""] * 7


def test_the_table_marks_fits_over_the_budget() -> None:
    def fitted(n: int, held: int, **more: object) -> dict[str, object]:
        options = {"target": "dct", "n": n, "method": "fit"}
        known = {"num_params": held, "budget": 2 * n * (n.bit_length() - 1), "family": "butterfly"}
        return {"case": f"dct/{n}/fit", "options": options, "seed": 1, "rmse": 1e-16, **known, **more}

    near = {"rmse": 0.01, "num_params": 640, "family": "sparse"}
    rows = [
        fitted(8, 48, fast=True),
        fitted(16, 160, fast=True),
        fitted(64, 2176, fast=False, within=near),
    ]
    (sheet,) = tables.sheets(settings.settings("small"), rows)
    assert [line[6:10] for line in sheet.rows] == [
        ["1.0e-16", "butterfly", "48", "1.00"],
        ["1.0e-16", "butterfly", "160", "1.25*"],
        ["0.01", "sparse; to 1e-10: butterfly, 2.8 times the budget", "640", "0.83"],
    ]
    assert any("up to 2 times it counts as fast here" in note for note in sheet.notes)
