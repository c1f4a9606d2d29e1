"""The chain product and its gradients as elementwise products and sums.

The older ``vmap``, which ``torch.autograd`` still uses for ``is_grads_batched`` and ``vectorize``, knows few
functions; these suffice. Each factor costs memory for all its products, so nothing else should run this.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kmatrix.ops.definition import Pattern


def elementwise_chain_matmul(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> Tensor:
    """The chain product."""
    for w, p in zip(weights, patterns, strict=True):
        x = _apply(x, w, p)
    return x


def elementwise_chain_gradients(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern]
) -> list[Tensor]:
    """Gradients of ``x`` and of every weight."""
    inputs = [x]
    for w, p in zip(weights[:-1], patterns[:-1], strict=True):
        inputs.append(_apply(inputs[-1], w, p))
    gradients: list[Tensor] = []
    for h, w, p in zip(reversed(inputs), reversed(weights), reversed(patterns), strict=True):
        left = grad.reshape(-1, p.a, p.b, 1, p.d)
        products = left * h.reshape(-1, p.a, 1, p.c, p.d).conj()
        gradients.append(products.sum(0).sum_to_size(w.shape))
        grad = _apply(grad, w.transpose(1, 2).conj(), p.transposed)
    return [grad, *reversed(gradients)]


def _apply(x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
    a, _, c, d = pattern
    products = weight * x.reshape(*x.shape[:-1], a, 1, c, d)
    return products.sum(-2).reshape(*x.shape[:-1], pattern.rows)
