"""``chain_apply`` where the GPU kernels run it: corners, bias and activation in the launch of the product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix.ops import dispatch
from kmatrix.ops.autograd import pull_back
from kmatrix.ops.definition import Patterns, check_weights
from kmatrix.ops.gradients import adjoint_chain
from kmatrix.ops.library import lower_precision
from kmatrix.ops.routing import Route, is_autocast, route

_INDEX = (torch.int64, torch.int32)
_FROM_RESULT = ("", "relu")  # activations whose derivative can be read off their results


def multiply_with_ends(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Patterns,
    gather: Tensor | None,
    take: Tensor | None,
    rows: int | None,
    bias: Tensor | None,
    activation: str = "",
) -> Tensor | None:
    """``chain_apply`` in one launch, or None where the GPU kernels do not run it.

    Where autograd watches, ``x`` is gathered before, and activations whose derivative needs what comes before them are
    left to torch.
    """
    on_gpu = x.device.type == "cuda" or dispatch.requested() == dispatch.TRITON.name
    if not on_gpu or take is not None or x.ndim == 0 or not x.numel():
        return None
    if activation and (x.is_complex() or (activation not in _FROM_RESULT and _is_recorded(x, weights, bias))):
        return None
    if is_autocast(x):
        device = x.device.type
        x, *lowered = lower_precision(device, [x, *weights, *([] if bias is None else [bias])])
        bias = None if bias is None else lowered.pop()
        with torch.autocast(device, enabled=False):
            return multiply_with_ends(x, lowered, patterns, gather, take, rows, bias, activation)
    given = [*weights, *([] if bias is None else [bias])]
    if any(t.dtype != x.dtype or t.device != x.device for t in given):
        return None
    cols, full = patterns[0].cols, patterns[-1].rows
    n_out = full if rows is None else min(rows, full)
    if x.shape[-1] > cols or n_out == 0 or (bias is not None and bias.shape != (n_out,)):
        return None
    if gather is not None and (
        gather.ndim != 1 or len(gather) != cols or gather.dtype not in _INDEX or gather.device != x.device
    ):
        return None
    how = route(x, given)
    if how not in (Route.DIRECT, Route.AUTOGRAD):
        return None
    watched = how is Route.AUTOGRAD
    check_weights("chain_apply", weights, patterns)
    if dispatch.choose(x, weights, patterns) is not dispatch.TRITON:
        return None
    if not watched:
        return _run(x, weights, patterns, gather, n_out, bias, activation)
    if gather is not None:
        x = _padded(x, cols)[..., gather]
    apply: Callable[..., Tensor] = _WithEnds.apply
    return apply(patterns, n_out, activation, x, bias, *weights)


def _run(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Patterns,
    gather: Tensor | None,
    n_out: int,
    bias: Tensor | None,
    activation: str,
) -> Tensor:
    """The product on plain tensors."""
    x, *plain = dispatch.resolved([x, *weights])
    dispatch.observe(x, plain, patterns, dispatch.TRITON)
    bias = None if bias is None else dispatch.resolved([bias])[0]
    return dispatch.TRITON.run_surrounded(
        x, plain, patterns, gather=gather, n_out=n_out, bias=bias, activation=activation
    )


class _WithEnds(torch.autograd.Function):
    """The product with its ends where autograd alone watches."""

    @staticmethod
    def forward(
        ctx: Any,
        patterns: Patterns,
        n_out: int,
        activation: str,
        x: Tensor,
        bias: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        y = _run(x, weights, patterns, None, n_out, bias, activation)
        ctx.patterns, ctx.activated = patterns, bool(activation)
        ctx.save_for_backward(x, *weights, *([y] if activation else []))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        if ctx.activated:  # only "relu", whose derivative is whether its result is positive
            grad = torch.ops.aten.threshold_backward(grad, weights.pop(), 0)
        _, _, _, need_x, need_bias, *need_weights = ctx.needs_input_grad
        grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if need_bias else None
        if not need_x and not any(need_weights):
            return None, None, None, None, grad_bias, *[None] * len(weights)
        grad_x, grad_weights = _pull_back(grad, x, weights, ctx.patterns, need_x, need_weights)
        return None, None, None, grad_x, grad_bias, *grad_weights


def _pull_back(
    grad: Tensor, x: Tensor, weights: list[Tensor], patterns: Patterns, need_x: bool, need_weights: list[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients that are needed: by the kernels, which pad with zeros themselves, or by the general way."""
    if is_autocast(grad):  # the forward pass has chosen the types
        with torch.autocast(grad.device.type, enabled=False):
            return _pull_back(grad, x, weights, patterns, need_x, need_weights)
    n, cols, full = x.shape[-1], patterns[0].cols, patterns[-1].rows
    plain = route(grad, [x, *weights]) is Route.DIRECT
    if plain and dispatch.choose(x, weights, patterns) is dispatch.TRITON:
        if not any(need_weights):
            adjoint, transposed = adjoint_chain(weights, patterns)
            return _run(grad, adjoint, tuple(transposed), None, n, None, ""), [None] * len(weights)
        grad, x, *weights = dispatch.resolved([grad, x, *weights])
        dispatch.observe(x, weights, patterns, dispatch.TRITON)
        grad_x, found = dispatch.TRITON.run_backward(grad, x, weights, patterns, need_x)
        return grad_x, [g if need else None for g, need in zip(found, need_weights, strict=True)]
    padded = _padded(x, cols)
    grad_x, grads = pull_back(_padded(grad, full), padded, weights, patterns, need_x, need_weights)
    return (grad_x if grad_x is None or n == cols else grad_x[..., :n]), grads


def _padded(x: Tensor, size: int) -> Tensor:
    """Vectors with zeros behind, as they are if they are long enough."""
    return x if x.shape[-1] == size else functional.pad(x, (0, size - x.shape[-1]))


def _is_recorded(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> bool:
    """Whether autograd records what is made of these."""
    given = [x, *weights, *([] if bias is None else [bias])]
    return torch.is_grad_enabled() and any(t.requires_grad for t in given)
