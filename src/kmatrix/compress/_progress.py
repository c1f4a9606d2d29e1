"""Progress of long work: one line on a terminal where rich is installed, a callback if one is given, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from kmatrix._errors import DtypeError, complaint

Step = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0 if that is not known)."""


def _silent(what: str, done: int, total: int) -> None:
    """The steps of those who asked for none."""


@contextmanager
def showing(where: str, progress: bool | Step) -> Iterator[Step]:
    """A function to call at every step; what it shows is taken away again at the end of the block.

    Args:
        where: who asks, for the complaint.
        progress: whether to show a bar on the terminal, or a function to call instead.

    Raises:
        DtypeError: if ``progress`` is neither a truth value nor callable.
    """
    if callable(progress):
        yield progress
        return
    if not isinstance(progress, bool):
        way_out = "pass True, False or a function (what: str, done: int, total: int)"
        raise DtypeError(complaint(where, "progress", repr(progress), "cannot be called", way_out))
    if not progress or not sys.stderr.isatty() or find_spec("rich") is None:
        yield _silent
        return
    yield from _on_terminal()


def _on_terminal() -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def step(what: str, done: int, total: int) -> None:
            head = what.split(":", maxsplit=1)[0]
            if head not in tasks:
                tasks[head] = bar.add_task(head, total=total or None)
            bar.update(tasks[head], description=what, completed=done, total=total or None)

        yield step
