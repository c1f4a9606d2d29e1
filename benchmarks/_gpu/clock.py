"""Times on a GPU: events on its own clock, and all contenders in turn in every round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any, Protocol

import torch

from _gpu.contenders import Contender
from kmatrix.benchmark.clock import Race

SAMPLE_SECONDS = 3e-3  # of one turn, about
FEWEST, MOST = 7, 101  # rounds
MOST_CALLS = 500  # in a turn


class Clock(Protocol):
    """Takes marks between calls, and says afterwards how long it was from one to the next."""

    def mark(self) -> Any:
        """Now, in the order of the work."""

    def between(self, start: Any, stop: Any) -> float:
        """Seconds, when the work is done."""

    def wait(self) -> None:
        """Until all work is done."""


class CudaClock:
    """Events in the current stream: they see what the GPU does, and its waiting for the host as far as it must wait."""

    def mark(self) -> torch.cuda.Event:
        """An event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: torch.cuda.Event, stop: torch.cuda.Event) -> float:
        """Their distance."""
        return float(start.elapsed_time(stop)) / 1e3

    def wait(self) -> None:
        """Until the GPU is done."""
        torch.cuda.synchronize()


class HostClock:
    """The clock on the wall, where there is no GPU: for tests of all the rest."""

    def mark(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def between(self, start: float, stop: float) -> float:
        """Their difference."""
        return stop - start

    def wait(self) -> None:
        """Nothing runs beside."""


class Runner:
    """A contender in the middle of its arguments: a new turn goes on where the last one stopped."""

    def __init__(self, contender: Contender, clock: Clock) -> None:
        self._calls = cycle(contender.calls)
        self._per, self._clock = contender.per, clock
        self.count = 1

    def turn(self) -> Callable[[], float]:
        """Run ``count`` calls behind one that is not timed; ask for the seconds of one product when all is done."""
        calls, count = self._calls, self.count
        next(calls)()  # the clock starts while the GPU is busy with it, and the host is ahead
        start = self._clock.mark()
        for _ in range(count):
            next(calls)()
        stop = self._clock.mark()
        return lambda: max(self._clock.between(start, stop), 1e-9) / (count * self._per)

    def calibrate(self) -> float:
        """Warm up and choose ``count``; about the seconds of one turn."""
        self.turn()
        self._clock.wait()
        self.count, once = 3, 0.0
        for _ in range(2):
            timed = self.turn()
            self._clock.wait()
            once = timed() * self._per
            self.count = max(1, min(round(SAMPLE_SECONDS / once), MOST_CALLS))
        return once * (self.count + 1)


def race(contenders: Mapping[str, Contender], seconds: float, clock: Clock) -> Race:
    """Seconds of one product by everyone in every round, in about so many seconds and seven rounds at least."""
    runners = {name: Runner(contender, clock) for name, contender in contenders.items()}
    each = sum(runner.calibrate() for runner in runners.values())
    rounds = min(max(FEWEST, int(seconds / each)), MOST)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            taken = [(name, runners[name].turn()) for name in order]
            clock.wait()
            for name, timed in taken:
                found[name].append(timed())
            order.reverse()  # nobody always comes first
    finally:
        if collecting:
            gc.enable()
    return Race(found)
