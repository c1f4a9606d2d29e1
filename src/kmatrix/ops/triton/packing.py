"""Weights as the kernels read them: factors multiplied out, inputs before outputs, complex numbers as real blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.merging import merge_group, merge_group_gradients
from kmatrix.ops.triton.plan import Step

_HALF = (torch.bfloat16, torch.float16)
_APART = 64  # numbers that the place of a factor is a multiple of, for wide loads


def packed(weights: Sequence[Tensor], patterns: Patterns, steps: Sequence[Step]) -> tuple[Tensor, list[int]]:
    """All factors of a plan in one buffer of real numbers, and where each begins."""
    blocks = [_block(weights[s.start : s.stop], patterns[s.start : s.stop]) for s in steps]
    places, total = [], 0
    for block in blocks:
        places.append(total)
        total += -(-block.numel() // _APART) * _APART
    real = blocks[0].dtype
    buffer = torch.empty(total, dtype=real, device=weights[0].device)
    for block, place in zip(blocks, places, strict=True):
        buffer[place : place + block.numel()].view(block.shape).copy_(block)
    return buffer, places


def _block(weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
    """Factors as one of shape ``(a or 1, d or 1, c, b)``, of pairs of each where numbers are complex."""
    dtype = weights[0].dtype
    if len(weights) > 1 and dtype in _HALF:
        merged = merge_group([w.float() for w in weights], patterns).to(dtype)
    else:
        merged = merge_group(weights, patterns)
    turned = merged.permute(0, 3, 2, 1)
    if not dtype.is_complex:
        return turned
    # y = w x is (re, im) @ [[re w, im w], [-im w, re w]], inputs before outputs
    rows = torch.stack([turned.real, turned.imag], -1), torch.stack([-turned.imag, turned.real], -1)
    return torch.stack(rows, -3).flatten(-2).flatten(2, 3)


def unpacked_gradients(
    gradients: Sequence[Tensor], weights: Sequence[Tensor], patterns: Patterns, steps: Sequence[Step]
) -> list[Tensor]:
    """Gradients of the weights from those of the packed factors, which are real and of the kernels' shapes."""
    found: list[Tensor] = []
    for gradient, step in zip(gradients, steps, strict=True):
        group = slice(step.start, step.stop)
        turned = _complex_gradient(gradient) if weights[0].dtype.is_complex else gradient
        wide = [w.float() if w.dtype in _HALF else w for w in weights[group]]
        merged = turned.permute(0, 3, 2, 1)
        found += merge_group_gradients(merged, wide, patterns[group])
    return [g.to(w.dtype).contiguous() for g, w in zip(found, weights, strict=True)]


def _complex_gradient(gradient: Tensor) -> Tensor:
    """What ``_block`` made of complex numbers, pulled back."""
    a, d, c, b = gradient.shape
    pairs = gradient.view(a, d, c // 2, 2, b // 2, 2)
    real = pairs[:, :, :, 0, :, 0] + pairs[:, :, :, 1, :, 1]
    return torch.complex(real, pairs[:, :, :, 0, :, 1] - pairs[:, :, :, 1, :, 0])
