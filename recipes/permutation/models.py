"""What classifies the images."""

from __future__ import annotations

from torch import Tensor, nn


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
