"""Tensors as the native kernels read them: an address, strides and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns, flatten_patterns
from kmatrix.ops.native_module import DTYPE_CODES

Layouts = tuple[tuple[int, ...], ...]  # shape and strides of each weight

# A weight that spans more than so many times its numbers is copied: fingerprints read the whole span.
_SPARSE = 2
HALF = (torch.bfloat16, torch.float16)


class Vectors(NamedTuple):
    """A batch of vectors: element (i, j) lies at ``row * i + col * j``, one of the two strides being 1."""

    tensor: Tensor  # keeps the memory alive
    batch: int
    row: int
    col: int

    @property
    def place(self) -> tuple[int, int, int]:
        """Address and strides."""
        return self.tensor.data_ptr(), self.row, self.col


def vectors(x: Tensor) -> Vectors:
    """The vectors of ``(*, n)`` where they are, if they lie in rows or in columns, else in a copy."""
    flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    batch, n = flat.shape
    row, col = flat.stride()
    if n == 1:
        col = 1
    if batch == 1:
        row = n if col == 1 else 1
    if col != 1 and row != 1:
        flat, row, col = flat.contiguous(), n, 1
    return Vectors(flat, batch, row, col)


def lie_in_place(x: Tensor) -> bool:
    """Whether ``vectors`` finds them where they are and copies nothing."""
    try:
        flat = x.view(-1, x.shape[-1])
    except RuntimeError:
        return False
    return 1 in (*flat.shape, *flat.stride())


class Description:
    """What the kernels must know of weights besides their addresses.

    One object for equal layouts, so that it is found in tables by identity: hashing its contents would take
    longer than a small product.

    Attributes:
        dtype: number type.
        patterns: of the factors.
        strides: four for each weight, 0 along axes of size 1.
        nbytes: what each weight spans in memory.
        expanded: whether some weight repeats its numbers along an axis.
    """

    def __init__(self, dtype: torch.dtype, patterns: Patterns, layouts: Layouts) -> None:
        self.dtype, self.patterns = dtype, patterns
        self.strides: list[int] = []
        for layout in layouts:
            self.strides += [0 if size == 1 else s for size, s in zip(layout[:4], layout[4:], strict=True)]
        self.nbytes = [_span(layout[:4], layout[4:]) * dtype.itemsize for layout in layouts]
        self.expanded = any(
            size > 1 and s == 0 for layout in layouts for size, s in zip(layout[:4], layout[4:], strict=True)
        )
        self.code = DTYPE_CODES[dtype]
        self.flat_patterns = flatten_patterns(patterns)
        self.n_in, self.n_out = patterns[0].cols, patterns[-1].rows


def described(weights: Sequence[Tensor], patterns: Patterns) -> tuple[list[Tensor], Description]:
    """The weights, copied where they lie scattered, and their description."""
    layouts = tuple([(*w.shape, *w.stride()) for w in weights])
    kept = list(weights)
    for i in _scattered(layouts):
        kept[i] = kept[i].contiguous()
        layouts = (*layouts[:i], (*kept[i].shape, *kept[i].stride()), *layouts[i + 1 :])
    return kept, _description(kept[0].dtype, patterns, layouts)


@lru_cache(maxsize=1024)
def _scattered(layouts: Layouts) -> tuple[int, ...]:
    """Which weights span far more memory than they have numbers."""
    sizes = [(math.prod(layout[:4]), _span(layout[:4], layout[4:])) for layout in layouts]
    return tuple([i for i, (numbers, span) in enumerate(sizes) if span > _SPARSE * numbers])


@lru_cache(maxsize=1024)
def _description(dtype: torch.dtype, patterns: Patterns, layouts: Layouts) -> Description:
    return Description(dtype, patterns, layouts)


def _span(shape: Sequence[int], strides: Sequence[int]) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two strided tensors may share memory: whether the ranges they span meet."""
    if not first.numel() or not second.numel():
        return False
    start, other = first.data_ptr(), second.data_ptr()
    end = start + _span(first.shape, first.stride()) * first.itemsize
    return start < other + _span(second.shape, second.stride()) * second.itemsize and other < end
