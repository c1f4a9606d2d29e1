"""``kmatrix bench``: how fast structured products are on this machine, against dense and everyone else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kmatrix._errors import ArgumentError, complaint
from kmatrix._files import write_atomically
from kmatrix.benchmark.page import break_even_cells, figure_cells, times, where
from kmatrix.benchmark.picture import check_available, speed_picture
from kmatrix.benchmark.results import CaseResult, Figure, Results
from kmatrix.benchmark.suite import GROUPS, Settings, run
from kmatrix.cli.tables import output, plain_table

_ONLY = f"Measure this alone; may be given again. One of: {', '.join(GROUPS)}."


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, few rounds: under a minute.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=_ONLY)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for cpu.json and cpu.svg.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch and of ours.")] = 1,
) -> None:
    """Measure speed on this machine: all in one process, turn by turn, and checked against float64 before.

    What counts are ratios, not microseconds: noise hits everyone in a round alike.
    """
    settings = Settings(threads, quick, tuple(only or ()))
    _check_cores(threads)
    if out is not None:
        check_available()
        _make(out)
    console = output()
    with _progress(Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        results = run(
            settings,
            lambda done, total, name: bar.update(task, completed=done, total=total, description=escape(name)),
        )
    show(console, results)
    if out is not None:
        save(results, out)
        console.print(f"written to {escape(str(out / 'cpu.json'))}", highlight=False, soft_wrap=True)


def save(results: Results, folder: Path) -> None:
    """The results as JSON, and their picture if sizes were swept."""
    write_atomically("bench", folder / "cpu.json", results.to_json().encode())
    if results.curve:
        write_atomically("bench", folder / "cpu.svg", speed_picture(results))


def show(console: Console, results: Results) -> None:
    """Print what was found."""
    console.print(escape(where(results)), highlight=False)
    for case in results.cases:
        console.print(_case_table(case))
        for t in case.times:
            if t.mark:
                console.print(f"{escape(t.name)} {t.mark}", style="yellow", highlight=False)
    for dtype in dict.fromkeys(p.dtype for p in results.map):
        console.print(_map_table(results, dtype))
    if results.map:
        console.print(_break_even_table(results))
    if results.figures:
        console.print(_goal_table(results.figures))
        for f in results.figures:
            if f.why:
                console.print(escape(f"{f.case}, {f.what}: {f.why}"), style="dim", highlight=False)
    for note in results.notes:
        console.print(f"not measured: {escape(note)}", style="yellow", highlight=False)


def _case_table(case: CaseResult) -> Table:
    """Everyone in one case, the fastest first."""
    table = plain_table(escape(case.case), "who", "#times baseline", "#quartiles", "#us")
    for t in sorted(case.times, key=lambda t: -t.speed):
        style = "bold" if t.name.startswith("kmatrix") else "dim" if t.name == case.baseline else ""
        name = f"{t.name} (baseline)" if t.name == case.baseline else t.name
        spread = f"{times(t.speed_low)} to {times(t.speed_high)}"
        table.add_row(escape(name), times(t.speed), spread, f"{t.us:,.1f}", style=style)
    return table


def _map_table(results: Results, dtype: str) -> Table:
    """The break-even map of one number type; green is faster than dense."""
    cells = {(p.n, p.batch): p.speed for p in results.map if p.dtype == dtype}
    sizes, batches = (sorted({key[k] for key in cells}) for k in (0, 1))
    table = plain_table(f"times dense, {dtype}", "n", *[f"#batch {batch}" for batch in batches])
    for n in sizes:
        table.add_row(str(n), *[_judged(cells.get((n, batch))) for batch in batches])
    return table


def _break_even_table(results: Results) -> Table:
    """The size from which on it pays, for each number type and batch."""
    head, *rows = break_even_cells(results)
    table = plain_table("where it starts to pay", head[0], *[f"#{batch}" for batch in head[1:]])
    for row in rows:
        table.add_row(*row)
    return table


def _judged(speed: float | None) -> str:
    if speed is None:
        return ""
    colour = "green" if speed > 1 else "yellow"
    return f"[{colour}]{times(speed)}[/{colour}]"


def _goal_table(figures: list[Figure]) -> Table:
    """What was aimed at, case by case, and the verdict: in words, because not every terminal has colours."""
    table = plain_table("what it must show", "against", "#measured", "#must", "#aim", "#verdict")
    case = None
    for f in figures:
        if f.case != case:
            table.add_row(escape(f.case), style="bold")
            case = f.case
        style = "" if f.met is None else "bold green" if f.on_aim else "green" if f.met else "red"
        verdict = "aim met" if f.on_aim and f.met is not False else f.verdict
        table.add_row(f"  {escape(f.what)}", *figure_cells(f), verdict, style=style)
    return table


def _progress(console: Console) -> Progress:
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=console, transient=True)


def _check_cores(threads: int) -> None:
    """Threads that share a core measure the system's patience."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > cores:
        reason = f"this process may use {cores} core{'' if cores == 1 else 's'}"
        way_out = f"pass {cores}{'' if cores == 1 else ' or fewer'}"
        raise ArgumentError(complaint("kmatrix bench", "--threads", threads, reason, way_out))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made: {error.strerror}"
        raise ArgumentError(complaint("kmatrix bench", "--out", folder, reason, "name another")) from error
