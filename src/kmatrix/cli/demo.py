"""``kmatrix demo``: the main job on real input, from entries alone to fast algorithms and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import kmatrix as km
from kmatrix.cli.tables import Ticker, certificate_table, chosen_attempt, history_table
from kmatrix.data import kemar_hrir
from kmatrix.fit.targets import as_target
from kmatrix.report import Section, write_report

Dense = np.ndarray[tuple[int, ...], np.dtype[Any]]
SIZE = 1024
TOL = 1e-10
KEMAR_TOL = 0.05


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the matrices and the report.")] = Path("out"),
) -> None:
    """Recover two hidden fast transforms, then fit a measured operator; writes out/demo.html."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(0).permutation(SIZE)
    sections = [
        _hidden(console, f"A {SIZE}-point DCT", _dct(SIZE), out / "dct.safetensors"),
        _hidden(
            console,
            f"A {SIZE}-point DFT with its rows shuffled",
            np.fft.fft(np.eye(SIZE))[rows],
            out / "shuffled_dft.safetensors",
        ),
        _measured(console, out / "kemar.safetensors"),
    ]
    write_report(
        out / "demo.html", *sections, title="kmatrix demo: any matrix in, a certified fast operator out"
    )
    console.print(
        f"[bold]report written to {out / 'demo.html'}; the matrices are beside it[/bold]", highlight=False
    )


def _dct(n: int) -> Dense:
    """The orthonormal DCT-II, written out from its definition so that nothing of the library's is handed over."""
    k, j = np.arange(n)[:, None], np.arange(n)[None, :]
    scale = np.where(k == 0, np.sqrt(1 / n), np.sqrt(2 / n))
    return np.asarray(scale * np.cos(np.pi * k * (2 * j + 1) / (2 * n)))


def _hidden(console: Console, what: str, dense: Dense, path: Path) -> Section:
    console.rule(f"{what}: fit sees {dense.size:,} numbers and nothing else")
    with Ticker(console, what) as progress:
        found = km.fit(dense, tol=TOL, progress=progress)
    km.save(found.matrix, path, certificate=found.certificate.to_json())
    console.print(certificate_table(found.certificate))
    console.print(f"found by {found.method} in {found.seconds:.1f} s; saved as {path}\n", highlight=False)
    return Section(found, as_target(dense).dense, what)


def _measured(console: Console, path: Path) -> Section:
    dense = kemar_hrir()
    m, n = dense.shape
    what = f"A measured operator: {m} x {n} head-related impulse responses (KEMAR)"
    console.rule(what)
    with Ticker(console, "comparing families") as progress:
        comparison = km.compare(dense, progress=progress)
    console.print(history_table(comparison, dense=m * n, title="error against parameters, every family"))
    with Ticker(console, "choosing") as progress:
        found = km.fit(dense, tol=KEMAR_TOL, progress=progress)
    chosen = chosen_attempt(found)
    console.print(
        history_table(found.history, dense=m * n, title=f"cheapest for tol={KEMAR_TOL}", chosen=chosen)
    )
    console.print(certificate_table(found.certificate))
    console.print(f"{found.reason} ({found.seconds:.1f} s); saved as {path}\n", highlight=False)
    km.save(found.matrix, path, certificate=found.certificate.to_json())
    return Section(found, as_target(dense).dense, what, comparison)
