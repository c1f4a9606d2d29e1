"""The clock of the recipes: who has how many turns, on how many threads."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import pytest
import torch

from kmatrix.cli.recipe import recipes

clock: Any = importlib.import_module(f"{recipes().__name__}.common.clock")


def test_all_have_their_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "TURN_SECONDS", 0.0)  # one run a turn
    calls: list[str] = []
    shown: list[tuple[int, int]] = []
    found = clock.race(
        {name: lambda name=name: calls.append(name) for name in "abc"},
        4,
        progress=lambda what, done, total, **figures: shown.append((done, total)),
    )
    assert "".join(calls) == "aabbcc" + 4 * "abc"
    assert found.rounds == 4 and all(s > 0 for times in found.seconds.values() for s in times)
    assert shown == [(k, 4) for k in (1, 2, 3, 4)]


def test_rounds_fill_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "TURN_SECONDS", 0.0)
    ticks = iter(range(10**6))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: float(next(ticks)))
    short = clock.race({"a": lambda: None}, 3)
    long = clock.race({"a": lambda: None}, 3, seconds=300.0)
    assert short.rounds == 3 and 50 < long.rounds < 200


def test_threads_and_the_collector_are_as_before() -> None:
    before, seen = torch.get_num_threads(), set()
    with pytest.raises(ZeroDivisionError):
        clock.race({"a": lambda: seen.add(torch.get_num_threads()), "b": lambda: 1 / 0}, 2)
    clock.race({"a": lambda: seen.add(torch.get_num_threads())}, 2)
    assert seen == {1} and torch.get_num_threads() == before and gc.isenabled()
