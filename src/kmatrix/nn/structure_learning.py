"""Learning where boxes stand and how wide they are: what is done to widths and starts after every optimiser step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from kmatrix._checks import check_module, check_positive, check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.nn.hardening import affordable, gaudi_matrices
from kmatrix.nn.structure_schedule import Schedule, check_schedule
from kmatrix.structures.gaudi import GaudiMatrix
from kmatrix.structures.gaudi.budget import cost, project, shrink, within_reach
from kmatrix.structures.gaudi.mask import checked_sigma

Method = Literal["projection", "shrink"]
STRUCTURE_BETAS = (0.0, 0.999)
"""Of Adam for widths and starts: without momentum, which would carry boxes past where they should stop."""


class StructureLearning:
    """What lets any optimiser learn boxes: a proximal step on all widths after every step of its own.

    It attaches itself to the optimiser. The widths and starts of all ``km.Gaudi`` matrices of a model become a group of
    parameters with a learning rate of their own; after every ``optimizer.step()``

    - starts are taken modulo 1, on their circle;
    - widths make a proximal step towards the budget, which all matrices share: what each gets is learned. A unit of
      width costs one multiplication wherever it is, and all widths together may cost ``budget`` times what the dense
      matrices would;
    - the Gaussian of the masks grows towards exact boxes, as the schedule has it;
    - from time to time boxes that are dead on both sides get a new place.

    In a process group every process does the same to the same numbers, so that nothing is sent.

    Args:
        optimizer: an optimiser of torch, made of the parameters of the model; those of the structure are taken out of
            the groups that hold them. ``LBFGS``, which knows no groups, is refused. Schedules of learning rates come
            after this: they count the groups when they are made.
        model: holds the matrices. Widths and starts without ``requires_grad`` stay as they are; what such widths cost
            is part of the budget.
        budget: all widths together, as a fraction of the multiplications of the dense matrices.
        steps: how many there will be.
        lr: of widths and starts, which are shares of a side; schedules of the optimiser apply to it as to others.
        method: ``"projection"`` onto a budget that falls from the present cost, exactly met at each step; ``"shrink"``
            by a soft threshold at each step at which they cost more than that, as the paper has it, but not below it.
        shrinkage: for ``"shrink"``, the sum of the thresholds of all steps, as a share of a side; the threshold
            follows the learning rate.
        betas: of Adam and its kin, for widths and starts; others ignore it.
        schedule: when, over the same number of steps; by default the budget is met after 60 % of them.
        revive_every: steps between looks for dead boxes.
        seed: of the places that they get.

    Raises:
        ArgumentError: if the model has no ``km.Gaudi`` matrix, one is the model itself or inside another matrix, a
            number is out of range, ``schedule`` is for another number of steps, or ``optimizer`` is ``LBFGS``.
        DtypeError: if ``optimizer`` is no optimiser of torch, or ``schedule`` no ``Schedule``.

    Example:
        >>> import torch, kmatrix as km
        >>> model = torch.nn.Sequential(km.nn.Linear(16, 16, structure=km.Gaudi()), torch.nn.ReLU())
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> learning = km.nn.StructureLearning(optimizer, model, budget=0.25, steps=20)
        >>> for x in torch.randn(20, 8, 16):
        ...     optimizer.zero_grad()
        ...     (model(x) - x).square().mean().backward()
        ...     optimizer.step()
        >>> learning.cost < 0.2501, km.nn.harden_(model, budget=0.25), model[0].matrix.boxes.cost  # 0.25 * 16 * 16
        (True, ['0'], 64)

    Reference: Lee and Kim, arXiv 2310.18882 (ICLR 2024), where one target of the mean width is shared by all layers.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        budget: float,
        steps: int,
        *,
        lr: float = 3e-3,
        method: Method = "projection",
        shrinkage: float = 4.0,
        betas: tuple[float, float] = STRUCTURE_BETAS,
        schedule: Schedule | None = None,
        revive_every: int = 50,
        seed: int = 0,
    ) -> None:
        check_module("StructureLearning", model)
        if not isinstance(optimizer, Optimizer):
            got, way_out = type(optimizer).__name__, "pass for example torch.optim.AdamW(model.parameters())"
            raise DtypeError(
                complaint("StructureLearning", "optimizer", got, "not an optimiser of torch", way_out)
            )
        if isinstance(optimizer, LBFGS):
            reason = "it trains all parameters together, at one learning rate"
            way_out = "pass one with groups, for example torch.optim.AdamW(model.parameters())"
            raise ArgumentError(complaint("StructureLearning", "optimizer", "LBFGS", reason, way_out))
        check_size("StructureLearning", "steps", steps)
        check_size("StructureLearning", "revive_every", revive_every)
        for name, value in (("budget", budget), ("lr", lr), ("shrinkage", shrinkage)):
            check_positive("StructureLearning", name, value)
        if method not in get_args(Method):
            way_out = f"use one of {get_args(Method)}"
            raise ArgumentError(complaint("StructureLearning", "method", repr(method), "unknown", way_out))
        self.matrices = list(gaudi_matrices("StructureLearning", model).values())
        affordable("StructureLearning", self.matrices, budget)
        self._homes = [
            (module, key, child)
            for module in model.modules()
            for key, child in module._modules.items()
            if isinstance(child, GaudiMatrix)
        ]
        self.optimizer, self.budget, self.method, self.shrinkage = optimizer, budget, method, shrinkage
        check_schedule("StructureLearning", schedule, steps)
        self.schedule = schedule or Schedule(steps)
        self.revive_every, self.seed, self._lr = revive_every, seed, lr
        self.done, self.revived = 0, 0
        self._dense = sum(a.shape[0] * a.shape[1] for a in self.matrices)
        self._sizes = torch.cat([_sizes(a) for a in self.matrices])
        self._first = max(self.cost, budget)
        self._group = _own_group(optimizer, self.matrices, lr, betas)
        self._set_sigma()
        self._hook = optimizer.register_step_post_hook(lambda *_: self.step())

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The widths and starts of all matrices."""
        return list(_structural(self.matrices))

    @property
    def cost(self) -> float:
        """All widths together, not rounded, as a fraction of the multiplications of the dense matrices."""
        return cost(self._widths(), self._sizes) / self._dense

    @property
    def target(self) -> float:
        """What they may cost after the next step."""
        return self._first + (self.budget - self._first) * self.schedule.progress(self.done)

    @torch.no_grad()
    def step(self) -> None:
        """What follows a step of the optimiser, which calls it.

        Once the matrices are no longer where they were, as after ``harden_``, it warns and is removed.
        """
        if all(module._modules.get(key) is not child for module, key, child in self._homes):
            warnings.warn(
                "StructureLearning: the matrices that this optimiser trains are no longer in the model (harden_ "
                "replaces them); make a new optimiser of its parameters to train on",
                stacklevel=4,
            )
            self.remove()
            return
        self.done += 1
        for matrix in self.matrices:
            if matrix.starts.requires_grad:
                matrix.starts.remainder_(1.0).nan_to_num_(nan=0.0)  # where training has diverged
        self._write(self._nearer(self._widths()))
        if self.done % self.revive_every == 0 and self.schedule.progress(self.done) < 1:
            generator = torch.Generator().manual_seed(self.seed + self.done)
            free = [a for a in self.matrices if a.widths.requires_grad and a.starts.requires_grad]
            self.revived += sum(matrix.revive_(generator) for matrix in free)
        self._set_sigma()

    def _nearer(self, widths: Tensor) -> Tensor:
        counts = torch.tensor([matrix.widths.numel() for matrix in self.matrices], device=widths.device)
        learns = torch.tensor([matrix.widths.requires_grad for matrix in self.matrices], device=widths.device)
        free = learns.repeat_interleave(counts)
        own, sizes = widths[free], self._sizes[free]
        allowed = max(0.0, self.target * self._dense - cost(widths[~free], self._sizes[~free]))
        if self.method == "projection":
            nearer = project(own, sizes, allowed)
        else:
            over = cost(own, sizes) > allowed
            slowed = self.optimizer.param_groups[self._group]["lr"] / self._lr
            nearer = shrink(own, sizes, slowed * self.shrinkage / self.schedule.steps if over else 0.0)
            if over and cost(nearer, sizes) < allowed:  # boxes just over the budget would lose most of it
                nearer = project(own, sizes, allowed)
        return widths.masked_scatter(free, nearer.to(widths.dtype))

    def _widths(self) -> Tensor:
        return within_reach(torch.cat([matrix.widths.detach().flatten() for matrix in self.matrices]))

    def _write(self, widths: Tensor) -> None:
        parts = torch.split(widths, [matrix.widths.numel() for matrix in self.matrices])
        for matrix, part in zip(self.matrices, parts, strict=True):
            if not matrix.widths.requires_grad:
                continue
            matrix.widths.copy_(part.view_as(matrix.widths))

    def _set_sigma(self) -> None:
        sigma = checked_sigma("Schedule", self.schedule.sigma_at(self.done))
        for matrix in self.matrices:
            if matrix.sigma != sigma:
                matrix.sigma = sigma

    def __repr__(self) -> str:
        done = f"step {self.done} of {self.schedule.steps}"
        return f"StructureLearning({len(self.matrices)} matrices, budget={self.budget:g}, cost={self.cost:.4f}, {done})"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep to go on with, beside the model and the optimiser."""
        return {"done": self.done, "first": self._first, "revived": self.revived}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken.

        Raises:
            ArgumentError: if a number is missing or out of range.
        """
        missing = {"done", "first", "revived"} - set(state)
        if missing:
            reason, way_out = f"{sorted(missing)} missing", "pass what state_dict() gave"
            raise ArgumentError(complaint("load_state_dict", "state", dict(state), reason, way_out))
        self.done = check_size("load_state_dict", "done", state["done"], minimum=0)
        self.revived = check_size("load_state_dict", "revived", state["revived"], minimum=0)
        self._first = check_positive("load_state_dict", "first", state["first"])
        self._set_sigma()

    def remove(self) -> None:
        """Detach from the optimiser: from now on its steps are its own alone."""
        self._hook.remove()


def _sizes(matrix: GaudiMatrix) -> Tensor:
    """For each width, in the order of the parameter, how long the side is."""
    m, n = matrix.shape
    count = matrix.widths.shape[1]
    return torch.tensor([m, n], dtype=torch.float64, device=matrix.device).repeat_interleave(count)


def _own_group(
    optimizer: Optimizer, matrices: Sequence[GaudiMatrix], lr: float, betas: tuple[float, float]
) -> int:
    """Give the parameters of the structure a group of their own, the last one; its place."""
    own = [p for p in _structural(matrices) if p.requires_grad]
    ids = {id(p) for p in own}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in ids]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    group = {"params": own, "lr": lr, "weight_decay": 0.0}
    if "betas" in optimizer.defaults:
        group["betas"] = betas
    optimizer.add_param_group(group)
    return len(optimizer.param_groups) - 1


def _structural(matrices: Sequence[GaudiMatrix]) -> Iterator[nn.Parameter]:
    for matrix in matrices:
        yield from (matrix.widths, matrix.starts)
