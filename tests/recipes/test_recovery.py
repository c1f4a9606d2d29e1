"""The recipe of the recovery table: the paper's targets, its baselines, the theorems, and the command."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


paper, running, settings, tables, targets = (
    part(f"recovery.{name}") for name in ("paper", "run", "settings", "tables", "targets")
)
common = part("common")


def one(
    folder: Path, target: str, method: str, *, preset: str = "smoke", seed: int = 1, **options: Any
) -> Any:
    """The row of a case."""
    given = common.Case(f"{target}/{method}", {"target": target, "method": method, **options})
    return running.run(settings.settings(preset), given, common.Run(seed, torch.device("cpu"), folder))


@pytest.mark.parametrize("target", ["low-rank", "sparse", "convolution", "fastfood", "random"])
@pytest.mark.parametrize("method", ["low-rank", "sparse"])
def test_baselines_are_those_of_the_paper(tmp_path: Path, target: str, method: str) -> None:
    """To the printed digit: these targets are its draws, and the budget is its budget."""
    row = one(tmp_path, target, method, preset="small")
    assert abs(row["error"] - paper.TABLES[method][target]) <= 0.0501
    assert row["num_params"] <= row["budget"]


@pytest.mark.parametrize("target", ["k", "low-rank", "sparse", "convolution", "fastfood"])
def test_theorems_give_every_structured_target(tmp_path: Path, target: str) -> None:
    row = one(tmp_path, target, "construction")
    assert row["error"] < 1e-12
    if "width" in row:
        assert row["width"] <= {"low-rank": 8, "sparse": 4, "convolution": 1, "fastfood": 2}[target]


@pytest.mark.parametrize("target", ["k", "low-rank", "sparse"])
def test_fits_are_exact_within_the_budget(tmp_path: Path, target: str) -> None:
    row = one(tmp_path, target, "fit", **{"class": settings.CLASSES[target][0]})
    assert row["error"] < 1e-10 and row["num_params"] <= row["budget"]


def test_targets_have_the_norm_of_the_paper() -> None:
    for name in targets.NAMES:
        made = targets.target(name, 256)
        assert made.dense.dtype == torch.float64
        assert 13 < float(torch.linalg.vector_norm(made.dense)) < 19


def test_classes_hold_what_they_are_said_to() -> None:
    n = 256
    held = {
        name: settings.structure(name, n).num_params(n, n)
        for names in settings.CLASSES.values() for name in names
    }  # fmt: skip
    assert held == {"OBB": 2304, "(OBB)^2": 4608, "(OBB)^4": 9216, "BB* tied": 4080, "D (OBB)^2 D": 5120}
    assert [settings.budget(name, n) for name in targets.NAMES] == [2304, 2304, 9216, 4608, 4608, 2304]


def test_learning_comes_nearer_than_nothing_and_differs_by_seed(tmp_path: Path) -> None:
    rows = [one(tmp_path / str(s), "low-rank", "gradient", seed=s, **{"class": "OBB"}) for s in (1, 2)]
    norm = float(torch.linalg.vector_norm(targets.target("low-rank", 32).dense))
    assert all(row["error"] < 0.9 * norm for row in rows) and rows[0]["error"] != rows[1]["error"]


def test_the_fit_of_a_real_convolution_is_real(tmp_path: Path) -> None:
    row = one(tmp_path, "convolution", "fit", **{"class": "BB* tied"})
    assert row["error"] < 1e-12
    member = km.fit(
        targets.target("convolution", 32).dense, settings.structure("BB* tied", 32), batches=()
    ).matrix
    assert member.dtype == torch.float64


def test_the_recipe_runs(kmatrix: Command, tmp_path: Path) -> None:
    done = kmatrix("recipe", "run", "recovery", "--seeds", "1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 6 * 2 + 5 + 8 + 8
    text = (tmp_path / "tables.md").read_text()
    assert "K, theoretical minimum" in text and (tmp_path / "errors.svg").is_file()


def test_the_setting_of_the_paper_goes_through_a_step(kmatrix: Command) -> None:
    arguments = ("--preset", "paper", "--dry-run", "--cases", "k/*", "--cases", "convolution/gradient/*")
    done = kmatrix("recipe", "run", "recovery", *arguments)
    assert done.exit_code == 0, done.stderr
    assert "k/gradient/OBB" in done.stdout and "convolution/gradient/BBtied" in done.stdout


def test_the_paper_stands_in_brackets_and_what_is_over_the_budget_has_a_star() -> None:
    options = {"target": "fastfood", "method": "fit"}
    part = {"case": "fastfood/fit", "seed": 1, "budget": 4608, "how": "so"}
    rows = [
        {**part, "options": {**options, "class": "(OBB)^2"}, "error": 9.6, "num_params": 4608},
        {**part, "options": {**options, "class": "D (OBB)^2 D"}, "error": 2e-14, "num_params": 5120},
        {**part, "options": {"target": "fastfood", "method": "sparse"}, "error": 7.11, "num_params": 4608},
    ]
    table, _ = tables.sheets(settings.settings("small"), rows)
    found = {row[0]: row[5] for row in table.rows}
    assert found["K, by fit"] == "9.60 2e-14*" and found["sparse (largest entries)"] == "7.11 (7.1)"
    assert found["K, by gradient"] == "(5.1)"
    assert "best of 4 random starts (preset paper: 20)" in table.notes[0]
    (full, _) = tables.sheets(settings.settings("paper"), rows)
    assert "best of 20 random starts." in full.notes[0]
