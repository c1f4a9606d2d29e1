"""Results as tables on the terminal, readable from 80 columns on, and progress while something runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kmatrix.fit import Attempt, Certificate
from kmatrix.report.curve import TruncatedSVD
from kmatrix.report.words import judged, options

WIDE = 100


def _table(title: str, *headings: str) -> Table:
    """A table with a title; headings that start with # stand over numbers, the last column takes what is left."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None)
    for heading in headings:
        number = heading.startswith("#")
        last = heading == headings[-1]
        table.add_column(
            heading.removeprefix("#"), justify="right" if number else "left", no_wrap=number or not last
        )
    return table


def history_table(
    attempts: Sequence[Attempt], *, dense: int, width: int, chosen: Attempt | None = None
) -> Table:
    """What a search tried: error, parameters and their share of dense, and how or why not.

    Args:
        attempts: what was tried, in order.
        dense: numbers of the dense matrix.
        width: columns of the terminal; below 100 the seconds are left out.
        chosen: the attempt to mark.
    """
    seconds = ["#seconds"] if width >= WIDE else []
    table = _table("what was tried", "family", "#error", "#params", "#dense", *seconds, "how, or why not")
    for a in attempts:
        size = ("", "") if a.num_params is None else (f"{a.num_params:,}", f"{a.num_params / dense:.1%}")
        error = "" if a.relative_error is None else f"{a.relative_error:.1e}"
        spent = [f"{a.seconds:.2f}"] if seconds else []
        style = "bold green" if a is chosen else "" if a.met else "dim"
        table.add_row(escape(a.family), error, *size, *spent, escape(a.note), style=style)
    return table


def comparison_table(attempts: Sequence[Attempt], svd: TruncatedSVD) -> Table:
    """Error against parameters of every family beside truncated SVD; green is closer than SVD of that size."""
    table = _table(
        "error against parameters", "family", "#params", "#dense", "#error", "#SVD of that size", "options"
    )
    m, n = svd.shape
    for a in attempts:
        if a.num_params is None or a.relative_error is None:
            continue
        best = svd.error(a.num_params)
        table.add_row(
            escape(a.family),
            f"{a.num_params:,}",
            f"{a.num_params / (m * n):.1%}",
            f"{a.relative_error:.1e}",
            f"{best:.1e}",
            escape(options(a.structure)) if a.structure else "",
            style="green" if a.relative_error < best else "",
        )
    return table


def certificate_table(c: Certificate) -> Table:
    """The certificate, a line per fact."""
    table = Table(title="certificate", title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    spectral = c.spectral_error
    table.add_row("relative error", f"{c.relative_error:.2e} (Frobenius)")
    table.add_row(
        "spectral error",
        f"{spectral.lower:.2e} at least, {spectral.upper:.2e} at most (probability {spectral.confidence:.6f})",
    )
    shares = (("parameters", c.num_params, c.dense_params), ("FLOPs a vector", c.flops, c.dense_flops))
    for what, count, dense in shares:
        table.add_row(what, f"{count:,} of {dense:,} ({count / dense:.2%} of dense)")
    for t in c.timings:
        style = "green" if t.speedup > 1 else "yellow"
        table.add_row(f"time, batch {t.batch}", f"[{style}]{t.speedup:.2f}x dense: {judged(t)}[/{style}]")
    return table


class Ticker:
    """Shows on a terminal which family is being tried, and counts those that have ended."""

    def __init__(self, console: Console, what: str) -> None:
        self._status = console.status(escape(what))
        self._what = escape(what)
        self._ended = 0

    def __enter__(self) -> Ticker:
        self._status.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.__exit__(kind, error, trace)

    def __call__(self, family: str, attempt: Attempt | None) -> None:
        if attempt is not None:
            self._ended += 1
            return
        done = f", {self._ended} done" if self._ended else ""
        self._status.update(f"{self._what}: {escape(family)}{done} (Ctrl-C keeps the best so far)")
