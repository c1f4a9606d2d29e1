"""Images, and the permutations of their pixels that the recipe takes away again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import kmatrix as km

from ..common import Run, data
from ..common.data.images import Images, Split

CLASSES = 10
KINDS = ("none", "bit-reversal", "rows-columns", "pixels")
RANKS = {"none": 2, "bit-reversal": 2, "rows-columns": 2, "pixels": 1}
"""2 where rows and columns are permuted each on their own, 1 where all pixels are."""


@dataclass(frozen=True)
class Task:
    """Square images whose side is a power of two, as they were before any permutation.

    Attributes:
        name: of the data.
        train: bytes ``(count, channels, side, side)``, and their classes.
        validation: to choose by.
        test: to report.
    """

    name: str
    train: Split
    validation: Split
    test: Split

    @property
    def side(self) -> int:
        """Pixels in a row."""
        return self.train.images.shape[-1]

    @property
    def channels(self) -> int:
        """1 if grey, 3 if not."""
        return self.train.images.shape[1]


def load(name: str, counts: tuple[int, int], run: Run, *, synthetic_side: int | None = None) -> Task:
    """A data set at 32 x 32; ``counts`` limits the training and the test images.

    Args:
        name: ``"mnist"`` (28 x 28, two black pixels added on each side), ``"sign-digits"`` (64 x 64 colour, means of
            2 x 2 pixels), ``"cifar10"`` or ``"synthetic"``.
        counts: the most training and test images to use.
        run: says where the data are.
        synthetic_side: make blobs of this size instead, with the channels of the data.
    """
    if name == "synthetic" or synthetic_side is not None:
        channels = 1 if name in ("mnist", "synthetic") else 3
        few = (min(96, 8 * run.world), 4, 4) if run.dry else (96, 32, 32)
        parts = [blobs(count, synthetic_side or 8, channels, seed) for seed, count in enumerate(few)]
        return Task(name, *parts)
    readers = {"mnist": data.mnist, "sign-digits": data.sign_digits, "cifar10": data.cifar10}
    images: Images = readers[name](run.data())
    most = (counts[0], counts[1], counts[1])
    found = [Split(squared(s.images), s.labels) for s in images]
    # Permutations are learned from all training images, without labels; the network sees the first ones.
    validation, test = (Split(s.images[:m], s.labels[:m]) for s, m in zip(found[1:], most[1:], strict=True))
    return Task(name, found[0], validation, test)


def squared(images: Tensor) -> Tensor:
    """``(count, channels, 32, 32)`` from grey images of 28 x 28 or colour ones of 32 x 32 or 64 x 64."""
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    side = images.shape[-1]
    if side == 28:
        return torch.nn.functional.pad(images, (2, 2, 2, 2))
    if side == 64:
        blocks = images.reshape(len(images), -1, 32, 2, 32, 2).to(torch.int16)
        return ((blocks.sum((3, 5)) + 2) // 4).to(torch.uint8)
    return images.contiguous()


def blobs(count: int, side: int, channels: int, seed: int) -> Split:
    """One bright spot on a dark gradient; its place tells the class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    angle = 2 * math.pi * labels / CLASSES + 0.2 * torch.randn(count, generator=draw)
    middle = (side - 1) / 2
    centre = middle * (1 + 0.55 * torch.stack([torch.sin(angle), torch.cos(angle)], 1))
    centre = centre + 0.04 * side * torch.randn(count, 2, generator=draw)
    at = torch.arange(side, dtype=torch.float32)
    far = [((at - centre[:, k : k + 1]) / (0.22 * side)) ** 2 for k in (0, 1)]
    spot = torch.exp(-0.5 * (far[0][:, :, None] + far[1][:, None, :]))
    slope = 0.25 * torch.rand(count, 1, 1, generator=draw) * (at[:, None] + 0.5 * at) / side
    grey = (180 * spot + 60 * slope).round().clamp(0, 255).to(torch.uint8)
    return Split(grey.unsqueeze(1).expand(-1, channels, -1, -1).contiguous(), labels)


@dataclass(frozen=True)
class Scramble:
    """A fixed permutation of the pixels: ``scrambled[k] = image[index[k]]``.

    Attributes:
        kind: one of ``KINDS``.
        index: of all pixels, row by row.
        rank: 2 if it permutes rows and columns each on their own.
    """

    kind: str
    index: Tensor
    rank: int

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(..., side, side)`` with their pixels permuted."""
        return images.flatten(-2)[..., self.index].reshape(images.shape)


def scramble(kind: str, side: int, seed: int) -> Scramble:
    """The permutation of a kind; the random ones depend on the seed."""
    draw = torch.Generator().manual_seed(90_001 + seed)
    if kind == "pixels":
        return Scramble(kind, torch.randperm(side * side, generator=draw), RANKS[kind])
    if kind == "rows-columns":
        rows, columns = (torch.randperm(side, generator=draw) for _ in range(2))
    elif kind == "bit-reversal":
        rows = columns = (km.transforms.bit_reversal(side) @ torch.arange(float(side))).detach().long()
    else:
        rows = columns = torch.arange(side)
    return Scramble(kind, grid(rows, columns), RANKS[kind])


def grid(rows: Tensor, columns: Tensor) -> Tensor:
    """The permutation of all pixels that permutes rows and columns."""
    return (rows[:, None] * len(columns) + columns).flatten()


def inverse(index: Tensor) -> Tensor:
    """``x[index][inverse(index)] == x``."""
    return torch.from_numpy(np.argsort(index.numpy()))
