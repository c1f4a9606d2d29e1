"""Two processes (gloo): moments are those of all batches together, choices agree, healed models stay alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import kmatrix as km
from kmatrix.compress import calibrate, select


def model_and_data() -> tuple[nn.Sequential, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4))
    return model, [torch.randn(20, 24, generator=generator) for _ in range(8)]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        dense, data = model_and_data()
        model, _ = model_and_data()
        own = data[rank::2]
        found = calibrate(model, select(model)[0], own, double=True, sensitivity=False)
        report = km.compress_(model, 0.6, calibration=own, verify_speed=False, sensitivity=False)
        healed = km.heal(model, own, teacher=dense, steps=4)
        torch.save(
            {
                "second": found.moments["0"].second,
                "count": found.moments["0"].count,
                "batches": found.batches,
                "params": report.params,
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
    alone = calibrate(model, select(model)[0], data, double=True, sensitivity=False)
    for found in (first, second):
        torch.testing.assert_close(found["second"], alone.moments["0"].second)
        assert (found["count"], found["batches"]) == (160, 8)
    assert first["losses"] == second["losses"]
    for key, value in first["state"].items():
        torch.testing.assert_close(value, second["state"][key], rtol=0, atol=0)


if __name__ == "__main__":  # one of the processes
    work(int(sys.argv[1]), sys.argv[2])
