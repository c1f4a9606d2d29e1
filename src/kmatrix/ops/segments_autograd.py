"""The backward pass of the product with boxes, with and without the registered operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kmatrix.ops.routing import Route, is_autocast, route
from kmatrix.ops.segments_definition import reference_segments_matmul
from kmatrix.ops.segments_dispatch import run, run_backward
from kmatrix.ops.segments_gradients import segments_gradients
from kmatrix.ops.triton.segments import Gradients


def multiply_operator(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """The product through the registered operator."""
    product: Tensor = torch.ops.kmatrix.segments_matmul.default(x, left, right, places, rows)
    return product


def multiply_watched(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """The product of a call that autograd alone watches, without the overhead of the operator."""
    apply: Callable[..., Tensor] = _SegmentsProduct.apply
    return apply(x, left, right, places, rows)


class _SegmentsProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(x, left, right, places)
        ctx.rows = rows
        return run(x, left, right, places, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return backward(ctx, grad)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what ``backward`` needs."""
    *tensors, ctx.rows = inputs
    ctx.save_for_backward(*tensors)


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    """Backward pass of the operator."""
    x, left, right, places = ctx.saved_tensors
    return *_pull_back(grad, x, left, right, places, tuple(ctx.needs_input_grad[:3])), None, None


def _pull_back(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, places: Tensor, need: tuple[bool, ...]
) -> Gradients:
    """The gradients that are needed."""
    if is_autocast(grad):
        # The forward pass has chosen the types, whatever autocast says where backward is called.
        with torch.autocast(grad.device.type, enabled=False):
            return _pull_back(grad, x, left, right, places, need)
    if route(grad, (x, left, right, places)) is Route.DIRECT:
        found = run_backward(grad, x, left, right, places, need)
        if found is not None:
            return found
    if not (need[1] or need[2]):
        return _adjoint_product(grad, left, right, places, x.shape[-1]), None, None
    return segments_gradients(grad, x, left, right, places, need)


def _adjoint_product(grad: Tensor, left: Tensor, right: Tensor, places: Tensor, cols: int) -> Tensor:
    """With frozen numbers the backward pass is a product with boxes itself."""
    arguments = grad, right.conj(), left.conj(), swapped(places), cols
    how = route(grad, (left, right, places))
    if how is Route.DEFINITION:
        return reference_segments_matmul(*arguments)
    return run(*arguments) if how is Route.DIRECT else multiply_operator(*arguments)


def swapped(places: Tensor) -> Tensor:
    """The places of the transposed boxes."""
    return places.roll(2, 0)
