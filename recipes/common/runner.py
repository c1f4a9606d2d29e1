"""Runs a recipe: every case with every seed, what is there already not again, then tables, pictures and a page."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import page, search, sheets
from .errors import RecipeError, complaint
from .files import replace_text
from .processes import Processes, processes
from .progress import Bars
from .recipe import PRESETS, Case, Recipe, Row, Run, Sheet
from .results import FILE, RUNS, SHARED, Results, digest
from .stops import StoppedError as StoppedError
from .stops import Stops
from .terminal import terminal
from .versions import made_with

COMMAND = "kmatrix recipe"
NAMED = 12
"""Cases that a complaint names."""
SMOKE = (
    "Preset smoke: synthetic data and a few steps. It shows that everything runs; the figures mean nothing."
)
SEARCH_SEED = 0
"""Searches have a seed of their own; runs that are reported have 1, 2, ..."""


@dataclass(frozen=True)
class Options:
    """What the command was given.

    Attributes:
        preset: ``smoke``, ``small`` or ``paper``.
        seeds: how many.
        out: folder of the results.
        data: folder of the data.
        cases: patterns of the names of cases; all if empty.
        device: where to compute.
        dry: one step of every case on synthetic tensors; nothing is written.
        trials: of a search before the runs, for each case.
        storage: of the search; a file in ``out`` if not given.
    """

    preset: str = "smoke"
    seeds: int = 3
    out: Path | None = None
    data: Path | None = None
    cases: Sequence[str] = ()
    device: str = "cpu"
    dry: bool = False
    trials: int = 0
    storage: str | None = None


@dataclass(frozen=True)
class Planned:
    """A run to make: a case with its settings and a seed."""

    case: Case
    settings: Any
    seed: int

    @property
    def digest(self) -> str:
        return digest(self.settings, self.case, self.seed)

    @property
    def title(self) -> str:
        return f"{self.case.name}, seed {self.seed}"


def execute(recipe: Recipe[Any], options: Options) -> list[Sheet]:
    """Run a recipe and write its results; the tables.

    Raises:
        RecipeError: if an option cannot be used, or data are missing.
        StoppedError: after Ctrl-C or SIGTERM, once what there is has been written.
    """
    settings, cases = _checked(recipe, options)
    device = _device(options.device)
    with processes(device) as among, Stops(among.first) as stops, Bars(among.first) as bars:
        context = _Context(recipe, options, device, among, bars, stops)
        if options.dry:
            return context.dry(settings, cases)
        assert options.out is not None
        results = Results(options.out, recipe, options.preset, settings)
        try:
            if options.trials:
                context.search(results, settings, cases)
            context.make(results, context.plan(results, settings, cases))
        except KeyboardInterrupt:
            if not among.first:
                raise
            context.finish(results, settings)
            plan = context.plan(results, settings, cases)
            kept = sum(planned.digest in results.rows for planned in plan)
            raise StoppedError(stops.number or signal.SIGINT, kept, len(plan)) from None
        except BaseException:
            if among.first and not results.empty:  # a start that was refused leaves the folder to others
                results.collect(_everything(recipe, settings, options.seeds, results))
            raise
        among.wait()
        return context.finish(results, settings) if among.first else []


@dataclass(frozen=True)
class _Context:
    recipe: Recipe[Any]
    options: Options
    device: torch.device
    among: Processes
    bars: Bars
    stops: Stops

    def plan(self, results: Results, settings: Any, cases: Sequence[Case]) -> list[Planned]:
        """All runs that were asked for, with what searches have found."""
        return [
            Planned(
                case, search.with_params(self.recipe, settings, case, results.searched.get(case.name)), seed
            )
            for seed in range(1, self.options.seeds + 1)
            for case in cases
        ]

    def finish(self, results: Results, settings: Any) -> list[Sheet]:
        """Write what there is; the tables."""
        everything = _everything(self.recipe, settings, self.options.seeds, results)
        rows = results.collect(everything)
        return self.show(results, rows, len(everything), settings)

    def make(self, results: Results, plan: Sequence[Planned]) -> None:
        """Make the runs that are not there yet, all together or each process some of them."""
        dealt = self.recipe.dealt and self.among.world > 1
        missing = self.among.agree(
            [k for k, planned in enumerate(plan) if planned.digest not in results.rows]
        )
        own = missing[self.among.rank :: self.among.world] if dealt else missing
        for done, k in enumerate(own):
            planned = plan[k]
            self.bars.run(planned.title, done, len(own))
            row = self.one(planned, None if dealt else self.among)
            self.stops.check()
            if dealt or self.among.first:
                results.add(row)
                self.forget(planned)

    def one(self, planned: Planned, among: Processes | None, dry: bool = False, trial: bool = False) -> Row:
        """One run, with its time and versions."""
        among = among or Processes()
        with tempfile.TemporaryDirectory() as empty:
            out = Path(empty) if dry or self.options.out is None else self.options.out
            folder, shared = out / RUNS / planned.digest, out / SHARED
            run = Run(
                planned.seed, self.device, folder, among.rank, among.world, dry,
                self.options.data, self.bars.step, shared, trial,
            )  # fmt: skip
            torch.manual_seed(planned.seed)
            began = time.perf_counter()
            row = self.recipe.run(planned.settings, planned.case, run)
            seconds = round(time.perf_counter() - began, 2)
        known = {"case": planned.case.name, "options": dict(planned.case.options), "seed": planned.seed}
        return {
            **known, "digest": planned.digest, **row, "seconds": seconds,
            "made_with": made_with(self.device, self.among.world),
        }  # fmt: skip

    def forget(self, planned: Planned) -> None:
        """Remove the checkpoints of a run whose row is written."""
        assert self.options.out is not None
        shutil.rmtree(self.options.out / RUNS / planned.digest, ignore_errors=True)

    def search(self, results: Results, settings: Any, cases: Sequence[Case]) -> None:
        """Search settings for every case, and keep what is best."""
        if self.recipe.search is None:
            reason, way_out = "has nothing to search", "leave --search out"
            raise RecipeError(complaint(COMMAND, "--search", self.recipe.name, reason, way_out))
        assert self.options.out is not None
        storage = self.options.storage or self.options.out / "search.db"
        for done, case in enumerate(cases):
            self.bars.run(f"search, {case.name}", done, len(cases))
            one = partial(self._trial, case)
            best = search.searched(
                self.recipe,
                settings,
                case,
                self.options.preset,
                self.options.trials,
                storage,
                one,
                self.among,
            )
            if best is not None:
                results.searched[case.name] = best
                if self.among.first:
                    results.collect(list(results.rows))

    def _trial(self, case: Case, settings: Any) -> Row:
        planned = Planned(case, settings, SEARCH_SEED)
        row = self.one(planned, None if self.recipe.dealt else self.among, trial=True)
        self.stops.check()
        if self.recipe.dealt or self.among.first:
            self.forget(planned)
        return row

    def dry(self, settings: Any, cases: Sequence[Case]) -> list[Sheet]:
        """One optimisation step of every case."""
        found = []
        for done, case in enumerate(cases):
            self.bars.run(case.name, done, len(cases))
            row = self.one(Planned(case, settings, 1), self.among, dry=True)
            found.append([case.name, f"{row['seconds']:.1f}"])
        title = f"{self.recipe.name}, preset {self.options.preset}: one step of every case went through"
        return [Sheet(title, ["case", "#seconds"], found)]

    def show(self, results: Results, rows: Sequence[Row], planned: int, settings: Any) -> list[Sheet]:
        """Write tables, pictures and the page, which says how many of the planned runs it has; give the tables."""
        found = list(self.recipe.sheets(settings, rows))
        if results.searched:
            found.append(_searched_sheet(results.searched))
        if self.options.preset == "smoke":
            found = [replace(sheet, notes=[*sheet.notes, SMOKE]) for sheet in found]
        drawn = {name: page.svg(figure) for name, figure in self.recipe.pictures(settings, rows).items()}
        for name, text in drawn.items():
            replace_text(results.folder / f"{name}.svg", text)
        replace_text(results.folder / "tables.md", "\n".join(map(sheets.markdown, found)))
        runs = f"{len(rows)} runs in {sum(row['seconds'] for row in rows) / 60:.1f} minutes"
        missing = "" if len(rows) == planned else f"Partial: {len(rows)} of {planned} runs are in it."
        html = page.page(self.recipe, self.options.preset, found, drawn, runs, missing)
        replace_text(results.folder / "report.html", html)
        _close(drawn)
        return found


def _searched_sheet(searched: Mapping[str, Mapping[str, Any]]) -> Sheet:
    """What searches have found."""
    rows = [
        [
            name,
            ", ".join(
                f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry["params"].items()
            )
            if entry["params"]
            else "as in the preset",
            f"{entry['value']:.4g}",
            f"{entry['default']:.4g}",
            str(entry["trials"]),
        ]
        for name, entry in searched.items()
    ]
    return Sheet("Searched", ["case", "best", "#its score", "#score of the preset", "#trials"], rows)


def _everything(recipe: Recipe[Any], settings: Any, seeds: int, results: Results) -> list[str]:
    """Digests of all runs that belong together, whichever of them were asked for now."""
    most = max([seeds, *(int(row["seed"]) for row in results.rows.values())], default=seeds)
    return [
        digest(search.with_params(recipe, settings, case, results.searched.get(case.name)), case, seed)
        for case in recipe.cases(settings)
        for seed in range(1, most + 1)
    ]


def _close(drawn: Mapping[str, str]) -> None:
    if drawn:
        from matplotlib import pyplot

        pyplot.close("all")


def _checked(recipe: Recipe[Any], options: Options) -> tuple[Any, list[Case]]:
    """Settings and cases, or what is wrong with the options."""
    if options.preset not in PRESETS:
        raise RecipeError(
            complaint(COMMAND, "--preset", options.preset, "unknown", f"use one of {', '.join(PRESETS)}")
        )
    for name, value, least in (("--seeds", options.seeds, 1), ("--search", options.trials, 0)):
        if value < least:
            raise RecipeError(complaint(COMMAND, name, value, "too few", f"pass at least {least}"))
    settings = recipe.settings(options.preset)
    known = list(recipe.cases(settings))
    wanted = [
        case
        for case in known
        if not options.cases or any(fnmatchcase(case.name, pattern) for pattern in options.cases)
    ]
    if not wanted:
        names = ", ".join(case.name for case in known[:NAMED])
        names += f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
        reason = "no case of this recipe"
        raise RecipeError(
            complaint(COMMAND, "--cases", " ".join(options.cases), reason, f"there are {names}")
        )
    if options.out is None and not options.dry:
        raise RecipeError(complaint(COMMAND, "--out", None, "results go there", "pass --out OUT"))
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise RecipeError(complaint(COMMAND, "--out", options.out, "not a folder", "pass another one"))
    return settings, wanted


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(complaint(COMMAND, "--device", name, "unknown", "use cpu or cuda")) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(complaint(COMMAND, "--device", name, "there is no GPU here", "use cpu"))
    return device


def print_sheets(found: Sequence[Sheet], out: Path | None, console: Console) -> None:
    """The tables on a terminal, and where everything is."""
    for sheet in found:
        console.print(terminal(sheet, console.width))
    if out is not None and found:
        console.print(f"\n{out / FILE}, tables.md, report.html", highlight=False, soft_wrap=True)
