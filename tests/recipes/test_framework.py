"""What all recipes share: repeating, resuming, searching, reporting, several processes."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
ROOT = Path(__file__).parents[2]
package = recipes()


def part(name: str) -> Any:
    """A module of what the recipes share."""
    return importlib.import_module(f"{package.__name__}.common.{name}")


recipe_module, runner, training = part("recipe"), part("runner"), part("training")


@dataclasses.dataclass(frozen=True)
class Settings:
    preset: str
    steps: int = 6
    lr: float = 0.05


def made_recipe(
    calls: list[tuple[str, int]] | None = None, steps: list[int] | None = None, **changes: Any
) -> Any:
    """A recipe that fits a line, two cases."""
    steps = [] if steps is None else steps

    def run(settings: Settings, case: Any, run: Any) -> dict[str, Any]:
        if calls is not None:
            calls.append((case.name, run.seed))
        if case.options.get("data"):
            run.data()
        model = nn.Linear(3, 1, bias=case.options["bias"])
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
        history = training.train(model, optimizer, line_loss(run), run, settings.steps, every=2)
        steps.append(len(history.losses))
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
        score = history.losses[-1]
        return {"validation": score, "steps": steps[-1], "world": run.world, "weights": weights}

    def sheets(settings: Settings, rows: list[dict[str, Any]]) -> list[Any]:
        cells = [[row["case"], str(row["seed"]), f"{row['validation']:.3f}"] for row in rows]
        return [recipe_module.Sheet("a line", ["case", "#seed", "#loss"], cells, ["A note."])]

    def pictures(settings: Settings, rows: list[dict[str, Any]]) -> dict[str, Any]:
        from matplotlib import pyplot

        figure, axes = pyplot.subplots()
        axes.plot([row["validation"] for row in rows])
        return {"losses": figure}

    def search(trial: Any, settings: Settings, case: Any) -> Settings:
        return dataclasses.replace(settings, lr=trial.suggest_float("lr", 1e-3, 1.0, log=True))

    given = {
        "name": "line", "title": "A line", "source": "nobody", "settings": Settings,
        "cases": lambda settings: [recipe_module.Case(n, {"bias": n == "b"}) for n in "ab"],
        "run": run, "sheets": sheets, "pictures": pictures, "search": search,
    }  # fmt: skip
    return recipe_module.Recipe(**{**given, **changes})


def line_loss(run: Any) -> Callable[[nn.Module, int], torch.Tensor]:
    def loss(model: nn.Module, step: int) -> torch.Tensor:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        x = x[run.share(torch.arange(8))]
        return (model(x).squeeze(-1) - x.sum(-1)).square().mean()  # type: ignore[no-any-return]

    return loss


def test_runs_are_made_once_and_written(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []
    recipe = made_recipe(calls)
    sheets = runner.execute(recipe, runner.Options(seeds=2, out=tmp_path))
    assert calls == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert len(sheets[0].rows) == 4
    record = json.loads((tmp_path / "results.json").read_text())
    assert [row["steps"] for row in record["rows"]] == [6] * 4
    assert record["rows"][0]["made_with"]["torch"] == torch.__version__
    assert {p.name for p in tmp_path.iterdir()} >= {"results.json", "tables.md", "losses.svg", "report.html"}
    assert not (tmp_path / "rows").exists()
    page = (tmp_path / "report.html").read_text()
    assert "A note." in page and "<svg" in page and "Partial" not in page
    assert not re.search(r"""(src|href)=(?!"#)""", page)  # it needs nothing else

    runner.execute(recipe, runner.Options(seeds=3, out=tmp_path))
    assert calls[4:] == [("a", 3), ("b", 3)]
    runner.execute(recipe, runner.Options(seeds=1, out=tmp_path, cases=("a",)))
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 6


def test_what_was_made_before_an_error_is_kept(tmp_path: Path) -> None:
    cases = [recipe_module.Case("a", {"bias": False}), recipe_module.Case("b", {"bias": True, "data": True})]
    recipe = made_recipe(cases=lambda settings: cases)
    with pytest.raises(km.ArgumentError, match="--data=None: this preset needs data; pass --data DATA"):
        runner.execute(recipe, runner.Options(seeds=1, out=tmp_path))
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["a"]


