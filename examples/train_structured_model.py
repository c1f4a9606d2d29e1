"""Train a small classifier with structured layers instead of dense ones, from scratch.

    python examples/train_structured_model.py

The task: which of 16 frequencies is in a noisy signal of unknown phase?
"""

import math

import torch
from torch import nn

import kmatrix as km

n, classes, batch, steps = 64, 16, 128, 150


def signals(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(classes, (batch,), generator=generator)
    phases = 2 * math.pi * torch.rand(batch, 1, generator=generator)
    angles = 2 * math.pi / n * (labels + 1).unsqueeze(1) * torch.arange(n)
    noise = torch.randn(batch, n, generator=generator)
    return torch.cos(angles + phases) + 0.7 * noise, labels


def train(model: nn.Module) -> float:
    """Train, and return the share of new signals that are told right."""
    generator = torch.Generator().manual_seed(0)
    # Each factor gets the learning rate that its size asks for, and decay only where it makes sense.
    optimizer = torch.optim.AdamW(km.nn.param_groups(model, lr=2e-3, weight_decay=0.01))
    for _ in range(steps):
        x, labels = signals(generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    with torch.no_grad():
        x, labels = signals(generator)
        return float((model(x).argmax(-1) == labels).float().mean())


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(n, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)
    )


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


dense = build()
small = build()
report = km.replace_linear_(small, km.Monarch(nblocks=8), filter_fn=lambda module, name: name != "4")
print(report)

right = {"dense": train(dense), "structured": train(small)}
for name, model in (("dense", dense), ("structured", small)):
    print(
        f"{name:10} {count(model):7,} numbers, {right[name]:.0%} of new signals told right (chance: {1 / classes:.0%})"
    )
assert right["structured"] > 0.8

# The way back, for tools that know ordinary layers only: the same function.
x, _ = signals(torch.Generator().manual_seed(1))
before = small(x)
km.densify_(small)
assert all(not isinstance(module, km.StructuredMatrix) for module in small.modules())
torch.testing.assert_close(small(x), before, rtol=1e-4, atol=1e-4)
