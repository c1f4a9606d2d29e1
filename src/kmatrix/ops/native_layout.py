"""Tensors as the native kernels read them: an address, strides and counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns, flatten_patterns
from kmatrix.ops.native_module import DTYPE_CODES

_SPARSE = (
    2  # a weight that spans more than so many times its numbers is copied: fingerprints read the whole span
)
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


class Description(NamedTuple):
    """What the kernels must know of weights besides their addresses; equal for equal layouts."""

    dtype: torch.dtype
    patterns: Patterns
    strides: tuple[int, ...]  # four for each weight, 0 along axes of size 1
    nbytes: tuple[int, ...]  # what each weight spans in memory

    @property
    def code(self) -> int:
        return DTYPE_CODES[self.dtype]

    @property
    def flat_patterns(self) -> list[int]:
        return flatten_patterns(self.patterns)

    @property
    def n_in(self) -> int:
        return self.patterns[0].cols

    @property
    def n_out(self) -> int:
        return self.patterns[-1].rows


def described(weights: Sequence[Tensor], patterns: Patterns) -> tuple[list[Tensor], Description]:
    """The weights, copied where they lie scattered, and their description."""
    kept = [w if _is_dense(w.shape, w.stride()) else w.contiguous() for w in weights]
    shapes = tuple([(*w.shape, *w.stride()) for w in kept])
    return kept, _description(kept[0].dtype, patterns, shapes)


@lru_cache(maxsize=1024)
def _description(dtype: torch.dtype, patterns: Patterns, layouts: tuple[tuple[int, ...], ...]) -> Description:
    strides: list[int] = []
    for layout in layouts:
        strides += [0 if size == 1 else stride for size, stride in zip(layout[:4], layout[4:], strict=True)]
    spans = [_span(layout[:4], layout[4:]) * dtype.itemsize for layout in layouts]
    return Description(dtype, patterns, tuple(strides), tuple(spans))


def _span(shape: Sequence[int], strides: Sequence[int]) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _is_dense(shape: torch.Size, strides: tuple[int, ...]) -> bool:
    return _span(shape, strides) <= _SPARSE * shape.numel()


def overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two strided tensors may share memory: whether the ranges they span meet."""
    if not first.numel() or not second.numel():
        return False
    start, other = first.data_ptr(), second.data_ptr()
    end = start + _span(first.shape, first.stride()) * first.itemsize
    return start < other + _span(second.shape, second.stride()) * second.itemsize and other < end
