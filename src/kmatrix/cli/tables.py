"""Results as tables on the terminal, readable from 80 columns on, and progress while something runs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kmatrix.fitting import Attempt, Certificate
from kmatrix.fitting.comparison import TruncatedSVD
from kmatrix.report.curve import by_budget
from kmatrix.report.words import judged

WIDE = 100
UNBOUNDED = 1000


def output() -> Console:
    """Where results are printed; as wide as they are where no terminal bounds them, so that files hold whole lines."""
    console = Console()
    bounded = console.is_terminal or "COLUMNS" in os.environ
    return console if bounded else Console(width=UNBOUNDED)


def plain_table(title: str, *headings: str) -> Table:
    """A table with a title; columns of headings that start with # hold numbers, a last column of words may wrap."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None)
    for heading in headings:
        number = heading.startswith("#")
        may_wrap = heading == headings[-1] and not number
        table.add_column(
            heading.removeprefix("#"), justify="right" if number else "left", no_wrap=not may_wrap
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
    table = plain_table(
        "what was tried", "family", "#error", "#params", "#dense", *seconds, "how, or why not"
    )
    for a in attempts:
        size = ("", "") if a.num_params is None else (f"{a.num_params:,}", f"{a.num_params / dense:.1%}")
        error = "" if a.relative_error is None else f"{a.relative_error:.1e}"
        spent = [f"{a.seconds:.2f}"] if seconds else []
        style = "bold green" if a is chosen else "" if a.met else "dim"
        table.add_row(escape(a.family), error, *size, *spent, escape(a.note), style=style)
    return table


def comparison_table(attempts: Sequence[Attempt], budgets: Sequence[float], svd: TruncatedSVD) -> Table:
    """Error of every family by budget, truncated SVD first; green is closer than SVD with as many numbers."""
    m, n = svd.shape
    columns = (f"#{budget:.0%}" for budget in budgets)
    table = plain_table("relative error by numbers allowed, as a share of dense", "family", *columns)
    bounds = (f"{svd.error(int(budget * m * n)):.1e}" for budget in budgets)
    table.add_row("truncated SVD", *bounds, style="bold")
    for family, found in by_budget(attempts, budgets, m * n).items():
        cells = ("" if a is None else _coloured(f"{a.relative_error:.1e}", svd.loses_to(a)) for a in found)
        table.add_row(escape(family), *cells)
    return table


def _coloured(text: str, won: bool) -> str:
    return f"[green]{text}[/green]" if won else text


def fact_table(title: str) -> Table:
    """A table of facts: a name and a value on each line."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def certificate_table(c: Certificate) -> Table:
    """The certificate, a line per fact."""
    table = fact_table("certificate")
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
        style = "green" if t.verdict == "faster than" else "yellow"
        table.add_row(f"time, batch {t.batch}", f"[{style}]{t.speedup:.2f}x dense: {judged(t)}[/{style}]")
    return table


class Ticker:
    """Shows on a terminal which family is being tried, and counts those that have ended; elsewhere nothing."""

    def __init__(self, console: Console, what: str) -> None:
        # Without a terminal rich would still end its line, and a pipe that takes nothing would end the work.
        self._status = console.status(escape(what)) if console.is_terminal else None
        self._what = escape(what)
        self._ended = 0

    def __enter__(self) -> Ticker:
        if self._status is not None:
            self._status.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.__exit__(kind, error, trace)

    def __call__(self, family: str, attempt: Attempt | None) -> None:
        if attempt is not None:
            self._ended += 1
            return
        done = f", {self._ended} done" if self._ended else ""
        if self._status is not None:
            self._status.update(f"{self._what}: {escape(family)}{done} (Ctrl-C keeps the best so far)")


class Lines:
    """Progress where no terminal shows a bar: a line on stderr now and then, none for work that soon ends."""

    def __init__(self, every: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._last = clock()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if now - self._last < self._every:
            return
        self._last = now
        with contextlib.suppress(OSError):  # a pipe that takes nothing does not end the work
            print(f"{what} ({done} of {total})" if total else f"{what} ({done})", file=sys.stderr, flush=True)
