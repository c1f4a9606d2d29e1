"""``learn_structure``: a model's layers become sums of boxes whose places and widths are learned on data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, get_args

import torch
from torch import nn

from kmatrix._checks import check_module, check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.compress._box_layers import Kept, Start, replace_, settled_
from kmatrix.compress._box_layers import LearnedLayer as LearnedLayer
from kmatrix.compress._progress import Step, showing
from kmatrix.compress._training import Aim, Training, batches_of, check_number, in_its_mode
from kmatrix.compress.batches import Forward
from kmatrix.compress.healing import HealReport, healed
from kmatrix.compress.learn_report import LearnReport as LearnReport
from kmatrix.compress.losses import Loss
from kmatrix.nn import Schedule, StructureLearning, param_groups
from kmatrix.nn.filters import Filter
from kmatrix.nn.hardening import as_hardened, gaudi_matrices, hardened_
from kmatrix.nn.structure_learning import Method
from kmatrix.nn.structure_schedule import check_schedule
from kmatrix.structures import Gaudi

FROM_SCRATCH, FINE_TUNING = 1e-3, 3e-4
"""Learning rates of the contents."""
SLOWER = 1 / 3
"""Learning rate of widths and starts from trained weights, as a share of that of the contents: boxes that were fitted
stand where they should, nearly.
"""
WANDERING = 3e-3
"""Learning rate of widths and starts from scratch: the best of 0.001, 0.003 and 0.01 in the recipe ``gblr``."""
SPREAD_SIGMA = (2.0, 100.0)
"""The Gaussian for boxes that begin at the cost of dense layers."""
HEALING = 0.1
"""Learning rate of the healing, as a share of that of the learning."""
_WHERE = "learn_structure"


def learn_structure(
    model: nn.Module,
    budget: float,
    data: Iterable[Any],
    loss: Loss | None = None,
    *,
    steps: int = 1000,
    start: Start = "trained",
    nblocks: int | None = None,
    filter_fn: Filter | None = None,
    teacher: nn.Module | None = None,
    lr: float | None = None,
    structure_lr: float | None = None,
    method: Method = "projection",
    schedule: Schedule | None = None,
    heal_steps: int | None = None,
    mix: float = 0.5,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    forward: Forward | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
    progress: bool | Step = True,
) -> LearnReport:
    """Learn where the boxes of all layers stand and how wide they are, within one budget for the whole model.

    Linear layers become ``km.nn.Linear`` with a ``km.Gaudi`` matrix; AdamW trains the model while
    ``km.nn.StructureLearning`` brings the widths of all boxes to the budget, and which layer gets how much is learned.
    At the end the boxes are cropped to whole positions, ``km.GBLRMatrix``, exactly within the budget, and a few steps
    heal what rounding did. A layer whose boxes cost as much as the dense layer is dense again, with the same function.
    ``km.Gaudi`` layers that the model has already are learned on as they are.

    From trained weights the model is scored with its boxes cropped to the budget, before the first step and at every
    look after it, and the best state is kept. So by that score the end is never worse than the boxes that were fitted.
    It may still be worse than those boxes fine-tuned for as many steps, which is not tried.

    In a process group (``torchrun``) every process takes its own batches, and gradients are averaged. After Ctrl-C the
    boxes are brought to the budget as they are; whatever else is raised, the model has its old layers and numbers.

    Args:
        model: changed and trained in place; left in the mode it had, without gradients. ``km.Gaudi`` matrices that it
            has already stand in layers or as modules of their own, not inside other matrices.
        budget: multiplications of the replaced layers together, as a fraction of what they were, at most 1; biases
            aside.
        data: batches, taken again from the beginning when they end; some of the first ones are held out for scores.
            An iterator, which cannot be begun again, needs 16 for the scores and one for each step. Where it ends while
            the model heals, healing ends, too (in a process group that is an error, as everywhere).
        loss: ``loss(output, batch)``, as for ``km.heal``.
        steps: how many, before healing. The paper takes as many as training takes.
        start: ``"trained"`` begins with boxes fitted to the weights, as near as ``km.fit`` finds them within the
            budget; ``"scratch"`` with boxes drawn within the budget, and numbers drawn anew; ``"spread"`` with boxes
            spread evenly at the cost of the dense layers, as in the paper, which are brought to the budget. On two
            small transformers ``"scratch"`` ended better (recipe ``gblr``); where layers need very different budgets,
            ``"spread"`` can.
        nblocks: boxes in each layer; ``min(m, n)`` if not given.
        filter_fn: which layers, as for ``km.replace_linear_``; all linear ones if not given.
        teacher: the dense model, whose outputs the model is drawn to, as for ``km.heal``.
        lr: largest learning rate of a dense weight; 3e-4 from trained weights, 1e-3 from scratch if not given. Try
            others: on small models three to ten times as much was better.
        structure_lr: largest learning rate of widths and starts, which are shares of a side; if not given, a third of
            ``lr`` from trained weights, and 3e-3 from scratch.
        method: how widths are brought to the budget, ``"projection"`` or ``"shrink"``.
        schedule: when, over ``steps``, boxes that cost more meet the budget, and how soft masks are. By default after
            60 % of the steps; with exact masks, but for ``"spread"``, where the Gaussian begins at 2 and ends at 100.
        heal_steps: how many after hardening, at a tenth of ``lr``; a fifth of ``steps`` if not given.
        mix: weight of the teacher where there is a loss as well.
        temperature: at which probabilities are compared.
        weight_decay: of AdamW.
        forward: runs a model on a batch, ``forward(model, batch)``.
        validate: gives a score to the model, lower being better; the loss of the first batches if not given.
        seed: of the boxes and numbers that are drawn; batches and dropout are the caller's. Fits of trained weights
            end with what they have after 30 seconds each, which depends on the machine.
        progress: whether to show a bar on a terminal, or a function ``(what, done, total)``.

    Raises:
        ArgumentError: if a number is out of range, no layer can be replaced (none, too, if the budget is too small for
            a box), a ``km.Gaudi`` matrix is inside another matrix or is the model, ``schedule`` is for another number
            of steps, ``data`` is empty or cannot be begun again, there is nothing to learn from, or the loss is not
            finite in the first step.
        DtypeError: if ``data`` is not iterable, the model is none, or ``schedule`` is no ``Schedule``.

    Example:
        >>> import torch, kmatrix as km
        >>> model = torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.Tanh(), torch.nn.Linear(24, 24))
        >>> batches = [(x, x.flip(-1)) for x in torch.randn(64, 8, 24)]
        >>> report = km.learn_structure(model, 0.4, batches, start="scratch", steps=40)
        >>> round(report.share, 2), sum(layer.cost for layer in report.layers)  # 0.4 * 2 * 24 * 24
        (0.4, 460)

    Reference: Lee and Kim, Differentiable learning of generalized structured matrices for efficient deep neural
    networks (arXiv 2310.18882).
    """
    began = time.perf_counter()
    check_module(_WHERE, model)
    check_size(_WHERE, "steps", steps)
    heal_steps = check_size(_WHERE, "heal_steps", steps // 5 if heal_steps is None else heal_steps, minimum=0)
    budget = check_number(_WHERE, "budget", budget, 1.0)
    lr, structure_lr = _rates(start, lr, structure_lr)
    trained = start == "trained"
    aim = Aim(loss, teacher, mix, temperature, forward, validate)
    aim.check(_WHERE)
    data = batches_of(_WHERE, data)
    check_schedule(_WHERE, schedule, steps)
    gaudi_matrices(_WHERE, model, needed=False)
    schedule = schedule or Schedule(steps, sigma=SPREAD_SIGMA if start == "spread" else None)
    kept = Kept(model)
    with showing(_WHERE, progress) as step:
        dense = Training(_WHERE, "", model, aim)
        dense_score = _score(dense, data) if trained else None
        old, skipped = replace_(model, filter_fn, start, Gaudi(nblocks, budget), seed, step)
        try:
            training = Training(
                _WHERE,
                "learning the structure",
                model,
                aim,
                keeps_best=trained,
                later=heal_steps,
                as_scored=partial(as_hardened, budget=budget) if trained else nullcontext,
            )
            training.compare_as(dense)
            if trained:  # before a Gaussian softens the boxes that were fitted
                with in_its_mode(model, teacher):
                    training.begin(data)
            groups = param_groups(model, lr, weight_decay)
            optimiser = torch.optim.AdamW(groups, lr, weight_decay=weight_decay)
            learning = StructureLearning(
                optimiser, model, budget, steps, lr=structure_lr, method=method, schedule=schedule, seed=seed
            )
            training.apart = set(learning.parameters)
            costs: list[float] = []
            optimiser.register_step_post_hook(lambda *_: costs.append(learning.cost))
            with in_its_mode(model, teacher):
                training.run(data, steps, optimiser, step)
            layers = settled_(model, hardened_(model, budget))
            healing = None
            if heal_steps and not training.interrupted:
                rate = HEALING * lr
                healing = healed(
                    model, data, aim, heal_steps, rate, weight_decay, step, where=_WHERE, first=training
                )
            end_score = _end_score(training, healing, data)
        except BaseException:
            kept.restore(old)
            raise
    number, judged = training.words(data)
    return LearnReport(
        layers=layers,
        loss=training.minimised,
        losses=tuple(training.losses),
        number=number,
        judged=judged,
        dense_score=dense_score,
        scores=tuple(training.scores),
        best_step=training.best_step if trained else len(training.losses),
        end_score=end_score,
        costs=tuple(costs),
        budget=budget,
        healing=healing,
        revived=learning.revived,
        skipped=tuple(skipped),
        seconds=time.perf_counter() - began,
        interrupted=training.interrupted or (healing is not None and healing.interrupted),
    )


def _rates(start: Start, lr: float | None, structure_lr: float | None) -> tuple[float, float]:
    """The largest learning rates, of weights and of the structure.

    Raises:
        ArgumentError: if ``start`` is unknown, or a rate is not a positive number.
    """
    if start not in get_args(Start):
        way_out = f"use one of {get_args(Start)}"
        raise ArgumentError(complaint(_WHERE, "start", repr(start), "unknown", way_out))
    if lr is None:
        lr = FINE_TUNING if start == "trained" else FROM_SCRATCH
    lr = check_number(_WHERE, "lr", lr)
    if structure_lr is None:
        structure_lr = SLOWER * lr if start == "trained" else WANDERING
    return lr, check_number(_WHERE, "structure_lr", structure_lr)


def _score(training: Training, data: Iterable[Any]) -> float:
    """Of the model as it is, on batches that are put aside for it; its modes stay."""
    with in_its_mode(training.model, training.teacher):
        training.hold_out(data)
        return training.score()


def _end_score(training: Training, healing: HealReport | None, data: Iterable[Any]) -> float | None:
    """Of the model after hardening and healing; looked for anew only where nobody has seen it before."""
    if healing is not None and healing.scores:
        return dict(healing.scores)[healing.best_step]
    if training.keeps_best and training.scores:
        return dict(training.scores)[training.best_step]
    return None if training.interrupted else _score(training, data)
