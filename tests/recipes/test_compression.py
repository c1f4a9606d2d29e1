"""The recipes of recipes/compression run from end to end, on data of their own and in small."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kmatrix.cli.recipe import recipes

PACKAGE = f"{recipes().__name__}.compression"

Run = Callable[..., None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a script as the command line does, without a process of its own."""
    threads = torch.get_num_threads()

    def call(script: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--preset", "smoke"])
        importlib.import_module(f"{PACKAGE}.{script}").main()

    yield call
    torch.set_num_threads(threads)


def test_training_goes_on_where_it_was_interrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", "mlp", "--out", tmp_path / "whole")
    training = importlib.import_module(f"{PACKAGE}.training")
    real, calls = training.save, []

    def failing(*arguments: object) -> None:
        real(*arguments)
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save", failing)
    monkeypatch.setattr(training.train, "__kwdefaults__", training.train.__kwdefaults__ | {"every": 10})
    with pytest.raises(KeyboardInterrupt):
        run("train", "mlp", "--out", tmp_path / "parts")
    assert len(json.loads((tmp_path / "parts" / "training.json").read_text())["losses"]) == 10
    monkeypatch.setattr(training, "save", real)
    run("train", "mlp", "--out", tmp_path / "parts")

    for name in ("model.safetensors", "training.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_files_of_two_steps_start_again(run: Run, tmp_path: Path) -> None:
    """What an interruption between two files leaves is not mistaken for a checkpoint."""
    run("train", "mlp", "--out", tmp_path)
    state = tmp_path / "training.json"
    state.write_text(json.dumps({"step": 20, "losses": [1.0] * 20}))
    run("train", "mlp", "--out", tmp_path)
    losses = json.loads(state.read_text())["losses"]
    assert len(losses) == 40
    assert losses[:20] != [1.0] * 20


def test_every_method_is_healed_and_reported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", "mlp", "--out", tmp_path / "trained")
    run("compare", "mlp", "--trained", tmp_path / "trained", "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["method"] for row in found["rows"]] == 2 * ["ours", "svd", "aware", "svd-ours", "aware-ours"]
    for row in found["rows"]:
        assert row["share"] <= row["budget"]
        # The best state on validation data is kept, so that no heal can harm there.
        assert row["after"]["validation"]["loss"] <= row["before"]["validation"]["loss"] + 1e-6
    assert "kmatrix" in capsys.readouterr().out


def test_times_and_training_from_scratch_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("mlp", "transformer"):
        run("train", model, "--out", tmp_path / model)
    run("speed", "--trained", tmp_path, "--out", tmp_path / "speed.json")
    found = json.loads((tmp_path / "speed.json").read_text())
    assert [row["model"] for row in found["models"]] == ["mlp", "mlp", "transformer", "transformer"]
    assert len(found["layers"]) == 2
    assert all(row["swapped"] > 0 and row["dense_ms"] > 0 for row in found["models"] + found["decoding"])
    run("scratch", "--out", tmp_path / "scratch.json")
    rows = json.loads((tmp_path / "scratch.json").read_text())["rows"]
    assert len(rows) == 9
    assert "2 chosen layers measured again" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_baselines_keep_to_the_budget(run: Run, tmp_path: Path, model: str) -> None:
    run("train", model, "--out", tmp_path / "trained")
    options = ("--trained", tmp_path / "trained", "--out", tmp_path / "found.json")
    run("compare", model, *options, "--methods", "svd", "aware")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["budget"], row["method"]) for row in found["rows"]] == [
        (0.5, "svd"), (0.5, "aware"), (0.25, "svd"), (0.25, "aware")
    ]  # fmt: skip
    assert all(row["budget"] - 0.05 < row["share"] <= row["budget"] for row in found["rows"])
    assert (tmp_path / "found.svg").read_text().startswith("<?xml")


def test_the_baseline_that_looks_at_activations_is_best_on_them(run: Run) -> None:
    rng = torch.Generator().manual_seed(0)
    baselines = importlib.import_module(f"{PACKAGE}.baselines")
    w = torch.randn(12, 20, generator=rng, dtype=torch.float64)
    x = torch.randn(200, 20, generator=rng, dtype=torch.float64) * torch.linspace(0.01, 3, 20)
    errors = {}
    for name, moment in (("blind", None), ("aware", x.T @ x)):
        u, v = baselines.truncated(w, 5, moment)
        errors[name] = torch.linalg.norm(x @ (w - u @ v).T).item()
    best = torch.linalg.svdvals(x @ w.T)[5:].norm().item()  # Eckart and Young: of all outputs of rank 5
    assert errors["aware"] == pytest.approx(best, rel=1e-9)
    assert errors["blind"] > 1.1 * best


def test_decoding_step_by_step_is_the_model(run: Run) -> None:
    models = importlib.import_module(f"{recipes().__name__}.common.models")
    model = models.Transformer(symbols=11, width=32, layers=2, heads=2, context=9).eval()
    codes = torch.randint(0, 11, (3, 9))
    caches = model.new_cache(3)
    with torch.no_grad():
        steps = torch.stack([model.step(codes[:, t], caches, t) for t in range(9)], dim=1)
        torch.testing.assert_close(steps, model(codes))
