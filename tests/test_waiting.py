"""Times on a GPU are those of work that is done: the clock is read behind a wait."""

from __future__ import annotations

import pytest
import torch

from kmatrix._waiting import waiting_for
from kmatrix.fitting import certificate
from kmatrix.ops.tuning import rounds


def test_a_gpu_is_waited_for_and_a_cpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", seen.append)
    waiting_for(torch.device("cpu"))()
    assert seen == []
    waiting_for(torch.device("cuda:1"))()
    assert seen == [torch.device("cuda:1")]


def test_every_look_at_the_clock_is_behind_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is done when a round ends, and nothing of what ran before is left when it begins."""
    under_way: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: under_way.clear())
    looks: list[int] = []

    def look() -> float:
        looks.append(len(under_way))
        return float(len(looks))

    monkeypatch.setattr("kmatrix.ops.tuning.time.perf_counter", look)
    rounds([lambda: under_way.append(1), lambda: under_way.append(2)], 1.0, 3, torch.device("cuda"))
    assert len(looks) == 2 * 2 + 2 * 2 * 3
    assert set(looks) == {0}
    looks.clear()
    monkeypatch.setattr(certificate.time, "perf_counter", look)
    certificate._clock(lambda: under_way.append(1), 5, waiting_for(torch.device("cuda")))
    assert looks == [0, 0]
