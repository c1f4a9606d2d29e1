"""``kmatrix demo``: the main job on real input, from entries alone to fast algorithms and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

import kmatrix as km
from kmatrix._errors import complaint
from kmatrix.cli.tables import Ticker, certificate_table, comparison_table, history_table
from kmatrix.data import kemar_hrir
from kmatrix.fitting.comparison import TruncatedSVD
from kmatrix.fitting.targets import as_target
from kmatrix.report import Section, write_report
from kmatrix.report.words import brief, chosen_attempt

Dense = np.ndarray[tuple[int, ...], np.dtype[Any]]
SIZE = 1024
TOL = 1e-10
KEMAR_TOL = 0.05
GREEN = "green: closer than truncated SVD with as many numbers (positions of sparse entries not counted)"
BUDGETS = (0.02, 0.05, 0.1, 0.2, 0.4)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the matrices and the report.")] = Path("out"),
) -> None:
    """Recover two hidden fast transforms, then fit a measured operator; writes out/demo.html."""
    console = Console()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made: {error.strerror}"
        raise km.ArgumentError(complaint("kmatrix demo", "--out", out, reason, "name another")) from error
    rows = np.random.default_rng(0).permutation(SIZE)
    shuffled = np.fft.fft(np.eye(SIZE))[rows]
    sections = [
        _hidden(console, f"A {SIZE}-point DCT", _dct(SIZE), out / "dct.safetensors"),
        _hidden(
            console, f"A {SIZE}-point DFT with its rows shuffled", shuffled, out / "shuffled_dft.safetensors"
        ),
        _measured(console, kemar_hrir(), out / "kemar.safetensors"),
    ]
    title = "kmatrix demo: any matrix in, a certified fast operator out"
    write_report(out / "demo.html", *sections, title=title)
    _say(console, f"report written to {out / 'demo.html'}; the matrices are beside it")


def _say(console: Console, text: str) -> None:
    console.print(f"[bold]{escape(text)}[/bold]", highlight=False)


def _dct(n: int) -> Dense:
    """The orthonormal DCT-II, written out from its definition so that nothing of the library's is handed over."""
    k, j = np.arange(n)[:, None], np.arange(n)[None, :]
    scale = np.where(k == 0, np.sqrt(1 / n), np.sqrt(2 / n))
    return np.asarray(scale * np.cos(np.pi * (k * (2 * j + 1) % (4 * n)) / (2 * n)))


def _hidden(console: Console, what: str, dense: Dense, path: Path) -> Section:
    console.rule(escape(what))
    console.print(f"fit sees {dense.size:,} numbers and nothing else", highlight=False)
    with Ticker(console, what) as progress:
        found = km.fit(dense, tol=TOL, progress=progress)
    console.print(certificate_table(found.certificate))
    _conclude(console, found, path)
    return Section(found, as_target(dense).dense, what)


def _measured(console: Console, dense: Dense, path: Path) -> Section:
    m, n = dense.shape
    what = f"A measured operator: {m} x {n} head-related impulse responses"
    target = as_target(dense).dense
    console.rule(what)
    with Ticker(console, "comparing") as progress:
        comparison = km.compare(dense, budgets=BUDGETS, progress=progress)
    console.print(comparison_table(comparison, BUDGETS, TruncatedSVD.of(target)))
    console.print(GREEN, style="dim")
    console.print()
    with Ticker(console, "choosing") as progress:
        found = km.fit(dense, tol=KEMAR_TOL, progress=progress)
    chosen = chosen_attempt(found)
    console.print(history_table(found.history, dense=m * n, width=console.width, chosen=chosen))
    console.print()
    console.print(certificate_table(found.certificate))
    _conclude(console, found, path)
    return Section(found, target, what, comparison, BUDGETS)


def _conclude(console: Console, found: km.Fit, path: Path) -> None:
    """Save what was found and say how it came about."""
    km.save(found.matrix, path, certificate=found.certificate.to_json())
    _say(console, f"{brief(found.matrix.structure)}: {found.reason} ({found.seconds:.1f} s)")
    console.print(f"found by {escape(found.method)}; saved as {escape(str(path))}\n", highlight=False)
