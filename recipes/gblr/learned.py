"""Boxes that learn where they stand along with the model, by the loop that all other methods are trained by."""

from typing import Any

import torch
from methods import dense_matrices, match_size
from shared import Schedule, bar, rate
from subjects import Subject
from torch import nn

import kmatrix as km
from kmatrix.fitting import fit_boxes
from kmatrix.structures.gaudi import Gaudi, GaudiMatrix

STRUCTURE_RATES = {"gblr": {"scratch": 3e-3, "dense": 1e-3}, "gblr-begun": {"scratch": 3e-3}}
"""Of widths and starts, which are shares of a side; for all runs alike, see README.md."""


def from_weight(weight: torch.Tensor, structure: Gaudi) -> GaudiMatrix:
    """The boxes that ``km.fit`` finds in a weight within the budget, by the quick one of its ways."""
    m, n = weight.shape
    cost = structure.hardened.num_params(m, n)
    found = fit_boxes(weight.detach(), structure.count(m, n), cost, rounds=3, thorough=False)
    left, right = (side.to(weight.detach()) for side in found.extended(weight.detach()))
    return GaudiMatrix.from_boxes((m, n), found.boxes, left, right, structure)


def from_random(shape: tuple[int, int], structure: Gaudi) -> GaudiMatrix:
    """The boxes that a fresh ``km.GBLR`` has, with numbers of the same size outside of them."""
    drawn = structure.hardened.random(*shape)
    count = len(drawn.boxes)
    content = [
        torch.randn(count, side) * numbers.std()
        for side, numbers in zip(shape, drawn.parameters(), strict=True)
    ]
    return GaudiMatrix.from_boxes(shape, drawn.boxes, *content, structure=structure)


def put_boxes(model: nn.Module, method: str, start: str, budget: float) -> None:
    """Boxes that learn in the place of the matrices of a dense model, with its values if they start from dense."""
    structure = Gaudi(budget=budget)
    for name, dense in dense_matrices(model).items():
        m, n = dense.weight.shape
        if start == "dense":
            layer = km.nn.Linear.from_matrix(from_weight(dense.weight, structure), dense.bias)
        elif method == "gblr-begun":
            layer = km.nn.Linear.from_matrix(from_random((m, n), structure), dense.bias)
        else:
            layer = km.nn.Linear(n, m, structure=structure)
        if start == "scratch":
            match_size(layer.matrix, dense.weight)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def train_boxes(
    model: nn.Module,
    subject: Subject,
    schedule: Schedule,
    title: str,
    method: str,
    start: str,
    budget: float,
    first_batch: int,
    seed: int,
) -> tuple[list[float], dict[str, Any]]:
    """Replace, train and harden in place: the losses, and what hardening did to that of a batch.

    From scratch the boxes of ``gblr`` cost at first what dense matrices do, and meet the budget after 60 % of the
    steps; all others begin within it. Then they move within it until they are cropped at the end.
    """
    torch.manual_seed(seed)
    put_boxes(model, method, start, budget)
    boxes = {id(p) for m in model.modules() if isinstance(m, GaudiMatrix) for p in (m.widths, m.starts)}
    numbers = [p for p in model.parameters() if id(p) not in boxes]
    groups = [
        {"params": [p for p in numbers if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in numbers if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.98))
    plan = km.nn.Schedule(
        schedule.steps, sigma=km.nn.Schedule.sigma if (method, start) == ("gblr", "scratch") else None
    )
    learning = km.nn.StructureLearning(
        optimiser,
        model,
        budget,
        schedule.steps,
        lr=STRUCTURE_RATES[method][start],
        schedule=plan,
        seed=seed,
    )
    full = [group["lr"] for group in optimiser.param_groups]
    losses: list[float] = []
    model.train()
    with bar() as progress:
        shown = progress.add_task(title, total=schedule.steps, loss=float("nan"))
        for step in range(schedule.steps):
            for group, lr in zip(optimiser.param_groups, full, strict=True):
                group["lr"] = lr * rate(schedule, step)
            loss = subject.loss(model, subject.batch(first_batch + step))
            loss.backward()
            nn.utils.clip_grad_norm_(numbers, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            progress.update(shown, advance=1, loss=losses[-1])
    model.eval()
    learning.remove()
    with torch.no_grad():
        batch = subject.batch(first_batch)
        before = subject.loss(model, batch).item()
        km.nn.harden_(model, budget)
        after = subject.loss(model, batch).item()
    return losses, {"loss_before_hardening": before, "loss_after_hardening": after}
