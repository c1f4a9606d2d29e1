"""What classifies the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        widths: channels of each stage; every stage but the first halves the image. ResNet18 is (64, 128, 256, 512).
        blocks: of each stage; ResNet18 has two.
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...], blocks: int) -> None:
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
        self.last = nn.Linear(into, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.blocks(self.stem(x)).mean((2, 3)))
        return y


class Arranged(nn.Module):
    """A fixed arrangement of the pixels, then a network."""

    order: Tensor

    def __init__(self, order: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("order", order.clone())
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x.flatten(2)[..., self.order].reshape(x.shape))
        return y


class Mixed(nn.Module):
    """A dense matrix on the pixels of each channel, learned with the network behind it."""

    def __init__(self, pixels: int, network: nn.Module) -> None:
        super().__init__()
        self.mix = nn.Linear(pixels, pixels, bias=False)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(self.mix(x.flatten(2)).reshape(x.shape))
        return y


class Rows(nn.Module):
    """A recurrent network (GRU) that reads the image row by row."""

    def __init__(self, channels: int, side: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.GRU(channels * side, hidden, batch_first=True)
        self.last = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.read(x.transpose(1, 2).flatten(2))[0][:, -1])
        return y


def layers(inputs: int, classes: int, hidden: int) -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
