"""The maps that mix channels between groups: what the recipe compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

import kmatrix as km

Place = Literal["before norm", "after relu"]


@dataclass(frozen=True)
class Mixing:
    """How the channels of a unit are mixed.

    Attributes:
        title: for tables.
        make: ``make(channels, groups)``, the map.
        twice: whether the channels are mixed before the first 1 x 1 convolution, too.
        place: where the map behind that convolution stands.
        always: also behind convolutions without groups, where a permutation would be a renaming of channels.
    """

    title: str
    make: Callable[[int, int], nn.Module]
    twice: bool = True
    place: Place = "after relu"
    always: bool = True


class Kaleidoscope(nn.Module):
    """``x -> K x`` along the channels, ``K`` the corner of an orthogonal kaleidoscope of the next power of two.

    That is what zero-padding to a power of two and cropping does. One term: ``n log2 n`` angles and ``n`` numbers of
    the diagonal for the padded size ``n``. It starts with uniform angles and a diagonal of random signs: the padded
    map is orthogonal.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        # A matrix of as many columns as channels pads by itself, inside the kernels.
        self.map = km.nn.Conv2d(channels, padded(channels), 1, bias=False, structure=km.OBB())

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        return cropped(self.map(x), self.channels)


class Hadamard(nn.Module):
    """``x -> H x`` along the channels, ``H`` the corner of the orthogonal Hadamard matrix of the next power of two.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        matrix = km.transforms.hadamard(padded(channels), norm="ortho", tied=True)
        self.map = km.nn.Conv2d.from_matrix(matrix.requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        extra = padded(self.channels) - self.channels
        if extra:
            x = functional.pad(x, (0, 0, 0, 0, 0, extra))
        return cropped(self.map(x), self.channels)


class Prepared(nn.Module):
    """A mixing map for inference: its factors computed once, in the form that multiplies fastest.

    Args:
        mixing: what to take the numbers of; a snapshot.
    """

    def __init__(self, mixing: Kaleidoscope) -> None:
        super().__init__()
        self.channels = mixing.channels
        self.plan = km.ops.prepare(mixing.map.matrix)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        return cropped(self.plan(x.movedim(-3, -1).contiguous()).movedim(-1, -3), self.channels)


def padded(channels: int) -> int:
    """The next power of two."""
    return 1 << (channels - 1).bit_length()


def cropped(x: Tensor, channels: int) -> Tensor:
    """The first channels, laid out for convolutions."""
    return x[:, :channels].contiguous(memory_format=torch.channels_last)


def prepare_(model: nn.Module) -> nn.Module:
    """Put prepared maps in the place of kaleidoscopes, for inference."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Kaleidoscope):
                setattr(module, name, Prepared(child))
    return model.eval()


def _exact(channels: int, groups: int) -> nn.Module:
    return km.nn.Conv2d(channels, channels, 1, bias=False, structure=km.OBB())


def _dense(channels: int, groups: int) -> nn.Module:
    layer = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.orthogonal_(layer.weight)
    return layer


MIXINGS: Mapping[str, Mixing] = {
    "shuffle": Mixing(
        "channel shuffle", lambda c, groups: nn.ChannelShuffle(groups), twice=False, always=False
    ),
    "hadamard": Mixing("Hadamard, fixed", lambda c, groups: Hadamard(c), place="before norm"),
    "k": Mixing("K", lambda c, groups: Kaleidoscope(c)),
    "k-exact": Mixing("K without padding", _exact),
    "identity": Mixing("none", lambda c, groups: nn.Identity(), twice=False),
    "dense": Mixing("dense 1 x 1", _dense),
}
