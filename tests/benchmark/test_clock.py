"""Turn by turn: who runs when, what is counted, and what is left as it was."""

from __future__ import annotations

import gc

import pytest
import torch

from kmatrix.benchmark.clock import FEWEST, SAMPLE_SECONDS, Race, Runner, Spread, race, using_threads


class Slow:
    """Takes as long as it says, and notes its turns."""

    def __init__(self, name: str, seconds: float, log: list[tuple[str, int]]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def time(self, count: int) -> float:
        self.log.append((self.name, count))
        return self.seconds


def test_contenders_run_turn_by_turn() -> None:
    log: list[tuple[str, int]] = []
    found = race({"a": Slow("a", 0.01, log), "b": Slow("b", 0.02, log)}, 0.3)
    assert found.rounds == 10
    assert [name for name, _ in log[-20:]] == ["a", "b"] * 10
    assert found.ratio("b", "a").median == pytest.approx(2)


def test_short_ones_run_many_times_in_a_turn_and_slow_ones_five_rounds() -> None:
    log: list[tuple[str, int]] = []
    found = race({"fast": Slow("fast", 1e-6, log), "slow": Slow("slow", 9.0, log)}, 0.1)
    assert found.rounds == FEWEST
    assert log[-2:] == [("fast", round(SAMPLE_SECONDS / 1e-6)), ("slow", 1)]


def test_ratios_are_taken_round_by_round() -> None:
    found = Race({"a": [1.0, 100.0, 1.0], "b": [2.0, 200.0, 2.0]})  # a burst in the second round hits both
    assert found.ratio("b", "a") == Spread(2.0, 2.0, 2.0)
    assert found.time("a").median == 1.0


def test_inputs_take_turns() -> None:
    seen: list[int] = []
    Runner(seen.append, [1, 2, 3]).time(4)
    assert seen == [3, 1, 2, 3, 1]  # one unseen call first


def test_threads_and_the_collector_are_as_before() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    Runner(lambda _: seen.append(torch.get_num_threads()), [None], threads=before + 1).time(1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), using_threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        race({"a": Runner(fail, [None])}, 0.1)
    assert gc.isenabled()
