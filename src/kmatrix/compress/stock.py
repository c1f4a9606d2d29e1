"""Convolutions, tables and attention as stock modules."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from kmatrix.compress.export import Blockwise, Program, stock_module, traced
from kmatrix.compress.programs import Blocks, program_of, settled, transposed
from kmatrix.nn import Conv2d, Embedding, MultiheadAttention


def convolution(layer: Conv2d, program: Program, bias: Tensor | None) -> nn.Module:
    """The stock form of a convolution: a row of them, or one that copies patches into channels and then a program."""
    kh, kw = layer.kernel_size
    steps = [step for step in program.steps if isinstance(step, Blockwise)]
    if program.is_blocks and steps[0].factor.c % (kh * kw) == 0:
        convs = [_conv2d(layer, step.weight[..., 0], k == 0) for k, step in enumerate(steps)]
        if bias is not None:
            convs[-1].bias = nn.Parameter(bias)
        return convs[0] if len(convs) == 1 else nn.Sequential(*convs)
    image = traced(LoweredImage(stock_module(program, bias)))
    if (kh, kw) == layer.stride == (1, 1) and layer.padding in ((0, 0), "same", "valid"):
        return image
    # The convolution that copies every patch into the channels: each of its kernels is a single one.
    ones = torch.eye(kh * kw, dtype=layer.matrix.dtype, device=layer.matrix.device)
    return nn.Sequential(_conv2d(layer, ones.repeat(layer.in_channels, 1, 1), True), image)


def _conv2d(layer: Conv2d, blocks: Tensor, on_patches: bool) -> nn.Conv2d:
    """A convolution by blocks ``(groups, out, in)`` on a diagonal: on the patches of a layer, or at each point."""
    groups, m, n = blocks.shape
    kernel = layer.kernel_size if on_patches else (1, 1)
    conv = nn.Conv2d(
        groups * n // math.prod(kernel),
        groups * m,
        kernel,
        stride=layer.stride if on_patches else 1,
        padding=layer.padding if on_patches else 0,
        dilation=layer.dilation if on_patches else 1,
        groups=groups,
        bias=False,
        padding_mode=layer.padding_mode if on_patches else "zeros",
        device="meta",
    )
    conv.weight = nn.Parameter(blocks.reshape(groups * m, -1, *kernel).clone())
    return conv


class LoweredImage(nn.Module):
    """A module of the last axis for images, as what is traced and then thrown away."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x.movedim(-3, -1))
        return y.movedim(-1, -3)


def embedding(layer: Embedding, program: Program, blocks: Blocks) -> tuple[nn.Module, Program]:
    """A table of the rows of the last factor and the transposes of the others; a dense table where they do not fit."""
    last = program.steps[-1]
    if not (isinstance(last, Blockwise) and last.is_plain and last.rows == program.rows):
        program = program_of(layer.matrix, "dense", blocks)
        last = cast(Blockwise, program.steps[-1])
    weight = last.weight[0, :, :, 0].clone()
    if layer.padding_idx is not None:
        weight[layer.padding_idx] = 0
    table = nn.Embedding(weight.shape[0], weight.shape[1], padding_idx=layer.padding_idx, device="meta")
    table.weight = nn.Parameter(weight)
    if len(program.steps) == 1:
        return table, program
    rest = transposed(Program(program.cols, last.cols, program.steps[:-1]))
    rest = settled(rest, blocks, layer.matrix.dtype)
    return nn.Sequential(table, stock_module(rest)), program


def dense_attention(layer: MultiheadAttention) -> nn.MultiheadAttention:
    """The attention of torch with the same function: its projections multiplied out."""
    projections = [layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj]
    weights = [cast(Tensor, p.weight).detach() for p in projections]
    biases = [cast("Tensor | None", p.bias) for p in projections]
    made = nn.MultiheadAttention(
        layer.embed_dim,
        layer.num_heads,
        layer.dropout,
        biases[0] is not None,
        layer.bias_k is not None,
        layer.add_zero_attn,
        layer.kdim,
        layer.vdim,
        layer.batch_first,
        device=weights[0].device,
        dtype=weights[0].dtype,
    )
    with torch.no_grad():
        packed = (
            made.in_proj_weight.chunk(3)
            if made._qkv_same_embed_dim
            else (made.q_proj_weight, made.k_proj_weight, made.v_proj_weight)
        )
        for target, weight in zip((*packed, made.out_proj.weight), weights, strict=True):
            target.copy_(weight)
        if biases[0] is not None:
            made.in_proj_bias.copy_(torch.cat([cast(Tensor, b).detach() for b in biases[:3]]))
            made.out_proj.bias.copy_(cast(Tensor, biases[3]))
        for name in ("bias_k", "bias_v"):
            if getattr(made, name) is not None:
                getattr(made, name).copy_(getattr(layer, name))
    return made
