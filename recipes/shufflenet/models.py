"""ShuffleNet v1 with 8 groups, from its definition, with any map in the place of the channel shuffle."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mixing import MIXINGS, Mixing

GROUPS = 8
STEM = 24
CHANNELS, UNITS = (384, 768, 1536), (4, 8, 4)
Ungrouped = Literal["stage", "unit"]


class Unit(nn.Module):
    """mix, 1 x 1 in groups, norm, ReLU, mix, 3 x 3 of each channel, norm, 1 x 1 in groups, norm; then the shortcut.

    With stride 2 the shortcut is an average of 3 x 3 whose channels are appended; otherwise the input, which is added.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: 1 or 2.
        first_groups: groups of the first 1 x 1 convolution.
        mixing: of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, first_groups: int, mixing: Mixing) -> None:
        super().__init__()
        self.stride = stride
        self.early = mixing.place == "before norm"
        inner = rounded(outputs / 4)
        own = outputs - inputs if stride == 2 else outputs
        self.mix_in = mixing.make(inputs, GROUPS) if mixing.twice else nn.Identity()
        self.reduce = nn.Conv2d(inputs, inner, 1, groups=first_groups, bias=False)
        self.norm_in = nn.BatchNorm2d(inner)
        mixes = mixing.always or first_groups > 1
        self.mix = mixing.make(inner, GROUPS) if mixes else nn.Identity()
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.expand = nn.Conv2d(inner, own, 1, groups=GROUPS, bias=False)
        self.norm_out = nn.BatchNorm2d(own)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)``."""
        y = self.reduce(self.mix_in(x))
        y = functional.relu(self.norm_in(self.mix(y) if self.early else y))
        y = y if self.early else self.mix(y)
        y = self.norm_out(self.expand(self.norm(self.depthwise(y))))
        if self.stride == 2:
            return functional.relu(torch.cat([y, functional.avg_pool2d(x, 3, 2, 1)], 1))
        return functional.relu(y + x)


class ShuffleNet(nn.Module):
    """ShuffleNet v1, 8 groups.

    Args:
        width: what all numbers of channels are multiplied by.
        classes: how many.
        mixing: a key of ``MIXINGS``.
        ungrouped: where the first 1 x 1 convolution has no groups: ``"stage"``, in all units of the first stage, which
            gives the numbers of parameters of arXiv 2012.14966; ``"unit"``, only in its first unit, as the ShuffleNet
            paper has it.
    """

    def __init__(
        self, width: float, classes: int, mixing: str = "shuffle", ungrouped: Ungrouped = "stage"
    ) -> None:
        super().__init__()
        channels = rounded(STEM * width)
        self.stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        units = []
        for stage, (wide, count) in enumerate(zip(CHANNELS, UNITS, strict=True)):
            for k in range(count):
                free = stage == 0 and (k == 0 or ungrouped == "stage")
                outputs = rounded(wide * width)
                first_groups = 1 if free else GROUPS
                units.append(Unit(channels, outputs, 2 if k == 0 else 1, first_groups, MIXINGS[mixing]))
                channels = outputs
        self.units = nn.Sequential(*units)
        self.classify = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # So that gradients are laid out as weights are.
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, 3, H, W)``."""
        # Maps of channels read and write channels last.
        x = x.contiguous(memory_format=torch.channels_last)
        x = functional.relu(self.norm(self.stem(x)))
        x = self.units(functional.max_pool2d(x, 3, 2, 1))
        logits: Tensor = self.classify(x.mean((2, 3)))
        return logits


def rounded(channels: float) -> int:
    """The nearest multiple of the groups, one of them at least."""
    return max(GROUPS, int(channels + GROUPS / 2) // GROUPS * GROUPS)


def parameters(model: nn.Module) -> int:
    """How many parameters are learned."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
