"""Content under Gaudi masks: one operation with the gradients of its definition, and no transform for any box.

Masks are made where they are used, for some rows at a time, which stay in the processor's cache until they are
multiplied; forming all masks at once costs ten times as much. Backward makes them again.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from kmatrix.ops.windows_native import readable, row_masks
from kmatrix.structures.gaudi.mask import steps_of, windows

_NUMBERS_AT_ONCE = 2**17
"""Numbers of each mask that are formed together on a processor: half a MiB in single precision."""
_ALL = slice(None)


def masked(content: Tensor, width: Tensor, start: Tensor, table: Tensor) -> Tensor:
    """Multiply every row of the content by the mask of a box, whose width and start are rounded to whole positions.

    The gradients of ``width`` and ``start`` are those of the Gaudi mask at the rounded box (straight-through).

    Args:
        content: ``(K, n)``, or ``(K, n, 2)`` for complex numbers as real pairs.
        width: shares of ``n``, ``(K,)``.
        start: shares of ``n``, ``(K,)``.
        table: what ``mask.tables`` gave for ``n``.
    """
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    if transformed or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return reference_masked(content, width, start, table)
    return cast(Tensor, _Masked.apply(content, width, start, table))  # type: ignore[no-untyped-call]


def reference_masked(content: Tensor, width: Tensor, start: Tensor, table: Tensor) -> Tensor:
    """The definition of ``masked`` in plain torch, which takes it apart: to compile, to transform, to compare with."""
    mask, _, _ = _soft(content, width, start, table)
    return content * _beside(mask, content)


def reference_gradients(
    grad: Tensor, content: Tensor, width: Tensor, start: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``masked`` by content, width and start, in plain torch, for those who differentiate them again."""
    mask, by_width, by_start = _soft(content, width, start, table)
    to_mask = grad * content
    to_mask = (to_mask.sum(-1) if content.ndim == 3 else to_mask).to(table.dtype)
    to_width, to_start = ((to_mask * slope).sum(-1).to(width.dtype) for slope in (by_width, by_start))
    return grad * _beside(mask, content), to_width, to_start


def _soft(content: Tensor, width: Tensor, start: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masks that have the gradients of their parameters, and those gradients: slopes, constant between positions."""
    stairs, slopes = windows(table[0]), windows(table[1])
    first, last = steps_of(width, start, content.shape[1])
    at_first, at_last = slopes[first], slopes[last]
    # Each difference is 0, and has the gradient of its parameter.
    by_width = (width - width.detach()).unsqueeze(-1) * at_last
    by_start = (start - start.detach()).unsqueeze(-1) * (at_last - at_first)
    mask = (stairs[first] - stairs[last] + by_width + by_start).to(content.dtype)
    return mask, at_last, at_last - at_first


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, content: Tensor, width: Tensor, start: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(content, width, start, table)
        stairs = windows(table[0])
        first, last = steps_of(width, start, content.shape[1])
        out = torch.empty_like(content, memory_format=torch.contiguous_format)
        native = row_masks(content, first, last, table)
        if native is not None:
            return native.masked(_ALL, out)
        for rows in _chunks(content):
            mask = stairs.index_select(0, first[rows]).sub_(stairs.index_select(0, last[rows]))
            torch.mul(content[rows], _beside(mask, content), out=out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        content, width, start, table = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph=True
            return *reference_gradients(grad, content, width, start, table), None
        wants_content, wants_width, wants_start, _ = ctx.needs_input_grad
        stairs, slopes = windows(table[0]), windows(table[1])
        first, last = steps_of(width, start, content.shape[1])
        to_content = torch.empty_like(content, memory_format=torch.contiguous_format)
        sums = table.new_empty(2, len(content))
        native = row_masks(content, first, last, table)
        grad = grad if native is None else grad.resolve_neg().contiguous()
        if native is not None and grad.dtype == content.dtype and readable(grad):
            native.gradients(_ALL, grad, to_content, *sums)
            return to_content, *sums.to(width.dtype), None
        for rows in _chunks(content):
            if wants_content:
                mask = stairs.index_select(0, first[rows]).sub_(stairs.index_select(0, last[rows]))
                torch.mul(grad[rows], _beside(mask, content), out=to_content[rows])
            if wants_width or wants_start:
                to_mask = grad[rows] * content[rows]
                to_mask = (to_mask.sum(-1) if content.ndim == 3 else to_mask).to(table.dtype)
                for k, step in enumerate((first, last)):
                    sums[k, rows] = torch.linalg.vecdot(to_mask, slopes.index_select(0, step[rows]))
        at_first, at_last = sums.to(width.dtype)
        to_width = at_last if wants_width else None
        to_start = at_last - at_first if wants_start else None
        return to_content if wants_content else None, to_width, to_start, None


def _beside(mask: Tensor, content: Tensor) -> Tensor:
    return mask.unsqueeze(-1) if content.ndim == 3 else mask


def _chunks(content: Tensor) -> list[slice]:
    rows = len(content)
    if not content.is_cpu:
        return [slice(0, rows)]
    step = max(1, _NUMBERS_AT_ONCE // max(1, content.shape[1]))
    return [slice(k, k + step) for k in range(0, rows, step)]
