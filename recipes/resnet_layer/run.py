"""One run: train a ResNet18 with one kind of extra layer, and test it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kmatrix as km

from ..common import Case, Row, Run, data
from ..common.images import accuracy, jittered
from ..common.training import train
from .models import EXTRAS, ResNet18
from .settings import Settings

SIDE = 32
_SYNTHETIC = 16  # images


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Train with the paper's schedule; the last state is tested."""
    synthetic = run.dry or settings.data == "synthetic"
    images = _load("synthetic" if synthetic else settings.data, None if synthetic else run.data())
    mean, spread = _statistics(images.train.images)
    extra = case.options["extra"]
    torch.manual_seed(run.seed)
    model = ResNet18(extra, settings.width).to(run.device)
    groups = km.nn.param_groups(model, settings.rate, settings.weight_decay, optimizer="sgd")
    optimizer = torch.optim.SGD(groups, lr=settings.rate, momentum=settings.momentum)
    period = max(1, settings.steps // 4)

    def loss(model: nn.Module, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        which = run.share(batch(len(images.train), settings.batch, run.seed, step))
        moved = jittered(images.train.images[which], settings.shift, generator)
        inputs = pixels(moved, mean, spread).to(run.device)
        return F.cross_entropy(model(inputs), images.train.labels[which].to(run.device))

    history = train(
        model, optimizer, loss, run, settings.steps, schedule=lambda step: settings.decay ** (step // period)
    )
    features = model.last.in_features
    own = EXTRAS[extra].num_params(features)
    return {
        "extra": extra,
        "data": settings.data,
        "images": [len(split) for split in images],
        "features": features,
        "steps": len(history.losses),
        "loss": history.losses[-1],
        "validation": _accuracy(model, images.validation, mean, spread, run.device),
        "test": _accuracy(model, images.test, mean, spread, run.device),
        "extra_parameters": own,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


@lru_cache(maxsize=1)
def _load(name: str, folder: Path | None) -> data.Images:
    """Images of 32 x 32 with three channels."""
    if folder is None:
        generator = torch.Generator().manual_seed(0)
        parts = [
            torch.randint(256, (_SYNTHETIC, SIDE, SIDE, 3), generator=generator).byte() for _ in range(3)
        ]
        labels = torch.arange(_SYNTHETIC) % 10
        return data.Images(*(data.Split(part, labels) for part in parts))
    if name == "cifar10":
        return data.cifar10(folder)
    return data.Images(*(halved(split) for split in data.sign_digits(folder)))


def halved(split: data.Split) -> data.Split:
    """Images of half the size: means of 2 x 2 pixels."""
    channels_first = split.images.permute(0, 3, 1, 2).float()
    small = F.avg_pool2d(channels_first, 2).round().byte()
    return data.Split(small.permute(0, 2, 3, 1).contiguous(), split.labels)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, in units of 255."""
    spread, mean = torch.std_mean(images.float() / 255, dim=(0, 1, 2))
    return mean, spread


def pixels(images: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Bytes ``(k, h, w, 3)`` as normalised numbers ``(k, 3, h, w)``."""
    return ((images.float() / 255 - mean) / spread).permute(0, 3, 1, 2)


def batch(count: int, size: int, seed: int, step: int) -> Tensor:
    """Indices of a step: every image at most once in a pass."""
    size = min(size, count)
    passes, place = divmod(step, count // size)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + passes))
    return order[place * size : (place + 1) * size]


def _accuracy(
    model: nn.Module, split: data.Split, mean: Tensor, spread: Tensor, device: torch.device
) -> float:
    def scores(images: Tensor) -> Tensor:
        found: Tensor = model(pixels(images, mean, spread).to(device))
        return found

    return accuracy(scores, split.images, split.labels)
