"""Times taken turn by turn, so that whatever disturbs the machine disturbs all contenders alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple, Protocol

import torch

SAMPLE_SECONDS = 2e-3  # of one turn: long against the clock, short against what a neighbour does to a machine
FEWEST, MOST = 5, 201  # rounds


class Timed(Protocol):
    """Something that can be run a number of times against the clock."""

    def time(self, count: int) -> float:
        """Seconds of one run, the mean of ``count`` in a row."""


@dataclass(frozen=True)
class Runner:
    """A function and what to hand it, one input after the other so that none is in the nearest cache by itself.

    Attributes:
        run: the function.
        inputs: what it takes in turn.
        threads: of torch while it runs; None for what is set.
    """

    run: Callable[[Any], object]
    inputs: Sequence[Any]
    threads: int | None = None

    def time(self, count: int) -> float:
        """Seconds of one run, the mean of ``count`` in a row; one more goes before them unseen if they are many."""
        run, calls = self.run, list(islice(cycle(self.inputs), count))
        with using_threads(self.threads or torch.get_num_threads()):
            if count > 1:
                run(self.inputs[-1])
            start = time.perf_counter()
            for x in calls:
                run(x)
            return (time.perf_counter() - start) / count


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Torch's number of threads inside a block."""
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of some values, at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Race:
    """Seconds of every contender in every round."""

    seconds: Mapping[str, Sequence[float]]

    @property
    def rounds(self) -> int:
        """How often each had its turn."""
        return min(map(len, self.seconds.values()))

    def time(self, name: str) -> Spread:
        """Seconds of one contender."""
        return Spread.of(self.seconds[name])

    def ratio(self, over: str, of: str) -> Spread:
        """How many times less time ``of`` takes than ``over``, round by round."""
        pairs = zip(self.seconds[over], self.seconds[of], strict=True)
        return Spread.of([slow / fast for slow, fast in pairs])


def race(contenders: Mapping[str, Timed], seconds: float) -> Race:
    """Run all turn by turn for about so many seconds, and no fewer than five rounds.

    Example:
        >>> from kmatrix.benchmark.clock import Runner, race
        >>> found = race({"sum": Runner(sum, [range(9)]), "max": Runner(max, [range(9)])}, 0.01)
        >>> found.rounds >= 5, found.ratio("sum", "sum").median
        (True, 1.0)
    """
    counts, each = {}, 0.0
    for name, contender in contenders.items():
        once = max(contender.time(1), 1e-8)
        if once < SAMPLE_SECONDS:
            once = max(contender.time(min(100, int(SAMPLE_SECONDS / once) + 1)), 1e-8)
        counts[name] = max(1, round(SAMPLE_SECONDS / once))
        each += once * counts[name]
    rounds = min(max(FEWEST, int(seconds / each)), MOST)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, contender in contenders.items():
                found[name].append(contender.time(counts[name]))
    finally:
        if collecting:
            gc.enable()
    return Race(found)
