"""Ctrl-C and SIGTERM in the middle of a recipe: what is finished is kept and shown, and the command goes on."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()
recipe_module, runner, stops = (
    importlib.import_module(f"{package.__name__}.common.{name}") for name in ("recipe", "runner", "stops")
)


@pytest.fixture(autouse=True)
def _told_as_at_a_terminal() -> Iterator[None]:
    """What a shell starts in the background is born deaf to Ctrl-C, and so would be these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopping(number: int, *, swallow: bool = False) -> Any:
    """A recipe of one case that is told to stop in its third run, when that is made for the first time."""
    seen: list[int] = []

    def run(settings: str, case: Any, run: Any) -> dict[str, Any]:
        seen.append(run.seed)
        if seen.count(3) == 1 and run.seed == 3:
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                if not swallow:  # as a fit does, which ends with its best so far
                    raise
                return {"value": -1}
        return {"value": run.seed}

    def sheets(settings: str, rows: list[dict[str, Any]]) -> list[Any]:
        return [recipe_module.Sheet("values", ["#value"], [[str(row["value"])] for row in rows])]

    empty = dataclasses.make_dataclass("Empty", [], frozen=True)
    return recipe_module.Recipe(
        "stopping",
        "Stops",
        "nobody",
        lambda preset: empty(),
        lambda settings: [recipe_module.Case("a")],
        run,
        sheets,
    )


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_finished_is_kept_and_shown(tmp_path: Path, number: int, swallow: bool) -> None:
    recipe, options = stopping(number, swallow=swallow), runner.Options(seeds=4, out=tmp_path)
    before = [signal.getsignal(n) for n in stops.TOLD]
    with pytest.raises(stops.StoppedError) as stopped:
        runner.execute(recipe, options)
    assert (stopped.value.number, stopped.value.kept, stopped.value.planned) == (number, 2, 4)
    assert [signal.getsignal(n) for n in stops.TOLD] == before
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["value"] for row in rows] == [1, 2]
    assert "| 2 |" in (tmp_path / "tables.md").read_text()
    assert "Partial: 2 of 4 runs are in it." in (tmp_path / "report.html").read_text()

    (sheet,) = runner.execute(recipe, options)
    assert [line[0] for line in sheet.rows] == ["1", "2", "3", "4"]
    assert "Partial" not in (tmp_path / "report.html").read_text()


def test_handlers_of_others_stay() -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        mine = signal.getsignal(signal.SIGTERM)
        with stops.Stops() as block:
            assert signal.getsignal(signal.SIGTERM) is mine
            block.check()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_what_is_kept(
    kmatrix: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    recipe, out = stopping(number), tmp_path / "out"
    monkeypatch.setattr(package, "load", lambda name: recipe)
    done = kmatrix("recipe", "run", "stopping", "--seeds", 4, "--out", out)
    assert done.exit_code == code
    said = f"stopped: 2 of 4 runs are kept in {out}, with their tables; the same command goes on from there"
    assert said in done.stderr
    assert kmatrix("recipe", "run", "stopping", "--seeds", 4, "--out", out).exit_code == 0
