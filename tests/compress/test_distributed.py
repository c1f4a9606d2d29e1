"""Two processes (gloo): moments are those of all batches together, choices agree, healed models stay alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import kmatrix as km
from kmatrix.compress import calibrate, select
from kmatrix.compress import timing as module
from kmatrix.fitting import Timing


def model_and_data() -> tuple[nn.Sequential, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4))
    model[1].unused = nn.Linear(3, 3)  # runs never, which must stop neither
    return model, [torch.randn(20, 24, generator=generator) for _ in range(8)]


def raced(clock: Any, place: Any, structures: Sequence[km.Structure]) -> list[Timing]:
    return [Timing(clock.batch, 2.0, 1.0, ratios=(1.9, 2.0, 2.1)) for _ in structures]


def slow(clock: Any, place: Any, structures: Sequence[km.Structure]) -> list[Timing]:
    return [Timing(clock.batch, 1.0, 2.0, ratios=(0.5, 0.5, 0.5)) for _ in structures]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        dense, data = model_and_data()
        model, _ = model_and_data()
        own = data[rank::2]
        found = calibrate(model, select(model)[0], own, double=True)
        # Clocks differ, and one of them finds everything slow: the first one decides for both.
        module.Clock._raced = raced if rank == 0 else slow  # type: ignore[method-assign]
        report = km.compress_(model, 0.6, calibration=own)
        # Targets beside the inputs, which the model has no place for.
        healed = km.heal(model, [(x, "label") for x in own], teacher=dense, steps=4)
        torch.save(
            {
                "second": found.moments["0"].second,
                "gradient": found.moments["0"].gradient,
                "count": found.moments["0"].count,
                "batches": found.batches,
                "report": json.dumps(report.to_json()["layers"]),
                "losses": healed.losses,
                "state": model.state_dict(),
            },
            f"{folder}/{rank}.pt",
        )
    finally:
        dist.destroy_process_group()


def test_two_processes_agree(tmp_path: Path) -> None:
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    model, data = model_and_data()
    alone = calibrate(model, select(model)[0], data, double=True)
    for found in (first, second):
        torch.testing.assert_close(found["second"], alone.moments["0"].second)
        # The head multiplies random signs, which are those of each process: alike on average, and the same in both.
        torch.testing.assert_close(found["gradient"], first["gradient"], rtol=0, atol=0)
        assert found["gradient"].shape == (32, 32)
        assert (found["count"], found["batches"]) == (160, 8)
    assert first["report"] == second["report"]
    assert '"chosen": {' in first["report"]
    assert first["losses"] == second["losses"]
    for key, value in first["state"].items():
        torch.testing.assert_close(value, second["state"][key], rtol=0, atol=0)


if __name__ == "__main__":  # one of the processes
    work(int(sys.argv[1]), sys.argv[2])
