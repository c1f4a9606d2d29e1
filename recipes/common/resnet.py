"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

RESNET18 = (64, 128, 256, 512)
"""Channels of its stages; each has two blocks."""


class Block(nn.Module):
    """Two 3 x 3 convolutions around which the input goes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.around = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(torch.relu(self.norm(self.first(x)))))
        return torch.relu(y + self.around(x))


class ResNet(nn.Module):
    """The variant for small images: the first convolution has stride 1, and no pooling follows it.

    Args:
        channels: of the images.
        classes: to tell apart.
        widths: channels of each stage; every stage but the first halves the image.
        blocks: of each stage.
        extra: makes a layer before the classifier, for the number of features; ReLU follows it.

    Shape:
        Input ``(batch, channels, height, width)``, output ``(batch, classes)``.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int] = RESNET18,
        blocks: int = 2,
        extra: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages = []
        into = widths[0]
        for k, width in enumerate(widths):
            for block in range(blocks):
                stages.append(Block(into, width, 2 if k and not block else 1))
                into = width
        self.blocks = nn.Sequential(*stages)
        self.extra = None if extra is None else extra(into)
        self.last = nn.Linear(into, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.stem(x)).mean((2, 3))
        if self.extra is not None:
            features = torch.relu(self.extra(features))
        y: Tensor = self.last(features)
        return y
