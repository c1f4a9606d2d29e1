"""Work in processes of its own: a kernel that faults or never ends takes a process with it, and not the results.

A unit of work is a function of this package by name with plain arguments; what it returns are plain values.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

FATAL = ("CUDA error", "Triton Error [CUDA]")  # after which nothing works in a process

NO_TIME = "no time was left"
GRACE = 30.0  # seconds that a unit may take after the time for all is over


def is_fatal(error: object) -> bool:
    """Whether an error, or what it says, leaves a process that cannot compute; one in a captured graph does not."""
    return any(sign in str(error) for sign in FATAL) and "captur" not in str(error)


@dataclass(frozen=True)
class Unit:
    """``module.function(*arguments)``, for so many seconds at most."""

    name: str
    function: str
    arguments: tuple[Any, ...]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: its value, or why there is none."""

    unit: Unit
    value: Any = None
    failed: str = ""


def perform(unit: Unit) -> Outcome:
    """Do it here and now."""
    module, _, function = unit.function.rpartition(".")
    try:
        return Outcome(unit, getattr(importlib.import_module(module), function)(*unit.arguments))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {str(error).strip()[:600]} ({where.filename}:{where.lineno})"
        return Outcome(unit, failed=reason)


def serve(pipe: Connection) -> None:
    """What a process does: one unit after the other until there is none, or a fault."""
    with suppress(EOFError, OSError):  # when the one who asks is gone
        while True:
            outcome = perform(pipe.recv())
            pipe.send(outcome)
            if is_fatal(outcome.failed):
                return


class _Worker:
    """A process, and what it is busy with."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,))
        self.process.start()
        other.close()
        self.unit: Unit | None = None
        self.until = 0.0

    def begin(self, unit: Unit, until: float) -> None:
        now = time.monotonic()
        self.unit, self.until = unit, min(now + unit.seconds, max(until, now) + GRACE)
        with suppress(OSError):  # if it is gone, that shows when its outcome is asked for
            self.pipe.send(unit)

    def outcome(self) -> Outcome:
        """Of the unit that it was busy with; the process may be gone."""
        unit, self.unit = self.unit, None
        assert unit is not None
        if not self.pipe.poll():
            return Outcome(unit, failed="no end in sight")
        try:
            found: Outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(10)
            return Outcome(unit, failed=f"the process ended with status {self.process.exitcode}")
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Pool:
    """So many processes, begun when they are needed and kept; with none, everything runs in this one.

    Args:
        jobs: how many.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs, self._idle = jobs, list[_Worker]()

    def work(self, units: Iterable[Unit], until: float) -> Iterator[Outcome]:
        """Outcomes as they come.

        No unit is begun after ``until``, a time of ``time.monotonic``, or goes on long after it.
        """
        waiting = deque(units)
        if self._jobs == 0:
            while waiting and time.monotonic() < until:
                yield perform(waiting.popleft())
        else:
            yield from self._spread(waiting, until)
        for unit in waiting:
            yield Outcome(unit, failed=NO_TIME)

    def close(self) -> None:
        """End the processes."""
        while self._idle:
            self._idle.pop().end()

    def _spread(self, waiting: deque[Unit], until: float) -> Iterator[Outcome]:
        busy: list[_Worker] = []
        try:
            while True:
                while waiting and len(busy) < self._jobs and time.monotonic() < until:
                    busy.append(self._idle.pop() if self._idle else _Worker())
                    busy[-1].begin(waiting.popleft(), until)
                if not busy:
                    return
                soon = min(worker.until for worker in busy) - time.monotonic()
                ready = set(wait([worker.pipe for worker in busy], max(soon, 0)))
                for worker in list(busy):
                    if worker.pipe not in ready and time.monotonic() < worker.until:
                        continue
                    outcome = worker.outcome()
                    busy.remove(worker)
                    if _is_over(outcome):
                        worker.end()
                    else:
                        self._idle.append(worker)
                    yield outcome
        finally:
            for worker in busy:
                worker.end()


def _is_over(outcome: Outcome) -> bool:
    """Whether the process cannot be used again."""
    return is_fatal(outcome.failed) or outcome.failed.startswith(("no end in sight", "the process ended"))
