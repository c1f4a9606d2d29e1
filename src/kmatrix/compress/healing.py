"""``heal``: a short fine-tuning of a compressed model, from data, from what the dense model says, or from both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kmatrix._checks import check_module, check_size
from kmatrix._tables import counted
from kmatrix.compress._progress import Step, showing
from kmatrix.compress._training import Aim, Training, batches_of, check_number, in_its_mode
from kmatrix.compress._training import rate as rate
from kmatrix.compress.batches import Forward
from kmatrix.compress.losses import Loss
from kmatrix.compress.losses import divergence as divergence
from kmatrix.nn import param_groups


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
        number: what the scores are, such as ``"loss"``.
        judged: by what, such as ``"on the held-out batches"``.
    """

    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...]
    best_step: int
    seconds: float
    interrupted: bool = False
    number: str = "score"
    judged: str = "on the first batches"

    def __str__(self) -> str:
        if not self.scores:
            return "no steps"
        scores = dict(self.scores)
        ended = ", ended by Ctrl-C" if self.interrupted else ""
        spent = f"{counted(len(self.losses), 'step')} in {self.seconds:.1f} s"
        before, best = self.scores[0][1], scores[self.best_step]
        if self.best_step == 0:
            unchanged = (
                f"no step was better {self.judged}; the model is unchanged ({self.number} {before:.4g})"
            )
            return f"{spent}: {unchanged}{ended}"
        after = f"after {counted(self.best_step, 'step')}"
        return f"{spent}: {self.number} {self.judged} from {before:.4g} to {best:.4g} {after}{ended}"


def heal(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss | None = None,
    *,
    teacher: nn.Module | None = None,
    steps: int = 200,
    lr: float = 3e-5,
    mix: float = 0.5,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    forward: Forward | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    progress: bool | Step = True,
) -> HealReport:
    """Train a compressed model for a few steps, and keep its best state.

    AdamW with the parameter groups of ``km.nn.param_groups``, a warm-up and a cosine. Numbers of 16 bits are trained as
    copies of 32. Tensors of a batch are taken to the device of the model. Whatever is raised, and after Ctrl-C, the
    model has its best state. In a process group (``torchrun``) every process takes its own batches, and gradients are
    averaged (``DistributedDataParallel``).

    Args:
        model: trained in place; left in the mode it had, without gradients. Where it is in ``train()`` but for parts of
            it, those (frozen norms) stay in ``eval()``.
        data: batches, taken again from the beginning when they end. A loader that shuffles gives the batches that are
            held out again, in another order: pass ``validate`` there.
        loss: ``loss(output, batch)``. By default the last item of a batch (``labels`` or ``targets`` of a dict) is the
            target: cross-entropy for whole numbers, mean squares for others; with a teacher, none.
        teacher: the dense model, left in the mode it had, whose outputs the model is drawn to: as probabilities, by the
            Kullback-Leibler divergence.
        steps: how many.
        lr: largest learning rate; low, because a short fine-tuning with that of the training first harms what is left.
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
    check_module("heal", model)
    check_size("heal", "steps", steps)
    check_number("heal", "lr", lr)
    aim = Aim(loss, teacher, mix, temperature, forward, validate)
    aim.check("heal")
    data = batches_of("heal", data)
    with showing("heal", progress) as step:
        return healed(model, data, aim, steps, lr, weight_decay, step)


def healed(
    model: nn.Module,
    data: Iterable[Any],
    aim: Aim,
    steps: int,
    lr: float,
    weight_decay: float,
    step: Step,
    where: str = "heal",
    first: Training | None = None,
) -> HealReport:
    """What ``heal`` does, once its arguments have been checked; after another run with the batches that it left."""
    began = time.perf_counter()
    training = Training(where, "healing", model, aim)
    if first is not None:
        training.go_on(first)
    with in_its_mode(model, aim.teacher):
        groups = param_groups(model, lr=lr, weight_decay=weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
        training.run(data, steps, optimiser, step)
    return HealReport(
        tuple(training.losses),
        tuple(training.scores),
        training.best_step,
        time.perf_counter() - began,
        training.interrupted,
        *training.words(data),
    )
