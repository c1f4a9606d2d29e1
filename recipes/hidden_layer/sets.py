"""The data sets, as rows of 1024 numbers: rebuilt from MNIST, or the original files where they are there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..common import data
from ..common.data.folder import bad, find
from ..common.errors import DataError
from .settings import BG_ROT, CIFAR, NOISE, SIGNS, Settings
from .variations import SIDE, correlated_noise, over, patches, rotated

WIDTH = 32
SIZE = WIDTH * WIDTH
ORIGINAL = {
    BG_ROT: (
        "mnist_all_background_images_rotation_normalized_train_valid.amat",
        "mnist_all_background_images_rotation_normalized_test.amat",
    ),
    # One file; its last 2,000 images are for testing.
    NOISE: ("mnist_noise_variations_all_1.amat",),
}
_TEST_OF_NOISE = 2_000
_LUMINANCE = (0.299, 0.587, 0.114)
_DATA_SEED = 0
"""The data sets are the same for all seeds of training."""


@dataclass(frozen=True)
class Task:
    """A data set to train and test on.

    Attributes:
        train: images ``(k, 1024)``, each pixel with mean 0 and variance 1 over them; validation comes from here.
        labels: their classes.
        test: likewise.
        test_labels: likewise.
        source: ``"original"``, ``"rebuilt"`` or ``"synthetic"``.
    """

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    source: str


@dataclass(frozen=True)
class _Raw:
    """Grey images between 0 and 1 and their classes."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    source: str = "original"


@lru_cache(maxsize=1)
def load(name: str, settings: Settings, folder: Path | None) -> Task:
    """A data set by its name; synthetic ones without a folder.

    Raises:
        DataError: if it is not there, or not what it should be.
    """
    raw = _synthetic(name, settings) if folder is None else _read(name, settings, folder)
    mean, spread = raw.train.mean(0), raw.train.std(0).clamp(min=1e-3)

    def rows(images: Tensor) -> Tensor:
        margin = (WIDTH - images.shape[-1]) // 2
        return F.pad((images - mean) / spread, (margin,) * 4).flatten(1)

    return Task(rows(raw.train), raw.labels, rows(raw.test), raw.test_labels, raw.source)


def _read(name: str, settings: Settings, folder: Path) -> _Raw:
    if name == CIFAR:
        return _grey(data.cifar10(folder), halved=False)
    if name == SIGNS:
        return _grey(data.sign_digits(folder), halved=True)
    try:
        paths = [find(folder, (file,), "original variation of MNIST") for file in ORIGINAL[name]]
    except DataError:
        return _rebuilt(name, settings, folder)
    return _original(paths)


def _original(paths: list[Path]) -> _Raw:
    """The files of Larochelle et al. 2007: lines of 784 pixels and a class."""
    tables = [_amat(path) for path in paths]
    if len(tables) == 1:
        tables = [tables[0][:-_TEST_OF_NOISE], tables[0][-_TEST_OF_NOISE:]]
    # In some copies the names of the two files are swapped: the smaller one of the rotated digits is for training.
    train, test = tables if len(paths) == 1 else sorted(tables, key=len)
    parts = [(t[:, :-1].reshape(-1, SIDE, SIDE), t[:, -1].long()) for t in (train, test)]
    return _Raw(*parts[0], *parts[1])


def _amat(path: Path) -> Tensor:
    try:
        table = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise bad(path, f"unreadable: {error}") from None
    if table.shape[1] != SIDE * SIDE + 1 or len(table) <= _TEST_OF_NOISE:
        raise bad(path, f"{table.shape[0]} lines of {table.shape[1]} numbers and not {SIDE * SIDE + 1}")
    labels = table[:, -1]
    if not (np.isin(labels, range(10)).all() and table.min() >= 0 and table[:, :-1].max() <= 1):
        raise bad(path, "pixels are not between 0 and 1 or classes not 0 to 9")
    return torch.from_numpy(table)


def _grey(images: data.Images, halved: bool) -> _Raw:
    """Luminance; all but the official test images are for training."""

    def luminance(split: data.Split) -> Tensor:
        grey = split.images.float() @ torch.tensor(_LUMINANCE) / 255
        return F.avg_pool2d(grey.unsqueeze(1), 2).squeeze(1) if halved else grey

    train = torch.cat([luminance(images.train), luminance(images.validation)])
    labels = torch.cat([images.train.labels, images.validation.labels])
    return _Raw(train, labels, luminance(images.test), images.test.labels)


def _rebuilt(name: str, settings: Settings, folder: Path) -> _Raw:
    splits = list(data.mnist(folder))
    digits, labels = torch.cat([s.images for s in splits]), torch.cat([s.labels for s in splits])
    photographs = None
    if name == BG_ROT:
        signs = _grey(data.sign_digits(folder), halved=False)
        photographs = (signs.train, signs.test)
    return vary(name, settings, digits, labels, photographs, "rebuilt")


def _synthetic(name: str, settings: Settings) -> _Raw:
    generator = torch.Generator().manual_seed(_DATA_SEED)
    count = min(settings.train, 120) + min(settings.test, 40)
    labels = torch.randint(10, (count,), generator=generator)
    if name in (CIFAR, SIGNS):
        images = torch.rand(count, WIDTH, WIDTH, generator=generator)
        return _Raw(images[:-40], labels[:-40], images[-40:], labels[-40:], "synthetic")
    digits = torch.randint(256, (count, SIDE, SIDE), generator=generator).byte()
    photographs = torch.rand(2, 20, 64, 64, generator=generator)
    return vary(name, settings, digits, labels, (photographs[0], photographs[1]), "synthetic")


def vary(
    name: str,
    settings: Settings,
    digits: Tensor,
    labels: Tensor,
    photographs: tuple[Tensor, Tensor] | None,
    source: str,
) -> _Raw:
    """Digits with the variations of a data set, in a training and a test part that share no digit and no photograph.

    Args:
        name: of the data set.
        settings: sizes and parameters of the variation.
        digits: bytes ``(k, 28, 28)``.
        labels: their classes.
        photographs: grey ones for the backgrounds of the training and of the test part.
        source: noted in the result.
    """
    generator = torch.Generator().manual_seed(_DATA_SEED)
    order = torch.randperm(len(digits), generator=generator)
    train = min(settings.train, len(digits) - min(settings.test, len(digits) // 4))
    parts = []
    for part, which in enumerate((order[:train], order[train : train + settings.test])):
        images = digits[which].float() / 255
        if name == NOISE:
            back = correlated_noise(len(which), settings.noise, settings.bandwidth, generator)
        else:
            assert photographs is not None
            images = rotated(images, torch.rand(len(which), generator=generator) * (2 * math.pi))
            back = patches(photographs[part], len(which), settings.spread, generator)
        parts.append((over(images, back), labels[which]))
    return _Raw(*parts[0], *parts[1], source)
