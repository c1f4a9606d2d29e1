"""Two processes: DDP and FSDP2 train structured layers as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

PROGRAM = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
import kmatrix as km

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = km.nn.Embedding(20, 8, structure=km.LowRank(4), dtype=torch.float64)
        self.conv = km.nn.Conv2d(1, 2, 3, padding=1, structure=km.Monarch(2), dtype=torch.float64)
        self.mix = km.nn.Linear(16, 8, structure=km.BlockLowRank(2), dtype=torch.float64)
        self.turn = km.nn.Linear(8, 8, structure=km.Butterfly(), dtype=torch.float64)
        self.wave = km.nn.Linear(8, 8, structure=km.LowRank(2), dtype=torch.complex128)
        self.head = km.nn.Linear.from_matrix(self.embed.matrix)

    def forward(self, index):
        x = self.conv(self.embed(index).unsqueeze(1)).transpose(1, 2).flatten(-2)
        return self.head(self.wave(self.turn(self.mix(x)).to(torch.complex128)).real)


def make():
    torch.manual_seed(0)
    return Net()


def train(model, index, steps=3):
    optimizer = torch.optim.AdamW(km.nn.param_groups(model, lr=1e-2, weight_decay=0.1))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(index).flatten(0, 1), index.flatten()).backward()
        optimizer.step()


dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(1)
index = torch.randint(20, (4, 6))
alone = make()
train(alone, index)
mesh = init_device_mesh("cpu", (2,))
for way in ("ddp", "fsdp", "fsdp-placed"):
    together = make()
    if way == "ddp":
        wrapped = DistributedDataParallel(together)
    else:
        placement = km.nn.shard_placement(2) if way == "fsdp-placed" else None
        wrapped = fully_shard(together, mesh=mesh, shard_placement_fn=placement)
        assert all(isinstance(p, DTensor) for p in together.parameters())
        if placement:
            assert all(p.to_local().numel() * 2 == p.numel() for p in together.embed.parameters())
    train(wrapped, index[rank::2])
    for (name, got), want in zip(together.named_parameters(), alone.parameters(), strict=True):
        got = got.full_tensor() if isinstance(got, DTensor) else got
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9, msg=lambda text: f"{way}, {name}: {text}")
    print(way, "learns the same")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err[-3000:]
        assert out.splitlines() == [f"{way} learns the same" for way in ("ddp", "fsdp", "fsdp-placed")]
