"""One side of boxes under Gaudi masks, some boxes at a time, and the gradients of that: natively or in torch."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kmatrix.ops.windows_native import RowMasks, row_masks
from kmatrix.structures.gaudi.mask import windows


class Turns(Protocol):
    """Boxes that take turns in memory that is used again, also by the other side."""

    def masked(self, boxes: slice) -> Tensor:
        """The content of some boxes under their masks, until anybody is given memory again."""

    def room(self, boxes: slice) -> Tensor:
        """Memory for the gradient of what ``masked`` gave last, until likewise."""

    def gradients(
        self, boxes: slice, to_masked: Tensor, to_content: Tensor, to_width: Tensor, to_start: Tensor
    ) -> None:
        """From the gradient of what ``masked`` gave last, which may be overwritten, those of its parameters."""


def turns_of(content: Tensor, first: Tensor, last: Tensor, table: Tensor, memory: Tensor) -> Turns:
    """Some boxes of real content at a time.

    Args:
        content: ``(K, n)``.
        first: rows of ``windows`` at the beginnings, from ``mask.steps_of``.
        last: likewise, at the ends.
        table: what ``mask.tables`` gave for ``n``.
        memory: for as many boxes as take part at once, flat.
    """
    masks = row_masks(content, first, last, table)
    if masks is not None:
        return _Native(masks, memory)
    return _Torch(content, first, last, table, memory)


class _Native:
    def __init__(self, masks: RowMasks, memory: Tensor) -> None:
        self.masks, self.memory = masks, memory

    def masked(self, boxes: slice) -> Tensor:
        return self.masks.masked(boxes, self.room(boxes))

    def room(self, boxes: slice) -> Tensor:
        return _room(self.memory, self.masks.content[boxes])

    def gradients(
        self, boxes: slice, to_masked: Tensor, to_content: Tensor, to_width: Tensor, to_start: Tensor
    ) -> None:
        self.masks.gradients(boxes, to_masked, to_content, to_width, to_start)


class _Torch:
    def __init__(self, content: Tensor, first: Tensor, last: Tensor, table: Tensor, memory: Tensor) -> None:
        self.content, self.first, self.last, self.memory = content, first, last, memory
        self.stairs, self.slopes = windows(table[0]), windows(table[1])
        self.own = memory.new_empty(2, len(memory))  # masks, and what else is as large

    def masked(self, boxes: slice) -> Tensor:
        first, last = self.first[boxes], self.last[boxes]
        mask, other = (_room(memory, self.content[boxes]) for memory in self.own)
        torch.index_select(self.stairs, 0, first, out=mask)
        torch.index_select(self.stairs, 0, last, out=other)
        return torch.mul(mask.sub_(other), self.content[boxes], out=other)

    def room(self, boxes: slice) -> Tensor:
        return _room(self.memory, self.content[boxes])

    def gradients(
        self, boxes: slice, to_masked: Tensor, to_content: Tensor, to_width: Tensor, to_start: Tensor
    ) -> None:
        mask, slope = (_room(memory, to_masked) for memory in self.own)
        torch.mul(to_masked, mask, out=to_content)
        to_masked.mul_(self.content[boxes])
        torch.index_select(self.slopes, 0, self.last[boxes], out=slope)
        torch.sum(slope.mul_(to_masked), 1, out=to_width)
        torch.index_select(self.slopes, 0, self.first[boxes], out=slope)
        torch.sub(to_width, slope.mul_(to_masked).sum(1), out=to_start)


def _room(memory: Tensor, like: Tensor) -> Tensor:
    return memory[: like.numel()].view(like.shape)
