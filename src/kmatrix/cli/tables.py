"""Results as tables on the terminal, and progress while something runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from kmatrix.fit import Attempt, Certificate, Fit


def number(value: float | None) -> str:
    """An error as the tables show it."""
    return "" if value is None else f"{value:.2e}"


def history_table(
    attempts: Sequence[Attempt], *, dense: int, title: str, chosen: Attempt | None = None
) -> Table:
    """What was tried: error, parameters and their share of dense, and the note."""
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    table.add_column("family", no_wrap=True)
    for name in ("error", "parameters", "of dense", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for a in attempts:
        table.add_row(
            escape(a.family),
            number(a.relative_error),
            "" if a.num_params is None else f"{a.num_params:,}",
            "" if a.num_params is None else f"{a.num_params / dense:.1%}",
            f"{a.seconds:.2f}",
            escape(a.note),
            style="bold green" if a is chosen else "" if a.met else "dim",
        )
    return table


def certificate_table(certificate: Certificate) -> Table:
    """The certificate, a line per fact."""
    table = Table(title="certificate", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for line in str(certificate).splitlines():
        # The certificate's own text is two columns, split after the 17th character.
        table.add_row(line[:17].strip().rstrip(","), escape(line[17:].strip()))
    return table


def chosen_attempt(fit: Fit) -> Attempt | None:
    """The attempt whose matrix was returned."""
    return next((a for a in fit.history if a.met and a.structure == fit.matrix.structure), None)


class Ticker:
    """Shows the family being tried, and a line for each that has ended."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._status: Status = console.status(what)
        self._what = what

    def __enter__(self) -> Ticker:
        self._status.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.__exit__(kind, error, trace)

    def __call__(self, family: str, attempt: Attempt | None) -> None:
        if attempt is None:
            self._status.update(f"{self._what}: trying {escape(family)} (Ctrl-C keeps the best so far)")
            return
        reached = "nothing" if attempt.relative_error is None else f"error {attempt.relative_error:.1e}"
        mark = "[green]met[/green]" if attempt.met else "[dim]no[/dim]"
        self._console.print(
            f"  {mark:<4} {escape(family)}: {reached} in {attempt.seconds:.2f} s", highlight=False
        )
