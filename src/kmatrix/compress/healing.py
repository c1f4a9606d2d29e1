"""``heal``: a short fine-tuning of a compressed model, from data, from what the dense model says, or from both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.compress._progress import Step, showing
from kmatrix.compress.calibrate import Forward, default_forward, tensors_of
from kmatrix.nn import param_groups

Loss = Callable[[Any, Any], Tensor]
"""The loss of an output for a batch: ``loss(output, batch)``."""
WARM = 0.1
"""Share of the steps in which the learning rate rises; afterwards it falls along a cosine."""
LARGEST_GRADIENT = 1.0
"""Norm to which the gradients of all parameters together are cut."""
LOOKS = 6
"""How often the state is compared with the best one."""
PROBES = 16
"""First batches, held out, on which states are compared where nothing else is given."""
SHARE = 8
"""Of few batches, one in this many is held out."""


@dataclass(frozen=True)
class HealReport:
    """What ``heal`` did.

    Attributes:
        losses: of every step, averaged over processes.
        scores: ``(step, score)`` at every look, the first before any step: what ``validate`` gave, or else the loss of
            the first batches, which are held out (unless there are few), in evaluation mode. Lower is better.
        best_step: after how many steps the state was that was kept.
        seconds: spent.
        interrupted: whether Ctrl-C ended it; the best state is kept all the same.
    """

    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...]
    best_step: int
    seconds: float
    interrupted: bool = False

    def __str__(self) -> str:
        if not self.scores:
            return "no steps"
        scores = dict(self.scores)
        return (
            f"{len(self.losses)} steps in {self.seconds:.1f} s: from {self.scores[0][1]:.4g} to "
            f"{scores[self.best_step]:.4g} after {self.best_step} steps"
        )


def heal(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss | None = None,
    *,
    teacher: nn.Module | None = None,
    steps: int = 200,
    lr: float = 3e-4,
    mix: float = 0.5,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    forward: Forward | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    progress: bool | Step = True,
) -> HealReport:
    """Train a compressed model for a few steps, and keep its best state.

    AdamW with the parameter groups of ``km.nn.param_groups``, a warm-up and a cosine. In a process group
    (``torchrun``) every process takes its own batches, and gradients are averaged (``DistributedDataParallel``).

    Args:
        model: trained in place; left in the mode it had.
        data: batches, taken again from the beginning when they end.
        loss: ``loss(output, batch)``. By default the last item of a batch (``labels`` or ``targets`` of a dict) is the
            target: cross-entropy for whole numbers, mean squares for others; with a teacher, none.
        teacher: the dense model, whose outputs the model is drawn to: as probabilities, by the Kullback-Leibler
            divergence.
        steps: how many.
        lr: largest learning rate.
        mix: weight of the teacher where there is a loss as well; the loss has the rest.
        temperature: at which probabilities are compared.
        weight_decay: of AdamW.
        forward: runs a model on a batch, ``forward(model, batch)``.
        validate: gives a score to the model, lower being better; the loss of the first batches if not given.
        progress: whether to show a bar on a terminal, or a function ``(what, done, total)``.

    Raises:
        ArgumentError: if a number is out of range, ``data`` is empty or cannot be begun again, there is nothing to
            learn from, or the loss is not finite in the first step.
        DtypeError: if ``data`` is not iterable.

    Example:
        >>> import copy, torch, kmatrix as km
        >>> dense = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> x = [torch.randn(16, 32) for _ in range(4)]
        >>> model = copy.deepcopy(dense)
        >>> _ = km.compress_(model, 0.5, calibration=x, verify_speed=False)
        >>> report = km.heal(model, x, teacher=dense, steps=20)
        >>> report.scores[-1][1] <= report.scores[0][1]
        True
    """
    began = time.perf_counter()
    check_size("heal", "steps", steps)
    _check_number("lr", lr, math.inf)
    _check_number("temperature", temperature, math.inf)
    _check_number("mix", mix, 1.0)
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        way_out = "pass an iterable of batches"
        raise DtypeError(complaint("heal", "data", type(data).__name__, "not iterable", way_out))
    healer = _Healer(model, loss, teacher, mix, temperature, forward or default_forward, validate)
    was_training = {module: module.training for module in model.modules()}
    try:
        with showing("heal", progress) as step:
            return healer.run(data, steps, lr, weight_decay, step, began)
    finally:
        for module, training in was_training.items():
            module.training = training


def _check_number(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= most:
        reason = f"not a number over 0 and at most {most:g}" if most < math.inf else "not a positive number"
        raise ArgumentError(complaint("heal", name, value, reason, "pass for example 0.5"))


class _Healer:
    """One training run: what is minimised, and the best state so far."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None,
        teacher: nn.Module | None,
        mix: float,
        temperature: float,
        forward: Forward,
        validate: Callable[[nn.Module], float] | None,
    ) -> None:
        self.model, self.forward, self.validate = model, forward, validate
        self.teacher, self.temperature = teacher, temperature
        self.loss = loss if loss is not None or teacher is not None else default_loss
        self.mix = 0.0 if teacher is None else mix if loss is not None else 1.0
        self.losses: list[float] = []
        self.scores: list[tuple[int, float]] = []
        self.probes: list[Any] = []
        self.best: dict[str, Any] | None = None
        self.best_step = 0

    def run(
        self, data: Iterable[Any], steps: int, lr: float, weight_decay: float, step: Step, began: float
    ) -> HealReport:
        trained = self._wrapped()
        groups = param_groups(self.model, lr=lr, weight_decay=weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: rate(k, steps))
        interrupted, held_out = False, 0
        look = max(1, steps // LOOKS)
        try:
            if self.validate is None:
                self.probes, held_out = _probes(data)
            self._look(0)
            for k, batch in enumerate(_endless(data, steps, held_out), 1):
                self.model.train()
                self._one_step(trained, optimiser, batch)
                schedule.step()
                step(f"healing: loss {self.losses[-1]:.4g}", k, steps)
                if k % look == 0 or k == steps:
                    self._look(k)
        except KeyboardInterrupt:
            interrupted = True
        if self.best is not None:
            self.model.load_state_dict(self.best)
        seconds = time.perf_counter() - began
        return HealReport(tuple(self.losses), tuple(self.scores), self.best_step, seconds, interrupted)

    def _wrapped(self) -> nn.Module:
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(self.model)

    def _one_step(self, trained: nn.Module, optimiser: torch.optim.Optimizer, batch: Any) -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            value = self._objective(self.forward(trained, batch), batch)
            if not self.losses and not math.isfinite(float(value.detach())):
                reason = "it is not finite in the first step"
                way_out = "look at the batches and at the outputs of the model"
                raise ArgumentError(complaint("heal", "loss", float(value.detach()), reason, way_out))
            value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        if bool(torch.isfinite(norm)):  # a batch that overflows is passed over
            optimiser.step()
        self.losses.append(_mean_over_processes(float(value.detach())))

    def _objective(self, output: Any, batch: Any) -> Tensor:
        terms = []
        if self.loss is not None and self.mix < 1:
            terms.append((1 - self.mix) * self.loss(output, batch))
        if self.teacher is not None:
            self.teacher.eval()
            with torch.no_grad():
                said = self.forward(self.teacher, batch)
            terms.append(self.mix * divergence(output, said, self.temperature))
        return torch.stack(terms).sum()

    def _look(self, done: int) -> None:
        """Score the state, and keep it if it is the best so far."""
        self.model.eval()
        if self.validate is not None:
            score = float(self.validate(self.model))
        else:
            with torch.no_grad():
                found = [
                    float(self._objective(self.forward(self.model, batch), batch)) for batch in self.probes
                ]
            if not found:
                way_out = "pass at least one batch"
                raise ArgumentError(complaint("heal", "data", "nothing", "it has no batches", way_out))
            score = sum(found) / len(found)
        score = _mean_over_processes(score)
        if self.best is None or not score >= min(s for _, s in self.scores):
            self.best, self.best_step = _copied(self.model), done
        self.scores.append((done, score))


def rate(k: int, steps: int) -> float:
    """The learning rate at step ``k`` as a share of the largest: a warm-up, then a cosine towards zero."""
    warm = max(1, round(WARM * steps))
    if k < warm:
        return (k + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (k - warm) / max(1, steps - warm)))


