"""Content under Gaudi masks: one operation with the gradients of its definition, and no transform for any box.

Masks are made where they are used, for some rows at a time, which stay in the processor's cache until they are
multiplied; forming all masks at once costs ten times as much. Backward makes them again.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from kmatrix.structures.gaudi.mask import steps_of, windows

_NUMBERS_AT_ONCE = 2**17
"""Numbers of each mask that are formed together on a processor: half a MiB in single precision."""


def masked(content: Tensor, width: Tensor, start: Tensor, table: Tensor) -> Tensor:
    """Multiply every row of the content by the mask of a box, whose width and start are rounded to whole positions.

    The gradients of ``width`` and ``start`` are those of the Gaudi mask at the rounded box (straight-through).

    Args:
        content: ``(K, n)``, or ``(K, n, 2)`` for complex numbers as real pairs.
        width: shares of ``n``, ``(K,)``.
        start: shares of ``n``, ``(K,)``.
        table: what ``mask.tables`` gave for ``n``.
    """
    return cast(Tensor, _Masked.apply(content, width, start, table))  # type: ignore[no-untyped-call]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(content: Tensor, width: Tensor, start: Tensor, table: Tensor) -> Tensor:
        stairs = windows(table[0])
        first, last = steps_of(width, start, content.shape[1])
        out = torch.empty_like(content, memory_format=torch.contiguous_format)
        for rows in _chunks(content):
            mask = stairs.index_select(0, first[rows]).sub_(stairs.index_select(0, last[rows]))
            torch.mul(content[rows], _beside(mask, content), out=out[rows])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        content, width, start, table = ctx.saved_tensors
        to_content, to_width, to_start = _Gradients.apply(  # type: ignore[no-untyped-call]
            grad.contiguous(), content, width, start, table
        )
        wanted = zip((to_content, to_width, to_start), ctx.needs_input_grad, strict=False)
        return *(gradient if wants else None for gradient, wants in wanted), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        *own, table = _side_by_side(info.batch_size, in_dims, inputs)
        return _apart(masked(own[0], own[1], own[2], table), info.batch_size), 0


class _Gradients(torch.autograd.Function):
    """The gradients of ``masked``, as an operation of their own, so that they have a rule for ``vmap`` too."""

    @staticmethod
    def forward(
        grad: Tensor, content: Tensor, width: Tensor, start: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        stairs, slopes = windows(table[0]), windows(table[1])
        first, last = steps_of(width, start, content.shape[1])
        to_content = torch.empty_like(content, memory_format=torch.contiguous_format)
        sums = torch.empty(2, len(content), dtype=table.dtype, device=table.device)
        for rows in _chunks(content):
            mask = stairs.index_select(0, first[rows]).sub_(stairs.index_select(0, last[rows]))
            torch.mul(grad[rows], _beside(mask, content), out=to_content[rows])
            to_mask = grad[rows] * content[rows]
            to_mask = to_mask.sum(-1) if content.ndim == 3 else to_mask
            for k, step in enumerate((first, last)):
                slope = slopes.index_select(0, step[rows])
                sums[k, rows] = torch.linalg.vecdot(to_mask.to(table.dtype), slope)
        at_first, at_last = sums.to(width.dtype)
        return to_content, at_last.clone(), at_last - at_first

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            "masks at rounded boxes have first derivatives only; use gaudi_mask for more"
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        found = _Gradients.apply(  # type: ignore[no-untyped-call]
            *_side_by_side(info.batch_size, in_dims, inputs)
        )
        return tuple(_apart(gradient, info.batch_size) for gradient in found), (0, 0, 0)


def _side_by_side(size: int, dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The inputs of a batch as one longer row of boxes; the table, which comes last, is shared."""
    full = []
    for tensor, dim in zip(inputs[:-1], dims, strict=False):
        whole = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        full.append(whole.flatten(0, 1))
    return [*full, inputs[-1]]


def _apart(tensor: Tensor, size: int) -> Tensor:
    return tensor.reshape(size, -1, *tensor.shape[1:])


def _beside(mask: Tensor, content: Tensor) -> Tensor:
    return mask.unsqueeze(-1) if content.ndim == 3 else mask


def _chunks(content: Tensor) -> list[slice]:
    rows = len(content)
    if torch.compiler.is_compiling() or not content.is_cpu:
        return [slice(0, rows)]
    step = max(1, _NUMBERS_AT_ONCE // max(1, content.shape[1]))
    return [slice(k, k + step) for k in range(0, rows, step)]
