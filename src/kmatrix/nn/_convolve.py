"""Convolutions with a chain: the first factor as a grouped convolution of torch, the others on its channels."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix._checks import HALF_DTYPES
from kmatrix.ops.apply import chain_apply
from kmatrix.structures import GroupedMatrix, StructuredMatrix
from kmatrix.structures.base import plus
from kmatrix.structures.chain import AbstractChainMatrix

Pair = tuple[int, int]


def convolves(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether torch convolves an image with filters of a dtype: they agree, or autocast will see to it."""
    if x.dtype == dtype:
        return True
    lowered = (*HALF_DTYPES, torch.float32)
    # The meta device has no autocast to ask about.
    return (
        x.dtype in lowered and dtype in lowered and not x.is_meta and torch.is_autocast_enabled(x.device.type)
    )


def convolve(
    matrix: StructuredMatrix, x: Tensor, kernel: Pair, stride: Pair, dilation: Pair, bias: Tensor | None
) -> Tensor | None:
    """Convolve a padded image without gathering patches, ``(*, C, H, W) -> (*, m, H', W')``; None if that cannot be."""
    channels = x.shape[-3]
    if isinstance(matrix, GroupedMatrix):
        members = matrix.members
        if not leads_with_blocks(members[0], channels // len(members)):
            return None
        biases = [None] * len(members) if bias is None else bias.chunk(len(members))
        images = x.chunk(len(members), -3)
        chains = [
            (cast(AbstractChainMatrix, m), i, b) for m, i, b in zip(members, images, biases, strict=True)
        ]
        return torch.cat([convolve_blocks(m, i, kernel, stride, dilation, b) for m, i, b in chains], -3)
    if not leads_with_blocks(matrix, channels):
        return None
    return convolve_blocks(cast(AbstractChainMatrix, matrix), x, kernel, stride, dilation, bias)


def leads_with_blocks(matrix: StructuredMatrix, channels: int) -> bool:
    """Whether a matrix is a chain whose first factor multiplies blocks of whole channels.

    Low rank, tiles of low rank, Monarch, BLAST and dense matrices are, if the blocks divide the channels.
    """
    if not isinstance(matrix, AbstractChainMatrix) or type(matrix)._matmul is not AbstractChainMatrix._matmul:
        return False
    runs = matrix.layout.runs
    if isinstance(runs[0], int) or len(runs) > 2 or (len(runs) == 2 and not isinstance(runs[1], int)):
        return False
    a, _, c, d = matrix.layout.patterns[0]
    return d == 1 and channels % a == 0 and a * c == matrix.shape[1]


def convolve_blocks(
    matrix: AbstractChainMatrix, x: Tensor, kernel: Pair, stride: Pair, dilation: Pair, bias: Tensor | None
) -> Tensor:
    """Convolve a padded image by a chain that leads with blocks: ``(*, C, H, W) -> (*, m, H', W')``.

    A factor of pattern ``(a, b, c, 1)`` on patches of ``C = a (c / (kh kw))`` channels is a convolution of ``a``
    groups with ``b`` filters each, so no patch has to be gathered.
    """
    weights, patterns = matrix.weights, matrix.layout.patterns
    a, b, c, d = patterns[0]
    filters = weights[0].expand(a, b, c, d).reshape(a * b, -1, *kernel)
    ends = len(matrix.layout.runs) == 2
    m = matrix.shape[0]
    if len(patterns) == 1 and not ends and patterns[0].rows == m:
        return functional.conv2d(x, filters, bias, stride, 0, dilation, a)
    y = functional.conv2d(x, filters, None, stride, 0, dilation, a).movedim(-3, -1)
    take = matrix.permutation(0) if ends else None
    if len(patterns) > 1:
        y = chain_apply(y, weights[1:], patterns[1:], take=take, rows=m, bias=bias)
    else:
        y = (y if take is None else y[..., take])[..., :m]
        y = y if bias is None else plus(y, bias)
    return y.movedim(-1, -3)
