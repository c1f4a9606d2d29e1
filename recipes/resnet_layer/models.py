"""ResNet18 for small images, and the layer that is put before its classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

import kmatrix as km

from ..common.resnet import RESNET18, ResNet
from ..hidden_layer.starts import bpbp, kaleidoscope, linear

CLASSES = 10


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
        """Parameters of the matrix of the layer; a complex one counts as two."""
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


class ResNet18(ResNet):
    """ResNet18 for images of three channels.

    Args:
        extra: name of the layer before the classifier.
        width: channels of the first stage; 64 in the original.
    """

    def __init__(self, extra: str, width: int = 64) -> None:
        widths = [width * stage // RESNET18[0] for stage in RESNET18]
        super().__init__(3, CLASSES, widths, extra=EXTRAS[extra].layer)
