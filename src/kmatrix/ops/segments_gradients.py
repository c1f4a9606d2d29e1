"""The gradients of the product with boxes, ``y = (x V) U^T`` with masked factors ``V`` ``(n, K)`` and ``U`` ``(m, K)``.

``dU = grad^T (x V)`` and ``dV = x^T (grad U)``, conjugated where numbers are complex, are products with all of the
batch, of which only the entries on the segments are kept. What is multiplied by ``U`` or ``V`` themselves goes through
the kernels where nothing watches; otherwise every step is differentiable torch.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kmatrix.ops.routing import Route, route
from kmatrix.ops.segments_definition import Covered, covered, side_factor
from kmatrix.ops.segments_dispatch import NATIVE, native_is_next, run

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class _Halves(Protocol):
    """The products with one side of the boxes, on vectors ``(batch, size)``."""

    def middle(self, vectors: Tensor) -> Tensor:
        """``x V``."""

    def middle_gradient(self, upstream: Tensor) -> Tensor:
        """``grad conj(U)``."""

    def vector_gradient(self, middle: Tensor) -> Tensor:
        """``middle V^H``."""


class _Masked:
    """Masked dense factors: differentiable, on every device, in every type."""

    def __init__(
        self, left: Tensor, right: Tensor, rows: tuple[Covered, int], cols: tuple[Covered, int], boxes: int
    ) -> None:
        self.onto = side_factor(right, *cols, boxes)
        self.back = side_factor(left, *rows, boxes)

    def middle(self, vectors: Tensor) -> Tensor:
        return vectors @ self.onto

    def middle_gradient(self, upstream: Tensor) -> Tensor:
        return upstream @ self.back.conj()

    def vector_gradient(self, middle: Tensor) -> Tensor:
        return middle @ self.onto.mH


class _Native:
    """One side as boxes whose other side is a single place each; for real numbers."""

    def __init__(self, left: Tensor, right: Tensor, places: Tensor, cols: int) -> None:
        self.left, self.right, self.cols = left, right, cols
        self.on_rows, self.on_cols = places[:2], places[2:]
        boxes = places.shape[1]
        index = torch.arange(boxes, device=places.device)
        self.single = torch.stack([index, torch.ones_like(index)])
        self.ones = torch.ones(boxes, dtype=left.dtype, device=left.device)

    def middle(self, vectors: Tensor) -> Tensor:
        return run(vectors, self.ones, self.right, torch.cat([self.single, self.on_cols]), len(self.ones))

    def middle_gradient(self, upstream: Tensor) -> Tensor:
        return run(upstream, self.ones, self.left, torch.cat([self.single, self.on_rows]), len(self.ones))

    def vector_gradient(self, middle: Tensor) -> Tensor:
        return run(middle, self.right, self.ones, torch.cat([self.on_cols, self.single]), self.cols)


def segments_gradients(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, places: Tensor, need: tuple[bool, ...]
) -> Gradients:
    """The gradients of ``x``, ``left`` and ``right`` that are needed."""
    rows, cols, boxes = grad.shape[-1], x.shape[-1], places.shape[1]
    on_rows = covered(places[0], places[1], rows, left.shape[0])
    on_cols = covered(places[2], places[3], cols, right.shape[0])
    direct = route(grad, (x, left, right, places)) is Route.DIRECT and native_is_next()
    halves: _Halves
    if direct and NATIVE.can_run(x, left, right, places, rows).ok:
        halves = _Native(left, right, places, cols)
    else:
        halves = _Masked(left, right, (on_rows, rows), (on_cols, cols), boxes)
    vectors, upstream = x.reshape(-1, cols), grad.reshape(-1, rows)
    grad_x = grad_left = grad_right = None
    if need[1]:
        grad_left = _kept(upstream.mT @ halves.middle(vectors).conj(), on_rows)
    if need[0] or need[2]:
        middle = halves.middle_gradient(upstream)
        if need[2]:
            grad_right = _kept(vectors.mT.conj() @ middle, on_cols)
        if need[0]:
            grad_x = halves.vector_gradient(middle).reshape(x.shape)
    return grad_x, grad_left, grad_right


def _kept(gradient: Tensor, where: Covered) -> Tensor:
    """The entries on the segments, box after box."""
    return gradient[where.position, where.owner]
