"""Times taken turn by turn, so that whatever disturbs the machine disturbs all contenders alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

import torch

from kmatrix.benchmark.clock import Race as Race
from kmatrix.benchmark.clock import Runner, using_threads

from .recipe import Progress, silent

TURN_SECONDS = 8e-3  # long against the clock, short against what a neighbour does to a machine
_CPU = torch.device("cpu")


def race(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    seconds: float = 0.0,
    threads: int = 1,
    device: torch.device = _CPU,
    progress: Progress = silent,
) -> Race:
    """Run all turn by turn, each turn as many times as fill a few milliseconds.

    Args:
        contenders: functions without arguments, by name; each runs before the clock starts, so that what is made
            once is made.
        rounds: how often each has its turn, at least.
        seconds: of clock time, about, if that allows more rounds.
        threads: of torch.
        device: where they compute.
        progress: shows the rounds.

    Returns:
        Seconds of one run, by contender and round: ``race.time(name)`` and ``race.ratio(over, of)`` are medians with
        quartiles, the latter of the ratios of each round.

    Example:
        >>> found = race({"sum": lambda: sum(range(99)), "max": lambda: max(range(99))}, 3)
        >>> found.rounds, found.ratio("sum", "sum").median
        (3, 1.0)
    """
    runners = {name: _runner(run, device) for name, run in contenders.items()}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    collecting = gc.isenabled()
    with using_threads(threads):
        counts = {name: _turn(runner) for name, runner in runners.items()}
        gc.disable()
        try:
            done, end = 0, time.perf_counter() + seconds
            while done < rounds or time.perf_counter() < end:
                for name, runner in runners.items():
                    found[name].append(runner.time(counts[name]))
                done += 1
                progress("rounds", done, max(done, rounds))
        finally:
            if collecting:
                gc.enable()
    return Race(found)


def _runner(run: Callable[[], object], device: torch.device) -> Runner:
    def whole(_: object) -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return Runner(whole, [None])


def _turn(runner: Runner) -> int:
    """How many runs fill a turn; the first ones make what is made once."""
    runner.time(1)
    once = runner.time(1)
    if once < TURN_SECONDS:
        once = runner.time(min(100, int(TURN_SECONDS / max(once, 1e-8)) + 1))
    return max(1, round(TURN_SECONDS / max(once, 1e-8)))
