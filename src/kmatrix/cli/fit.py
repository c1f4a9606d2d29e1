"""``kmatrix fit``: a matrix file in, a structured matrix and its certificate out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import kmatrix as km
from kmatrix.cli.names import STRUCTURES, structure_from
from kmatrix.cli.tables import Ticker, certificate_table, chosen_attempt, history_table
from kmatrix.fit.targets import as_target

_INTO = f"Structure to fit: {', '.join(STRUCTURES)}. Leave it out to have one chosen for --tol."


def fit(
    target: Annotated[Path, typer.Argument(help="A .npy, .npz or .safetensors file with a matrix.")],
    tol: Annotated[float | None, typer.Option(help="Relative Frobenius error to reach.")] = None,
    into: Annotated[str | None, typer.Option(help=_INTO)] = None,
    out: Annotated[Path | None, typer.Option(help="Where the structured matrix goes (.safetensors).")] = None,
    report: Annotated[Path | None, typer.Option(help="Where an HTML page with pictures goes.")] = None,
    name: Annotated[str | None, typer.Option(help="Which array of a file with several.")] = None,
    of: Annotated[str, typer.Option(help="What cheap means: params or flops.")] = "params",
    nblocks: Annotated[int | None, typer.Option(help="Blocks of block structures.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Tile rank of a butterfly.")] = None,
    order: Annotated[int | None, typer.Option(help="Factors of a Monarch matrix.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of a Kaleidoscope or OBB matrix.")] = None,
    expansion: Annotated[int | None, typer.Option(help="Expansion of a Kaleidoscope matrix.")] = None,
    depth: Annotated[int | None, typer.Option(help="Modules of a BPBP matrix.")] = None,
    block: Annotated[int | None, typer.Option(help="Block size of block-circulant matrices.")] = None,
    nnz: Annotated[int | None, typer.Option(help="Nonzeros of a sparse matrix.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop trying new families after this time.")
    ] = None,
) -> None:
    """Fit a fast structured matrix to a dense one, and certify its error and measured speed."""
    console = Console()
    given = {
        "nblocks": nblocks,
        "rank": rank,
        "ranks": ranks,
        "order": order,
        "width": width,
        "expansion": expansion,
        "depth": depth,
        "block": block,
        "nnz": nnz,
    }
    structure = None if into is None else structure_from(into, given)
    if into is None and any(value is not None for value in given.values()):
        named = next(key for key, value in given.items() if value is not None)
        raise km.ArgumentError(f"kmatrix fit: --{named} needs --into: it belongs to a named structure")
    if of not in ("params", "flops"):
        raise km.ArgumentError(f"kmatrix fit: --of={of}: unknown; use params or flops")
    for path in (out, report):
        if path is not None and not path.resolve().parent.is_dir():
            raise km.ArgumentError(
                f"kmatrix fit: {path}: the folder {path.parent} does not exist; make it first"
            )
    read = as_target(target, name=name)
    m, n = read.shape
    with Ticker(console, f"fitting {m} x {n}") as progress:
        found = km.fit(
            target,
            structure,
            tol=tol,
            of="flops" if of == "flops" else "params",
            name=name,
            seed=seed,
            max_seconds=max_seconds,
            progress=progress,
        )
    show(console, found)
    if out is not None:
        km.save(found.matrix, out, certificate=found.certificate.to_json())
        console.print(f"matrix written to {out}", highlight=False)
    if report is not None:
        from kmatrix.report import Section, write_report

        write_report(report, Section(found, read.dense, target.name))
        console.print(f"report written to {report}", highlight=False)
    if structure is not None and tol is not None and found.relative_error > tol:
        raise typer.Exit(1)


def show(console: Console, found: km.Fit) -> None:
    """Print what came out of a fit."""
    m, n = found.matrix.shape
    if len(found.history) > 1:
        chosen = chosen_attempt(found)
        console.print(history_table(found.history, dense=m * n, title="tried", chosen=chosen))
    console.print(certificate_table(found.certificate))
    console.print(
        f"{type(found.matrix.structure).__name__}: {found.reason} ({found.seconds:.1f} s)", highlight=False
    )
