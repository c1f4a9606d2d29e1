"""The backward passes of the chain product, with and without the registered operators.

Only the vectors and the weights are saved. Every gradient is again made of what it differentiates, so that
passes of any order exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kmatrix.ops import dispatch
from kmatrix.ops.calls import record, repeated
from kmatrix.ops.definition import (
    Pattern,
    Patterns,
    flatten_patterns,
    reference_chain_matmul,
    unflatten_patterns,
)
from kmatrix.ops.gradients import (
    PLAIN,
    Arithmetic,
    adjoint_chain,
    chain_gradients,
    second_order_gradients,
)
from kmatrix.ops.routing import Route, is_autocast, route


def multiply_operator(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> Tensor:
    """The chain product through the registered operator."""
    product: Tensor = torch.ops.kmatrix.chain_matmul.default(x, weights, flatten_patterns(patterns))
    return product


def gradients_operator(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern], need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    """Its gradients through the registered operator; that of ``x`` is empty where it is not needed."""
    operator = torch.ops.kmatrix.chain_matmul_backward.default
    grad_x, *grad_weights = operator(grad, x, weights, flatten_patterns(patterns), need_x)
    return grad_x, grad_weights


def multiply_watched(x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
    """The chain product of a call that autograd alone watches, without the overhead of the operator."""
    apply: Callable[..., Tensor] = _ChainProduct.apply
    return apply(patterns, x, *weights)


class _ChainProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patterns: Patterns, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.patterns = patterns
        ctx.save_for_backward(x, *weights)
        again = repeated(x, weights, patterns)
        if isinstance(again, Tensor):
            return again
        record(x, weights, patterns, patterns)
        return dispatch.run(x, weights, patterns)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        _, need_x, *need_weights = ctx.needs_input_grad
        grad_x, grad_weights = pull_back(grad, x, weights, ctx.patterns, need_x, need_weights)
        return None, grad_x, *grad_weights


def setup_context(ctx: Any, inputs: tuple[Tensor, list[Tensor], list[int]], output: Tensor) -> None:
    """Keep what ``backward`` needs."""
    x, weights, ctx.patterns = inputs
    ctx.save_for_backward(x, *weights)


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, list[Tensor | None], None]:
    """Backward pass of the operator."""
    x, *weights = ctx.saved_tensors
    need_x, need_weights, _ = ctx.needs_input_grad
    patterns = unflatten_patterns(ctx.patterns)
    return *pull_back(grad, x, weights, patterns, need_x, need_weights), None


def pull_back(
    grad: Tensor, x: Tensor, weights: list[Tensor], patterns: Patterns, need_x: bool, need_weights: list[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients that are needed, by the route that this pass itself takes."""
    if is_autocast(grad):
        # The forward pass has chosen the types, whatever autocast says where backward is called.
        with torch.autocast(grad.device.type, enabled=False):
            return pull_back(grad, x, weights, patterns, need_x, need_weights)
    how = route(grad, [x, *weights])
    if not any(need_weights):
        return _adjoint_product(how, grad, weights, patterns), [None] * len(weights)
    grad_x: Tensor | None
    if how is Route.DEFINITION:
        grad_x, grad_weights = chain_gradients(grad, x, weights, patterns)
    elif how is Route.DIRECT:
        grad_x, grad_weights = dispatch.run_backward(grad, x, weights, patterns, need_x)
    else:
        grad_x, grad_weights = gradients_operator(grad, x, weights, patterns, need_x)
    needed = [g if need else None for g, need in zip(grad_weights, need_weights, strict=True)]
    return (grad_x if need_x else None), needed


def _adjoint_product(how: Route, grad: Tensor, weights: list[Tensor], patterns: Patterns) -> Tensor:
    """With all weights frozen the backward pass is a chain product itself."""
    adjoint, transposed = adjoint_chain(weights, patterns)
    if how is Route.DEFINITION:
        return reference_chain_matmul(grad, adjoint, transposed)
    if how is Route.DIRECT:
        return dispatch.run(grad, adjoint, tuple(transposed))
    return multiply_operator(grad, adjoint, transposed)


def setup_backward_context(
    ctx: Any, inputs: tuple[Tensor, Tensor, list[Tensor], list[int], bool], output: list[Tensor]
) -> None:
    """Keep what ``double_backward`` needs."""
    grad, x, weights, ctx.patterns, ctx.need_x = inputs
    ctx.save_for_backward(grad, x, *weights)


def double_backward(ctx: Any, upstream: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor], None, None]:
    """Backward pass of the backward operator."""
    grad, x, *weights = ctx.saved_tensors
    tangents = (upstream[0] if ctx.need_x else torch.zeros_like(x)), upstream[1:]
    patterns = unflatten_patterns(ctx.patterns)
    arithmetic = PLAIN if route(grad, [x, *weights]) is Route.DEFINITION else _OPERATORS
    return *second_order_gradients(tangents, grad, x, weights, patterns, arithmetic), None, None


def _multiply(x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    return multiply_operator(x, [weight], [pattern])


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    return gradients_operator(grad, x, [weight], [pattern], False)[1][0]


_OPERATORS = Arithmetic(_multiply, _weight_gradient)
