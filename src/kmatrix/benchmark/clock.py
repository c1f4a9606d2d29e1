"""Times taken turn by turn, so that whatever disturbs the machine disturbs all contenders alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, NamedTuple, Protocol

import torch

from kmatrix._errors import KMatrixError, complaint

SAMPLE_SECONDS = 8e-3  # of one turn: long against the clock and against what others left in the caches
FEWEST, MOST = 5, 201  # rounds
ALLOWANCE = (
    1.15  # times the cores that were allowed: the clocks differ a little, and a progress bar has a thread
)

_limit: ContextVar[int | None] = ContextVar("threads that contenders may use", default=None)


class TooManyCoresError(KMatrixError, RuntimeError):
    """A contender kept more cores busy than it was allowed to: its time is not that of so many threads."""


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
        threads: of torch while it runs; None for what the block around it allows.
    """

    run: Callable[[Any], object]
    inputs: Sequence[Any]
    threads: int | None = None

    def time(self, count: int) -> float:
        """Seconds of one run, the mean of ``count`` in a row; one more goes before them unseen if they are many."""
        run, calls = self.run, list(islice(cycle(self.inputs), count))
        with using_threads(self.threads or allowed_threads()):
            if count > 1:
                run(self.inputs[-1])
            start = time.perf_counter()
            for x in calls:
                run(x)
            return (time.perf_counter() - start) / count


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Torch's number of threads inside a block, and what contenders there are held to.

    Packages exist that change torch's number when they are imported (``lazylinop.butterfly`` does), so the number
    is set again before each turn and not believed to be what it was.
    """
    before, token = torch.get_num_threads(), _limit.set(threads)
    _set_threads(threads)
    try:
        yield
    finally:
        _limit.reset(token)
        _set_threads(before)


def allowed_threads() -> int:
    """What the innermost ``using_threads`` says; outside of all, what torch has."""
    return _limit.get() or torch.get_num_threads()


def _set_threads(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


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
    """Seconds of every contender in every round.

    Attributes:
        seconds: of one run, by contender.
        cores: how many each kept busy: time of this process on all processors for a second on the clock.
        allowed: how many each was allowed.
    """

    seconds: Mapping[str, Sequence[float]]
    cores: Mapping[str, float] = field(default_factory=dict)
    allowed: Mapping[str, int] = field(default_factory=dict)

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

    def excess(self, name: str) -> str:
        """What to say of a contender that used more cores than it was allowed; empty if it did not."""
        cores, allowed = self.cores.get(name, 0.0), self.allowed.get(name, 1)
        return f"used {cores:.1f} cores, {allowed} allowed" if cores > ALLOWANCE * allowed else ""

    def fair(self, where: str) -> Race:
        """This race, if nobody used more cores than allowed.

        Raises:
            TooManyCoresError: if somebody did.
        """
        for name in self.seconds:
            if self.excess(name):
                way_out = "find who sets its number of threads, or allow as many with --threads"
                raise TooManyCoresError(complaint("bench", where, name, self.excess(name), way_out))
        return self


def race(contenders: Mapping[str, Timed], seconds: float, rest: float = 0.0) -> Race:
    """Run all turn by turn for about so many seconds, and no fewer than five rounds.

    Args:
        contenders: who runs, by name.
        seconds: in all, about.
        rest: seconds of sleep before each turn. Idle threads of an OpenMP team spin for some milliseconds, so that
            a contender on one thread would share its core with the team of the one before it.

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
    meters = {name: Meter() for name in contenders}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, contender in contenders.items():
                if rest:
                    time.sleep(rest)
                with meters[name]:
                    found[name].append(contender.time(counts[name]))
    finally:
        if collecting:
            gc.enable()
    cores = {name: meter.cores for name, meter in meters.items()}
    allowed = {
        name: getattr(contender, "threads", None) or allowed_threads()
        for name, contender in contenders.items()
    }
    return Race(found, cores, allowed)


class Meter:
    """Time of all threads of this process, and on the clock, summed over its blocks.

    Example:
        >>> from kmatrix.benchmark.clock import Meter
        >>> with Meter() as meter:
        ...     found = sum(range(10**5))
        >>> meter.cores < 1.15
        True
    """

    def __init__(self) -> None:
        self._clock = self._processors = 0.0

    def __enter__(self) -> Meter:
        self._clock -= time.perf_counter()
        self._processors -= time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._processors += time.process_time()
        self._clock += time.perf_counter()

    @property
    def cores(self) -> float:
        """How many were busy on average."""
        return self._processors / max(self._clock, 1e-9)