@pytest.mark.parametrize("trials", [0, 2])
def test_a_start_that_is_refused_writes_nothing(tmp_path: Path, trials: int) -> None:
    """So the folder is free for another recipe, and one that was there is as it was."""
    cases = [recipe_module.Case("a", {"bias": False, "data": True})]
    recipe = made_recipe(cases=lambda settings: cases)
    for out in (tmp_path / "new", tmp_path):
        with pytest.raises(km.ArgumentError, match="this preset needs data"):
            runner.execute(recipe, runner.Options(seeds=1, out=out, trials=trials))
        assert list(tmp_path.iterdir()) == []
    other = made_recipe(name="another", settings=lambda preset: Settings(preset, steps=2))
    runner.execute(other, runner.Options(seeds=1, out=tmp_path))
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(km.ArgumentError, match="another recipe"):
        runner.execute(recipe, runner.Options(seeds=1, out=tmp_path, trials=trials))
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


class Counted:
    """Something beside model and optimiser that has a state."""

    seen = 0

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    def trained(folder: Path, stop: int | None) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        run = recipe_module.Run(0, torch.device("cpu"), folder)

        def stopped(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        schedule = training.warmup_cosine(9, 2)
        counted = Counted()

        def after(step: int) -> None:
            counted.seen += 1
            stopped(step)

        kept = {"schedule": schedule, "every": 3, "after_step": after, "others": {"counted": counted}}
        kept["validate"] = lambda model: model[0].weight.norm()
        training.train(model, optimizer, line_loss(run), run, 9, **kept)
        assert counted.seen == 9
        return model

    whole = trained(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", 5)
    for mine, other in zip(whole.parameters(), trained(tmp_path / "parts", None).parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_best_state_is_kept(tmp_path: Path) -> None:
    run = recipe_module.Run(0, torch.device("cpu"), tmp_path)
    model, seen = nn.Linear(3, 1), []
    scores = iter([3.0, 1.0, 2.0])

    def validate(model: nn.Module) -> float:
        assert not model.training
        seen.append(model.weight.detach().clone())
        return next(scores)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = training.train(model, optimizer, line_loss(run), run, 6, validate=validate, every=2)
    assert history.best == 1.0 and history.validations == [(2, 3.0), (4, 1.0), (6, 2.0)]
    assert torch.equal(model.weight, seen[1])


def test_a_dry_run_is_one_step_and_writes_nothing(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []
    steps: list[int] = []
    recipe = made_recipe(calls, steps)
    sheets = runner.execute(recipe, runner.Options("paper", out=tmp_path, dry=True))
    assert calls == [("a", 1), ("b", 1)] and len(sheets[0].rows) == 2 and steps == [1, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_kept_and_used(tmp_path: Path) -> None:
    recipe = made_recipe()
    runner.execute(recipe, runner.Options(seeds=1, out=tmp_path, trials=3))
    record = json.loads((tmp_path / "results.json").read_text())
    found = record["searched"]
    assert {name: entry["trials"] for name, entry in found.items()} == {"a": 3, "b": 3}
    best = found["a"]["params"]  # None if that of the settings was better than all trials
    settings = dataclasses.replace(Settings("smoke"), lr=best["lr"]) if best else Settings("smoke")
    assert found["a"]["value"] <= found["a"]["default"]
    assert "Searched" in (tmp_path / "tables.md").read_text()
    case = recipe.cases(settings)[0]
    assert record["rows"][0]["digest"] == part("results").digest(settings, case, 1)
    # Another call goes on with the same study, as another machine would.
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    runner.execute(recipe, runner.Options(seeds=1, out=tmp_path / "b", trials=4, storage=storage))
    record = json.loads((tmp_path / "b" / "results.json").read_text())
    assert record["searched"]["a"]["trials"] == 4
    # The same command again has nothing left to do, and other settings have a study of their own.
    before = (tmp_path / "b" / "results.json").read_bytes()
    runner.execute(recipe, runner.Options(seeds=1, out=tmp_path / "b", trials=4, storage=storage))
    assert (tmp_path / "b" / "results.json").read_bytes() == before
    other = made_recipe(settings=lambda preset: Settings(preset, steps=3))
    runner.execute(other, runner.Options(seeds=1, out=tmp_path / "c", trials=1, storage=storage))
    record = json.loads((tmp_path / "c" / "results.json").read_text())
    assert record["searched"]["a"]["trials"] == 1


def test_a_grid_is_searched_once(tmp_path: Path) -> None:
    """More trials than there are points end with all points; those of the settings themselves are not a trial."""
    tried: list[tuple[str, float, bool]] = []

    def run(settings: Any, case: Any, run: Any) -> dict[str, Any]:
        tried.append((case.name, settings.lr, run.trial))
        return {"validation": abs(settings.lr - 0.3)}

    def search(trial: Any, settings: Settings, case: Any) -> Settings:
        return dataclasses.replace(settings, lr=trial.suggest_categorical("lr", (settings.lr, 0.2, 0.4, 0.9)))

    recipe = made_recipe(run=run, search=search, sheets=lambda settings, rows: [], pictures=lambda *args: {})
    runner.execute(recipe, runner.Options(seeds=1, out=tmp_path, trials=9, cases=["a"]))
    record = json.loads((tmp_path / "results.json").read_text())
    assert sorted(lr for _, lr, trial in tried if trial) == sorted([Settings("smoke").lr, 0.2, 0.4, 0.9])
    assert record["searched"]["a"]["trials"] == 3
    assert record["searched"]["a"]["value"] == pytest.approx(0.1)
    assert [lr for _, lr, trial in tried if not trial] == [record["searched"]["a"]["params"]["lr"]]


def test_what_has_nothing_to_search_is_run_as_it_is(tmp_path: Path) -> None:
    recipe = made_recipe(search=lambda trial, settings, case: settings)
    runner.execute(recipe, runner.Options(seeds=1, out=tmp_path, trials=3))
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["searched"] == {} and len(record["rows"]) == 2


def test_two_that_write_into_one_folder_lose_nothing(tmp_path: Path) -> None:
    results = part("results")
    first, second = (results.Results(tmp_path, made_recipe(), "smoke", Settings("smoke")) for _ in range(2))
    second.add({"digest": "b", "case": "b", "seed": 1})
    second.collect(["b"])
    first.add({"digest": "a", "case": "a", "seed": 1})
    assert {row["case"] for row in first.collect(["a", "b"])} == {"a", "b"}


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    runner.execute(made_recipe(), runner.Options(seeds=1, out=tmp_path))
    before = (tmp_path / "results.json").read_bytes()
    other = made_recipe(settings=lambda preset: Settings(preset, steps=7))
    with pytest.raises(km.ArgumentError, match="another settings: steps 6 and not 7"):
        runner.execute(other, runner.Options(seeds=1, out=tmp_path))
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "huge"}, "--preset=huge: unknown"),
        ({"seeds": 0}, "--seeds=0"),
        ({"cases": ("c*",)}, r"--cases=c\*: no case of this recipe; there are a, b"),
        ({"device": "abacus"}, "--device=abacus"),
        ({"out": None}, "--out=None"),
        ({"trials": -1}, "--search=-1"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(km.ArgumentError, match=words):
        runner.execute(made_recipe(), runner.Options(**{"out": tmp_path, **options}))
    assert list(tmp_path.iterdir()) == []


def test_the_command_lists_and_refuses(kmatrix: Command, tmp_path: Path) -> None:
    listed = kmatrix("recipe", "list")
    assert listed.exit_code == 0
    for folder in package.FOLDERS:
        assert folder.replace("_", "-") in listed.stdout
        assert package.load(folder).takes["small"] in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80 and "MNIST, sign digits" in listed.stdout
    assert "--out OUT" in listed.stdout and "--data DATA" in listed.stdout
    refused = kmatrix("recipe", "run", "nonsense", "--out", str(tmp_path))
    assert refused.exit_code == 2 and "no such recipe; there are transforms, " in refused.stderr
    nowhere = kmatrix("recipe", "run", "transforms")
    assert nowhere.exit_code == 2
    assert nowhere.stderr == "error kmatrix recipe: no --out: results go there; pass --out OUT\n"


@pytest.mark.parametrize("folder", package.FOLDERS)
def test_every_recipe_is_complete(folder: str) -> None:
    recipe = package.load(folder)
    assert recipe.name == folder.replace("_", "-")
    for preset in recipe_module.PRESETS:
        settings = recipe.settings(preset)
        cases = recipe.cases(settings)
        names = [case.name for case in cases]
        assert names and len(set(names)) == len(names)
        json.dumps([part("results").as_json(settings), [dict(case.options) for case in cases]])
        recipe.sheets(settings, [])  # of what is not there yet
    assert set(recipe.takes) == {"small", "paper"} and set(recipe.wants) in (set(), {"small", "paper"})
    text = (ROOT / "recipes" / folder / "README.md").read_text()
    assert f"kmatrix recipe run {recipe.name} --preset small" in text
    assert f"kmatrix recipe run {recipe.name} --out out  " in text  # smoke, which needs no data
    assert "FOLDER" not in text  # the data are in DATA everywhere
    for word in ("**Claim.**", "**Figure.**"):
        assert word in text


def test_the_page_of_all_tables_is_up_to_date() -> None:
    gather = importlib.import_module(f"{package.__name__}.gather")
    pages = gather.pages()
    assert gather.PAGE in pages and len(pages) > 5
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: python -m recipes.gather"


def test_recipes_use_public_names_alone() -> None:
    """What a user could write: nothing of the library whose name begins with an underscore."""
    used, own = {}, {"_matmul", "_rmatmul"}  # a structure of one's own implements these two
    for path in sorted((ROOT / "recipes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kmatrix"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                used.update({name: path for name in names if name.startswith("_")})
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[:2] != "__":
                if isinstance(node.ctx, ast.Store):
                    own.add(node.attr)
                else:
                    used[node.attr] = path
            if isinstance(node, ast.FunctionDef):
                own.add(node.name)
    assert {name: str(path) for name, path in used.items() if name not in own} == {}


TORCHRUN = """
    import sys
    sys.path.insert(0, {folder!r})
    from pathlib import Path
    import test_framework as t
    recipe = t.made_recipe(dealt={dealt})
    t.runner.execute(recipe, t.runner.Options(seeds=2, out=Path({out!r})))
"""


@pytest.mark.parametrize("dealt", [False, True])
def test_processes_share_batches_or_runs(tmp_path: Path, dealt: bool) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    runner.execute(made_recipe(), runner.Options(seeds=2, out=alone))
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(TORCHRUN.format(folder=str(Path(__file__).parent), out=str(shared), dealt=dealt))
    )
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=120)
    rows = [json.loads((folder / "results.json").read_text())["rows"] for folder in (alone, shared)]
    assert [row["world"] for row in rows[1]] == [1 if dealt else 2] * 4
    for mine, other in zip(*rows, strict=True):
        assert (mine["case"], mine["seed"]) == (other["case"], other["seed"])
        if dealt:
            assert mine["validation"] == other["validation"]
        # Halves of a batch and averaged gradients come to the same up to rounding.
        assert other["weights"] == pytest.approx(mine["weights"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dealt", [False, True])
def test_processes_search_together(tmp_path: Path, dealt: bool) -> None:
    script = tmp_path / "script.py"
    text = TORCHRUN.format(folder=str(Path(__file__).parent), out=str(tmp_path / "out"), dealt=dealt)
    script.write_text(textwrap.dedent(text.replace("seeds=2", "seeds=1, trials=3")))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=180)
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(record["rows"]) == 2
    assert all(3 <= found["trials"] <= 4 for found in record["searched"].values())


def test_data_are_checked_when_read(tmp_path: Path) -> None:
    data = part("data")
    with pytest.raises(
        km.ArgumentError, match=r"no MNIST there: none of mnist\.npz, train-images-idx3-ubyte, "
    ):
        data.mnist(tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"not a zip")
    with pytest.raises(km.ArgumentError, match="unreadable"):
        data.mnist(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"pickle")
    with pytest.raises(km.ArgumentError, match="binary version"):
        data.cifar10(tmp_path)
    with pytest.raises(km.ArgumentError, match="no Tiny Shakespeare"):
        data.tiny_shakespeare(tmp_path)


def test_sign_digits_and_text_in_their_parts(tmp_path: Path) -> None:
    data = part("data")
    x = np.random.default_rng(0).integers(0, 256, (450, 64, 64, 3), dtype=np.uint8)
    y = np.arange(450) % 10
    np.savez(tmp_path / "signdigits64.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    images = data.sign_digits(tmp_path)
    assert [len(split) for split in images] == [250, 200, 20]
    assert images.train.images.shape == (250, 64, 64, 3) and images.train.labels.dtype == torch.int64
    (tmp_path / "input.txt").write_text("abc" * 40)
    text = data.tiny_shakespeare(tmp_path)
    assert text.symbols == 3 and [len(text.train), len(text.validation), len(text.test)] == [108, 6, 6]


def test_markdown_and_spread() -> None:
    sheets = part("sheets")
    sheet = recipe_module.Sheet("t", ["a", "#b"], [["x|y", "1"]], ["note"])
    assert sheets.markdown(sheet) == "**t**\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n\nnote\n"
    assert sheets.mean_spread([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert sheets.mean_spread([0.5], 1, 100) == "50.0" and sheets.mean_spread([]) == ""
