"""The first and second derivatives of the chain product, in plain torch and without calling autograd.

Gradients follow torch's convention for complex numbers: the gradient of a real loss is dL/dRe + i dL/dIm, so
that a map ``F`` pulls gradients back by ``F^H``. Everything here is made of differentiable torch functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops.definition import Pattern, reference_chain_matmul


def adjoint_chain(
    weights: Sequence[Tensor], patterns: Sequence[Pattern]
) -> tuple[list[Tensor], list[Pattern]]:
    """The chain of the conjugate transpose: factors reversed, each conjugated and with b and c exchanged."""
    return [w.transpose(1, 2).conj() for w in reversed(weights)], [p.transposed for p in reversed(patterns)]


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    """Gradient of one factor's weight, summed over the batch and over the axes where it is tied.

    ``gw[A,B,C,D] = sum over the batch of grad[...,A,B,D] * conj(x[...,A,C,D])``.
    """
    a, b, c, d = pattern
    tied_a, tied_d = weight.shape[0] != a, weight.shape[3] != d
    kept = f"{'' if tied_a else 'a'}bc{'' if tied_d else 'd'}"
    batch = x.shape[:-1]
    gw = torch.einsum(
        f"...abd,...acd->{kept}", grad.reshape(*batch, a, b, d), x.reshape(*batch, a, c, d).conj()
    )
    return gw.reshape(weight.shape)


def chain_gradients(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern]
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of ``x`` and of every weight, recomputing the intermediate vectors.

    With ``h_0 = x``, ``h_i = F_i h_{i-1}``, ``g_k = grad`` and ``g_{i-1} = F_i^H g_i`` the gradient of ``x``
    is ``g_0`` and that of the ``i``-th weight is ``g_i h_{i-1}^H`` on its support.
    """
    inputs = [x]
    for w, p in zip(weights[:-1], patterns[:-1], strict=True):
        inputs.append(multiply(inputs[-1], w, p))
    gradients: list[Tensor] = []
    for h, w, p in zip(reversed(inputs), reversed(weights), reversed(patterns), strict=True):
        gradients.append(weight_gradient(grad, h, w, p))
        grad = multiply(grad, w.transpose(1, 2).conj(), p.transposed)
    return grad, gradients[::-1]


class Arithmetic(NamedTuple):
    """Multiplying by one factor, and the gradient of its weight."""

    multiply: Callable[[Tensor, Tensor, Pattern], Tensor]
    weight_gradient: Callable[[Tensor, Tensor, Tensor, Pattern], Tensor]


def multiply(x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    """Multiply by one factor."""
    return reference_chain_matmul(x, [weight], [pattern])


PLAIN = Arithmetic(multiply, weight_gradient)


def second_order_gradients(
    tangents: tuple[Tensor, Sequence[Tensor]],
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Sequence[Pattern],
    arithmetic: Arithmetic = PLAIN,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of ``grad``, ``x`` and the weights through ``chain_gradients``.

    The upstream gradients (one for the gradient of ``x``, one for that of each weight) are the tangents:
    paired with the first-order gradients they give the derivative of ``Re <grad, F(x)>`` along them, which is
    differentiated here by carrying each forward vector ``h`` and backward vector ``g`` together with its own
    derivative.
    """
    times, pull = arithmetic
    dx, dweights = tangents
    hs, dhs = [x], [dx]
    for w, dw, p in zip(weights, dweights, patterns, strict=True):
        h, dh = hs[-1], dhs[-1]
        hs.append(times(h, w, p))
        dhs.append(times(dh, w, p) + times(h, dw, p))
    g, dg = grad, torch.zeros_like(grad)
    gradients: list[Tensor] = []
    for i in reversed(range(len(patterns))):
        w, dw, p = weights[i], dweights[i], patterns[i]
        gradients.append(pull(dg, hs[i], w, p) + pull(g, dhs[i], w, p))
        wh, dwh = w.transpose(1, 2).conj(), dw.transpose(1, 2).conj()
        g, dg = times(g, wh, p.transposed), times(dg, wh, p.transposed) + times(g, dwh, p.transposed)
    return dhs[-1], dg, gradients[::-1]
