"""Two processes (gloo) learn one structure: each from its own batches, to equal boxes and numbers within the budget."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import nn

import kmatrix as km
from kmatrix.compress._box_layers import Start


def learned(rank: int, start: Start) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    torch.manual_seed(rank)  # what is drawn is drawn by the seed, or told by the first process
    data = [(x, x[:, :4].sin()) for x in torch.randn(6, 8, 12)]
    report = km.learn_structure(model, 0.4, data, start=start, steps=12, lr=1e-2, progress=False)
    return {
        "losses": report.losses,
        "healed": report.healing.losses if report.healing else (),
        "boxes": [layer.boxes.to_lists() if layer.boxes else [] for layer in report.layers],
        "costs": [layer.cost for layer in report.layers],
        "state": model.state_dict(),
        "first": data[0][0],
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save({start: learned(rank, start) for start in get_args(Start)}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_learn_the_same_boxes(tmp_path: Path) -> None:
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for start in get_args(Start):
        first, second = (found[start] for found in both)
        assert not torch.equal(first["first"], second["first"])
        assert len(first["losses"]) == 12 and len(first["healed"]) == 2
        assert sum(first["costs"]) == math.floor(0.4 * (12 * 10 + 10 * 4)) and any(first["boxes"])
        for key in ("losses", "healed", "boxes", "costs"):
            assert first[key] == second[key]
        assert set(first["state"]) == set(second["state"])
        for name, value in first["state"].items():
            torch.testing.assert_close(value, second["state"][name], rtol=0, atol=0)


if __name__ == "__main__":  # one of the processes
    work(int(sys.argv[1]), sys.argv[2])
