"""The recipe of recipes/gblr runs from end to end, on data of its own and in small."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import kmatrix as km

RECIPES = Path(__file__).parents[2] / "recipes"
OWN = {path.stem for folder in ("gblr", "compression") for path in (RECIPES / folder).glob("*.py")}

Load = Callable[[str], ModuleType]
Run = Callable[..., None]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """A module of the recipe, as its scripts import it."""
    monkeypatch.syspath_prepend(str(RECIPES / "gblr"))
    yield importlib.import_module
    for name in OWN & set(sys.modules):
        del sys.modules[name]


@pytest.fixture
def run(load: Load, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a script as the command line does, without a process of its own."""

    def call(script: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        load(script).main()

    return call


@pytest.mark.parametrize(("subject", "starts"), [("vit", ["scratch", "dense"]), ("characters", ["scratch"])])
def test_every_method_keeps_to_the_budget_and_is_in_the_table(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], subject: str, starts: list[str]
) -> None:
    out = tmp_path / f"{subject}.json"
    run("study", subject, "--preset", "smoke", "--out", out, "--starts", *starts)
    rows = json.loads(out.read_text())["rows"]
    methods = importlib.import_module("methods").METHODS
    scratch = [row["method"] for row in rows if row["start"] == "scratch"]
    assert scratch == [
        method for method in methods for _ in range(2)
    ]  # a seed for the rate, one that is reported
    assert {row["start"] for row in rows} == set(starts)
    if "dense" in starts:
        assert {row["method"] for row in rows if row["start"] == "dense"} == set(methods) - {
            "gblr-random",
            "gblr-begun",
        }
    for row in rows:
        assert row["share"] == 1 if row["method"] == "dense" else 0.2 < row["share"] <= 0.3
        assert ("test" in row) == (row["seed"] > 0)

    learned = json.loads(out.with_suffix(".boxes.json").read_text())
    last = next(
        row["costs"] for row in reversed(rows) if (row["start"], row["method"]) == ("scratch", "gblr")
    )
    assert {name: sum(sum(box[1::2]) for box in layer["boxes"]) for name, layer in learned.items()} == last

    run("tables", tmp_path)
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {name} |") >= 1 for name in methods.values())
    assert (tmp_path / "quality.svg").read_text().startswith("<?xml")


def test_it_goes_on_where_it_was_interrupted(
    run: Run, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--preset", "smoke", "--methods", "dense", "low-rank", "--starts", "scratch")
    run("study", "characters", *options, "--out", tmp_path / "whole.json")
    study = load("study")
    real, calls = study.Study.run, []

    def failing(self: object, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(study.Study, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        run("study", "characters", *options, "--out", tmp_path / "parts.json")
    run("study", "characters", *options, "--out", tmp_path / "parts.json")
    assert len(calls) == 5  # two, the one that failed, and the two that were left

    whole, parts = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "parts"))
    for row in (*whole["rows"], *parts["rows"]):
        del row["seconds"]
    assert whole["rows"] == parts["rows"]
    with pytest.raises(SystemExit, match="give another --out"):
        run("study", "vit", *options, "--out", tmp_path / "parts.json")


def test_learned_budgets_are_spent_on_the_same_matrices(load: Load) -> None:
    methods = load("methods")
    shapes = {"a": (128, 128), "b": (512, 128), "c": (128, 512), "d": (128, 128)}
    spent = {"a": 900, "b": 30_000, "c": 14_000, "d": 60_000}  # the last is more than a full rank costs
    ranks = methods.ranks_of(spent, shapes)
    cost = {name: ranks[name] * sum(shape) for name, shape in shapes.items()}
    assert sum(cost.values()) <= sum(spent.values())
    assert ranks["d"] == 128
    assert all(abs(spent[name] - cost[name]) <= sum(shapes[name]) for name in "abc")
    least = methods.ranks_of({"a": 0, "b": 30_000, "c": 0, "d": 0}, shapes)  # no rank is below one
    assert least == {"a": 1, "b": 45, "c": 1, "d": 1}  # 45 * 640 + 640 + 256 + 256 is the most within 30,000


def test_boxes_start_in_the_trained_weight_and_within_the_budget(load: Load) -> None:
    learned = load("learned")
    weight = torch.zeros(24, 36)
    weight[3:11, 20:32] = torch.outer(torch.randn(8), torch.randn(12))
    weight[15:21, 4:11] = torch.outer(torch.randn(6), torch.randn(7))
    matrix = learned.from_weight(weight, km.Gaudi(budget=0.3))
    assert matrix.boxes.without_empty().cost <= 0.3 * 24 * 36
    assert (matrix.to_dense() - weight).norm() < 1e-4 * weight.norm()


def test_fresh_structures_have_the_size_of_the_weight_they_replace(load: Load) -> None:
    methods, subjects = load("methods"), load("subjects")
    model = subjects.load_subject("vit", "smoke", None).build()
    sizes = {name: layer.weight.norm().item() for name, layer in methods.dense_matrices(model).items()}
    methods.swap(model, methods.rule("monarch", 0.3, {}), fit=False)
    for name, size in sizes.items():
        assert model.get_submodule(name).matrix.to_dense().norm().item() == pytest.approx(size, rel=1e-5)
    assert methods.costs(model).keys() == sizes.keys()


def test_patches_are_the_tiles_of_the_image(load: Load) -> None:
    vit = load("vit").ViT(width=16, layers=1, heads=2, patch=4)
    images = torch.randn(2, 28, 28)
    patches = vit.patches(images)
    assert patches.shape == (2, 49, 16)
    torch.testing.assert_close(patches[1, 9].view(4, 4), images[1, 4:8, 8:12])
