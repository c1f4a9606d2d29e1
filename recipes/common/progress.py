"""How far a recipe is: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINES_EVERY = 30.0


class Bars:
    """Two bars, one for the runs and one for the steps of the present one, on standard error."""

    def __init__(self, shown: bool = True) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(
            *columns, TextColumn("{task.fields[figures]}"), TimeRemainingColumn(), console=console,
            disable=not (shown and console.is_terminal), transient=True,
        )  # fmt: skip
        self._lines = shown and not console.is_terminal
        self._runs: TaskID | None = None
        self._steps: TaskID | None = None
        self._title, self._last = "", time.monotonic()

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def run(self, title: str, done: int, total: int) -> None:
        """Another run begins, after so many."""
        self._title = f"{title} (run {done + 1} of {total})"
        if self._runs is None:
            self._runs = self._bars.add_task("", total=total, figures="")
            self._steps = self._bars.add_task("", total=None, figures="")
        assert self._steps is not None
        self._bars.update(self._runs, description=escape(title), completed=done, total=total)
        self._bars.update(self._steps, description="", completed=0, total=None, figures="")

    def step(self, what: str, done: int, total: int, **figures: float) -> None:
        """So much of the present run is done."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self._steps is not None:
            self._bars.update(
                self._steps, description=f"  {escape(what)}", completed=done, total=total, figures=text
            )
        if self._lines and time.monotonic() - self._last > LINES_EVERY:
            self._last = time.monotonic()
            print(f"{self._title}: {what} {done} of {total}  {text}", file=sys.stderr, flush=True)
