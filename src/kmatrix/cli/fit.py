"""``kmatrix fit``: a matrix file in, a structured matrix and its certificate out."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import kmatrix as km
from kmatrix._checks import check_positive
from kmatrix._errors import complaint
from kmatrix.cli.names import STRUCTURES, structure_from
from kmatrix.cli.tables import Ticker, certificate_table, history_table
from kmatrix.fitting.targets import as_target
from kmatrix.report import Section, write_report
from kmatrix.report.page import check_available
from kmatrix.report.words import brief, chosen_attempt

_INTO = f"Structure to fit: {', '.join(STRUCTURES)}. Leave it out to have one chosen for --tol."
_OPTIONS = "Options of --into"


def fit(
    target: Annotated[Path, typer.Argument(help="A .npy, .npz or .safetensors file with a matrix.")],
    tol: Annotated[float | None, typer.Option(help="Relative Frobenius error to reach.")] = None,
    into: Annotated[str | None, typer.Option(help=_INTO)] = None,
    out: Annotated[Path | None, typer.Option(help="Where the structured matrix goes (.safetensors).")] = None,
    report: Annotated[Path | None, typer.Option(help="Where an HTML page with pictures goes.")] = None,
    name: Annotated[str | None, typer.Option(help="Which array of a file with several.")] = None,
    of: Annotated[str, typer.Option(help="What cheap means: params or flops.")] = "params",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop trying new families after this time.")
    ] = None,
    nblocks: Annotated[
        int | None, typer.Option(help="Blocks of block structures, boxes of gblr.", rich_help_panel=_OPTIONS)
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="What the boxes of gblr may cost, as a share of dense: 0.5 unless told.",
            rich_help_panel=_OPTIONS,
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank, or terms of a sum.", rich_help_panel=_OPTIONS)
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Tile rank of a butterfly.", rich_help_panel=_OPTIONS)
    ] = None,
    order: Annotated[
        int | None, typer.Option(help="Factors of a Monarch matrix.", rich_help_panel=_OPTIONS)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width of a Kaleidoscope or OBB matrix.", rich_help_panel=_OPTIONS)
    ] = None,
    expansion: Annotated[
        int | None, typer.Option(help="Expansion of a Kaleidoscope matrix.", rich_help_panel=_OPTIONS)
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Modules of a BPBP matrix.", rich_help_panel=_OPTIONS)
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Block size of block-circulant.", rich_help_panel=_OPTIONS)
    ] = None,
    nnz: Annotated[
        int | None, typer.Option(help="Nonzeros of a sparse matrix.", rich_help_panel=_OPTIONS)
    ] = None,
) -> None:
    """Fit a fast structured matrix to a dense one, and certify its error and measured speed.

    Exit codes: 0 done, 1 the named structure does not reach the tolerance, 2 something was refused,
    130 Ctrl-C (the best so far is still written).
    """
    console = Console()
    given = {
        "nblocks": nblocks,
        "budget": budget,
        "rank": rank,
        "ranks": ranks,
        "order": order,
        "width": width,
        "expansion": expansion,
        "depth": depth,
        "block": block,
        "nnz": nnz,
    }
    if budget is not None:
        check_positive("kmatrix fit", "--budget", budget)
    structure = _structure(into, given)
    if structure is None and tol is None:
        reason = "neither a tolerance nor a structure was given"
        way_out = "pass --tol 1e-6 to have a structure chosen, or name one with --into"
        raise km.ArgumentError(complaint("kmatrix fit", "--tol", None, reason, way_out))
    if of not in ("params", "flops"):
        raise km.ArgumentError(complaint("kmatrix fit", "--of", of, "unknown", "use params or flops"))
    _check_place("--out", out, ".safetensors", target)
    _check_place("--report", report, ".html", target)
    read = as_target(target, name=name)
    m, n = read.shape
    with CtrlC() as ctrl_c, Ticker(console, f"fitting {m} x {n}") as progress:
        found = km.fit(
            read.dense.to(read.dtype),
            structure,
            tol=tol,
            of="flops" if of == "flops" else "params",
            seed=seed,
            max_seconds=max_seconds,
            progress=progress,
        )
    # Before anything is printed: where printing fails, the work is not lost.
    if out is not None:
        km.save(found.matrix, out, certificate=found.certificate.to_json())
    if report is not None:
        write_report(report, Section(found, read.dense, target.name))
    show(console, found)
    for what, path in (("matrix", out), ("report", report)):
        if path is not None:
            console.print(f"{what} written to {escape(str(path))}", highlight=False, soft_wrap=True)
    if found.interrupted and (ctrl_c.seen or max_seconds is None):
        raise typer.Exit(130)
    if structure is not None and tol is not None and found.relative_error > tol:
        raise typer.Exit(1)


class CtrlC:
    """Takes notice of Ctrl-C, which still interrupts: a fit that was cut short does not tell by what."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> CtrlC:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # those who chose another keep it
            signal.signal(signal.SIGINT, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.default_int_handler(number, frame)


def _structure(into: str | None, given: Mapping[str, float | None]) -> km.Structure | None:
    """The named structure, or none; its options make no sense alone."""
    if into is not None:
        return structure_from(into, given)
    for key, value in given.items():
        if value is not None:
            reason = "it belongs to a named structure"
            raise km.ArgumentError(
                complaint("kmatrix fit", f"--{key}", value, reason, "name one with --into")
            )
    return None


def _check_place(option: str, path: Path | None, suffix: str, target: Path) -> None:
    """Refuse a place that cannot be written before the work, not after it; and never write over the input."""
    if path is None:
        return
    folder = path.resolve().parent
    if path.suffix != suffix:
        reason, way_out = f"not a {suffix} file", f"name one, such as {path.stem or 'A'}{suffix}"
    elif path.is_dir():
        reason, way_out = "it is a folder", "name a file in it"
    elif path.resolve() == target.resolve():
        reason, way_out = "that is the target itself", "choose another name"
    elif not folder.is_dir():
        reason, way_out = "its folder does not exist", f"make it first: mkdir -p {folder}"
    elif not os.access(folder, os.W_OK):
        reason, way_out = "its folder is not writable", "choose another"
    else:
        if option == "--report":
            check_available()
        return
    raise km.ArgumentError(complaint("kmatrix fit", option, path, reason, way_out))


def show(console: Console, found: km.Fit) -> None:
    """Print what came out of a fit."""
    m, n = found.matrix.shape
    if len(found.history) > 1:
        chosen = chosen_attempt(found)
        console.print(history_table(found.history, dense=m * n, width=console.width, chosen=chosen))
        console.print()
    console.print(certificate_table(found.certificate))
    console.print()
    text = f"{brief(found.matrix.structure)}: {found.reason} ({found.seconds:.1f} s)"
    console.print(f"[bold]{escape(text)}[/bold]", highlight=False)
    console.print(f"found by {escape(found.method)}", highlight=False)
