"""The backward pass of the product with boxes, with and without the registered operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils.weak import WeakTensorKeyDictionary

from kmatrix.ops.dispatch import requested
from kmatrix.ops.routing import Route, is_autocast, is_plain, nothing_watches, route
from kmatrix.ops.segments_definition import reference_segments_matmul
from kmatrix.ops.segments_dispatch import TRITON, run, run_backward
from kmatrix.ops.segments_gradients import segments_gradients
from kmatrix.ops.triton.segments import Gradients


def multiply_operator(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """The product through the registered operator."""
    product: Tensor = torch.ops.kmatrix.segments_matmul.default(x, left, right, places, rows)
    return product


def gradients_operator(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, places: Tensor, need: tuple[bool, ...]
) -> Gradients:
    """The gradients that are needed through the registered operator."""
    operator = torch.ops.kmatrix.segments_matmul_backward.default
    grad_x, grad_left, grad_right = operator(grad, x, left, right, places, need)
    return grad_x if need[0] else None, grad_left if need[1] else None, grad_right if need[2] else None


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
    if _is_recorded(grad):
        return gradients_operator(grad, x, left, right, places, need)
    if not (need[1] or need[2]):
        return _adjoint_product(grad, left, right, places, x.shape[-1]), None, None
    return segments_gradients(grad, x, left, right, places, need)


def _is_recorded(grad: Tensor) -> bool:
    """Whether a compiler records the first derivatives of a model on a GPU: as an operator they reach the kernels."""
    if not isinstance(grad, FakeTensor | FunctionalTensor) or torch.is_grad_enabled():
        return False
    return grad.device.type == "cuda" or requested() == TRITON.name


def _adjoint_product(grad: Tensor, left: Tensor, right: Tensor, places: Tensor, cols: int) -> Tensor:
    """With frozen numbers the backward pass is a product with boxes itself."""
    arguments = grad, right.conj(), left.conj(), swapped(places), cols
    how = route(grad, (left, right, places))
    if how is Route.DEFINITION:
        return reference_segments_matmul(*arguments)
    return run(*arguments) if how is Route.DIRECT else multiply_operator(*arguments)


_swapped = WeakTensorKeyDictionary()


def swapped(places: Tensor) -> Tensor:
    """The places of the transposed boxes; the same tensor each time, for what is known of it."""
    if _compiling() or not is_plain(places) or places.is_inference() or not nothing_watches():
        return places.roll(2, 0)
    stamp = places.data_ptr(), places._version
    known: tuple[tuple[int, int], Tensor] | None = _get_swapped(places)
    if known is None or known[0] != stamp:
        known = stamp, places.roll(2, 0)
        _swapped[places] = known
    return known[1]


_compiling = torch.compiler.is_dynamo_compiling
_get_swapped: Callable[[Tensor], tuple[tuple[int, int], Tensor] | None] = _swapped.get
