"""Boxes that learn where they stand along with the model, by the loop that all other methods are trained by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import kmatrix as km

from ..common import Run
from ..common.tasks import Schedule
from ..common.training import train, warmup_cosine
from .methods import dense_matrices, match_size
from .settings import DENSE

SIGMA = (2.0, 100.0)
"""The Gaussian of the masks, where boxes begin at the cost of dense, as in the paper."""


def put_boxes(model: nn.Module, method: str, start: str, budget: float) -> None:
    """Boxes that learn in the place of the matrices of a dense model, with its values if they start from dense."""
    structure = km.Gaudi(budget=budget)
    for name, dense in dense_matrices(model).items():
        m, n = dense.weight.shape
        if start == DENSE:
            layer = km.nn.Linear.from_matrix(_from_weight(dense.weight, structure), dense.bias)
        else:
            layer = km.nn.Linear(n, m, structure=structure, device=dense.weight.device)
            if method == "gblr-cut":
                layer.matrix.spread_()
            match_size(layer.matrix, dense.weight)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def train_boxes(
    model: nn.Module,
    loss: Callable[[nn.Module, int], torch.Tensor],
    run: Run,
    schedule: Schedule,
    structure_rate: float,
    method: str,
    start: str,
    budget: float,
) -> tuple[list[float], dict[str, Any]]:
    """Train and harden in place: the losses, and what hardening did to that of the first batch.

    The boxes of ``gblr-cut`` cost at first what dense matrices do, and meet the budget after 60 % of the steps; all
    others begin within it. Then they move within it until they are cropped at the end.
    """
    matrices = [module for module in model.modules() if isinstance(module, km.GaudiMatrix)]
    placed = {id(p) for matrix in matrices for p in (matrix.widths, matrix.starts)}
    numbers = [p for p in model.parameters() if id(p) not in placed]
    optimizer = torch.optim.AdamW(parameter_groups(numbers, schedule), lr=schedule.lr, betas=(0.9, 0.98))
    steps = 1 if run.dry else schedule.steps
    sigma = SIGMA if method == "gblr-cut" else None
    learning = km.nn.StructureLearning(
        optimizer, model, budget, steps, lr=structure_rate, schedule=km.nn.Schedule(steps, sigma=sigma),
        seed=run.seed,
    )  # fmt: skip
    factor = warmup_cosine(schedule.steps, schedule.warmup)
    history = train(
        model, optimizer, loss, run, steps, schedule=factor, clip=1.0, clipped=numbers, others={"boxes": learning}
    )  # fmt: skip
    learning.remove()
    with torch.no_grad():
        before = float(loss(model, 0))
        km.nn.harden_(model, budget)
        after = float(loss(model, 0))
    return history.losses, {"loss_before_hardening": before, "loss_after_hardening": after}


def parameter_groups(parameters: list[nn.Parameter], schedule: Schedule) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases, norms and what has one dimension."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _from_weight(weight: torch.Tensor, structure: km.Gaudi) -> km.GaudiMatrix:
    """The boxes that are found in a weight within the budget, by the quick one of the ways."""
    m, n = weight.shape
    cost = structure.hardened.num_params(m, n)
    found = km.fitting.fit_boxes(weight.detach(), structure.count(m, n), cost, rounds=3, thorough=False)
    left, right = (side.to(weight.detach()) for side in found.extended(weight.detach()))
    return km.GaudiMatrix.from_boxes((m, n), found.boxes, left, right, structure)
