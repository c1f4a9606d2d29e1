"""One run: a network trained and tested, or all networks of a width timed in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

import kmatrix as km

from ..common import Case, Row, Run
from ..common.training import train
from .batches import Batches, Labelled, batches
from .clock import timed
from .models import ShuffleNet, parameters
from .settings import TIMED, Settings

TOP = 5
STEPS_OF_PAPER = (30, 60, 80)


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Train and test, or measure times, as the case says."""
    return timed(settings, case, run) if case.options["kind"] == TIMED else trained(settings, case, run)


def trained(settings: Settings, case: Case, run: Run) -> Row:
    """Train a network from its start and test what it is in the end."""
    width = next(w for w in settings.widths if w.factor == case.options["width"])
    model = ShuffleNet(width.factor, settings.classes, case.options["mixing"]).to(run.device)
    images = batches(settings, width, run)
    steps = settings.epochs * images.steps
    history = train(
        model, optimizer(model, settings, width.rate), partial(loss, settings, images), run, steps,
        schedule=schedule(settings, images.steps), every=max(images.steps, 100),
    )  # fmt: skip
    row: Row = {"parameters": parameters(model), "loss": epoch_means(history.losses, images.steps)}
    if run.dry:
        return row
    row["top1"], row["top5"] = accuracy(model, images.test())
    held_out = images.validation()
    return row if held_out is None else row | {"validation": accuracy(model, held_out)[0]}


def optimizer(model: nn.Module, settings: Settings, rate: float) -> torch.optim.SGD:
    """SGD with momentum; weight decay only for dense weights."""
    groups = km.nn.param_groups(
        model, lr=rate, weight_decay=settings.decay, optimizer="sgd", butterfly=settings.structured_rate
    )
    return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)


def loss(settings: Settings, images: Batches, model: nn.Module, step: int) -> Tensor:
    """Cross entropy on the batch of a step."""
    x, y = images.train(step)
    return functional.cross_entropy(model(x), y, label_smoothing=settings.smoothing)


def schedule(settings: Settings, per_epoch: int) -> Callable[[int], float]:
    """The share of the learning rate at a step."""
    warmup, steps = settings.warmup * per_epoch, settings.epochs * per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if settings.schedule == "step":
            return 0.1 ** sum(step >= steps * epoch // 90 for epoch in STEPS_OF_PAPER)
        left = 1 - (step - warmup) / max(1, steps - warmup)
        return left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    return factor


def accuracy(model: nn.Module, images: Iterable[Labelled]) -> tuple[float, float]:
    """Parts of the images whose class comes first, and is among the first five."""
    model.eval()
    first = among = count = 0
    with torch.inference_mode():
        for x, y in images:
            logits = model(x)
            best = logits.topk(min(TOP, logits.shape[1]), 1).indices
            first += int((best[:, 0] == y).sum())
            among += int((best == y[:, None]).any(1).sum())
            count += len(y)
    return first / count, among / count


def epoch_means(losses: list[float], per_epoch: int) -> list[float]:
    """Mean training loss of each epoch."""
    parts = [losses[k : k + per_epoch] for k in range(0, len(losses), per_epoch)]
    return [round(sum(part) / len(part), 5) for part in parts]
