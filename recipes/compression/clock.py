"""Times taken turn by turn on one thread, so that whatever disturbs the machine disturbs all contenders alike."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

TURN_SECONDS = 5e-3  # of one turn: long against the clock, short against what a neighbour does to a machine


@dataclass(frozen=True)
class Race:
    """Seconds of every contender in every round."""

    seconds: dict[str, list[float]]

    def time(self, name: str) -> float:
        """Median seconds of one run."""
        return statistics.median(self.seconds[name])

    def ratios(self, over: str, of: str) -> tuple[float, float, float]:
        """Quartiles of how many times less time ``of`` takes than ``over``, round by round."""
        found = [a / b for a, b in zip(self.seconds[over], self.seconds[of], strict=True)]
        low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
        return low, middle, high


@torch.inference_mode()
def race(contenders: Mapping[str, Callable[[], object]], rounds: int) -> Race:
    """Run all turn by turn for some rounds, each turn as many times as fill a few milliseconds."""
    timers = {name: Timer("run()", globals={"run": run}, num_threads=1) for name, run in contenders.items()}
    counts = {}
    for name, timer in timers.items():
        once = timer.timeit(3).mean  # what is only made once is made here
        counts[name] = max(1, round(TURN_SECONDS / once))
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(counts[name]).mean)
    return Race(seconds)