def default_loss(output: Any, batch: Any) -> Tensor:
    """Cross-entropy for whole numbers and mean squares for others, against the last item of the batch.

    A model that gives a loss itself (a scalar, alone or among its outputs) is believed.

    Raises:
        ArgumentError: if the batch has no target.
    """
    outputs = tensors_of(output)
    own = [t for t in outputs if t.ndim == 0]
    if own:
        return own[0]
    target: Any = None
    if isinstance(batch, dict):
        target = next((batch[key] for key in ("labels", "targets", "target", "y") if key in batch), None)
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        target = batch[-1]
    if not isinstance(target, Tensor) or not outputs:
        reason, way_out = "neither a loss nor a teacher, and batches without a target", "pass one of them"
        raise ArgumentError(complaint("heal", "loss", None, reason, way_out))
    said = outputs[0]
    if target.is_floating_point():
        return functional.mse_loss(said, target)
    return functional.cross_entropy(said.flatten(0, -2), target.flatten())


def divergence(output: Any, said: Any, temperature: float) -> Tensor:
    """``T^2 KL(softmax(said / T) || softmax(output / T))`` of the first outputs, a mean over their vectors."""
    ours, theirs = (
        next(t for t in tensors_of(o) if t.ndim > 0 and t.is_floating_point()) for o in (output, said)
    )
    ours, theirs = (torch.log_softmax(t / temperature, -1).flatten(0, -2) for t in (ours, theirs))
    return temperature**2 * functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def _probes(data: Iterable[Any]) -> tuple[list[Any], int]:
    """Batches to compare states on, and how many batches at the beginning of every round are held out for it."""
    size = len(data) if isinstance(data, Sized) else PROBES * SHARE
    probes = list(islice(data, max(1, min(PROBES, size // SHARE))))
    return probes, 0 if iter(data) is data or size < SHARE else len(probes)


def _endless(data: Iterable[Any], steps: int, held_out: int) -> Iterator[Any]:
    """So many batches, begun again as often as needed, without the first ones that are held out."""
    done = 0
    while done < steps:
        before = done
        for batch in islice(data, held_out, None):
            yield batch
            done += 1
            if done == steps:
                return
        if done == before and held_out:
            held_out = 0  # fewer than it seemed
        elif done == before:
            used_up = iter(data) is data
            reason = "it ended and cannot be begun again" if used_up or done else "it has no batches"
            way_out = f"pass a list or a DataLoader, or an iterator of at least {steps + PROBES} batches"
            raise ArgumentError(complaint("heal", "data", type(data).__name__, reason, way_out))


def _copied(model: nn.Module) -> dict[str, Any]:
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value
        for key, value in model.state_dict().items()
    }


def _mean_over_processes(value: float) -> float:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(shared)
    return float(shared) / dist.get_world_size()
