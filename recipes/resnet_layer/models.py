"""ResNet18 for small images, and the layer that is put before its classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import kmatrix as km

from ..hidden_layer.starts import bpbp, kaleidoscope, linear

CLASSES = 10
_STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))
"""Width as a multiple of the first, and stride, of each pair of blocks."""


@dataclass(frozen=True)
class Extra:
    """One row of the table.

    Attributes:
        title: as in the table.
        layer: makes the layer for the number of features; None for no layer.
    """

    title: str
    layer: Callable[[int], nn.Module] | None

    def num_params(self, features: int) -> int:
        """Numbers in the matrix of the layer; a complex number counts as two."""
        if self.layer is None:
            return 0
        layer = self.layer(features)
        if isinstance(layer, km.nn.Linear):
            return layer.matrix.num_params
        return features * features


EXTRAS: Mapping[str, Extra] = {
    "none": Extra("none", None),
    "dense": Extra("dense", lambda n: nn.Linear(n, n)),
    "bpbp": Extra("BPBP complex, fixed P", lambda n: linear(bpbp(n, is_complex=True))),
    "k": Extra("K, one BB*", lambda n: linear(kaleidoscope(n))),
}


class Block(nn.Module):
    """Two convolutions of 3 x 3 with batch norms, added to what came in."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 with a stem of 3 x 3 and no pooling after it.

    Args:
        extra: name of the layer before the classifier, which is followed by ReLU.
        width: channels of the first stage; 64 in the original.
    """

    def __init__(self, extra: str, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        blocks, before = [], width
        for times, stride in _STAGES:
            blocks += [Block(before, times * width, stride), Block(times * width, times * width, 1)]
            before = times * width
        self.blocks = nn.Sequential(*blocks)
        make = EXTRAS[extra].layer
        self.extra = None if make is None else make(before)
        self.classifier = nn.Linear(before, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``(batch, 10)`` of images ``(batch, 3, height, width)``."""
        features = self.blocks(torch.relu(self.stem_norm(self.stem(images)))).mean((2, 3))
        if self.extra is not None:
            features = torch.relu(self.extra(features))
        scores: Tensor = self.classifier(features)
        return scores
