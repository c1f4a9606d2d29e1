"""A structured layer for the place of a dense one, and what the place looks like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kmatrix.nn import Conv2d, Linear
from kmatrix.nn.surgery import Site
from kmatrix.structures import StructuredMatrix


@dataclass(frozen=True)
class Place:
    """What decides how long a layer takes: layers in equal places are measured once.

    Attributes:
        kind: ``"linear"`` or ``"conv2d"``.
        shape: of the weight as a matrix, ``(m, n)``.
        bias: whether there is one.
        dtype: number type.
        device: type of the device.
        geometry: of a convolution: channels and size of the input, kernel, stride, padding, dilation.
    """

    kind: str
    shape: tuple[int, int]
    bias: bool
    dtype: torch.dtype
    device: str
    geometry: tuple[object, ...] = ()

    @classmethod
    def of(cls, site: Site, spatial: tuple[int, ...] = ()) -> Place:
        """The place of a layer, a convolution's with the height and width of its input."""
        module, weight = site.module, weight_of(site)
        geometry: tuple[object, ...] = ()
        if isinstance(module, nn.Conv2d):
            padding = (module.padding, module.padding_mode)
            geometry = (
                module.in_channels,
                *spatial,
                module.kernel_size,
                module.stride,
                padding,
                module.dilation,
            )
        return cls(site.kind, site.shape, module.bias is not None, weight.dtype, weight.device.type, geometry)

    def input(self, batch: int) -> tuple[int, ...]:
        """Shape of an input with so many vectors, or images."""
        if self.kind == "linear":
            return (batch, self.shape[1])
        channels, height, width = self.geometry[:3]
        return tuple(int(str(size)) for size in (batch, channels, height, width))


def weight_of(site: Site) -> Tensor:
    """The weight as a matrix, ``(m, n)``, without gradients."""
    return site.module.get_parameter("weight").detach().flatten(1)


def layer_like(dense: nn.Module, matrix: StructuredMatrix, shift: Tensor | None = None) -> Linear | Conv2d:
    """The layer with that matrix for the place of a dense one.

    Args:
        dense: the layer whose geometry, mode and bias it takes.
        matrix: the matrix.
        shift: what is added to the bias, which then is a new parameter; shared with the dense layer otherwise.
    """
    weight = dense.get_parameter("weight")
    matrix.requires_grad_(weight.requires_grad)
    bias = dense._parameters.get("bias")
    layer: Linear | Conv2d
    layer = Conv2d.like(dense, matrix) if isinstance(dense, nn.Conv2d) else Linear.from_matrix(matrix, bias)
    if bias is not None and shift is not None:
        moved = bias.detach() + shift.to(bias)
        layer.bias = nn.Parameter(moved, requires_grad=bias.requires_grad)
    return layer.train(dense.training)
