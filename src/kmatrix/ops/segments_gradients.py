"""The gradients of the product with boxes, ``y = (x V) U^T`` with masked factors ``V`` ``(n, K)`` and ``U`` ``(m, K)``.

``dU = grad^T (x V)`` and ``dV = x^T (grad U)``, conjugated where numbers are complex, are products with all of the
batch, of which only the entries on the segments are kept; where there are few vectors and many entries, the others are
never made. What is multiplied by ``U`` or ``V`` themselves goes through the kernels where nothing watches; otherwise
every step is differentiable torch.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kmatrix.ops.dispatch import resolved
from kmatrix.ops.routing import Route, route
from kmatrix.ops.segments_definition import covered, side_factor
from kmatrix.ops.segments_dispatch import NATIVE, native_is_next
from kmatrix.ops.triton.segments import Gradients

# Up to so many vectors, and from so many entries of a dense product on, gathering is cheaper than what the product
# writes; measured for n = 256 (never), 1024 (equal) and 2048 (two to eight times).
FEW_VECTORS = 4
MANY_ENTRIES = 2**21


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

    def __init__(self, left: Tensor, right: Tensor, places: Tensor, rows: int, cols: int) -> None:
        boxes = places.shape[1]
        self.back = side_factor(left, covered(places[0], places[1], rows, len(left)), rows, boxes)
        self.onto = side_factor(right, covered(places[2], places[3], cols, len(right)), cols, boxes)

    def middle(self, vectors: Tensor) -> Tensor:
        return vectors @ self.onto

    def middle_gradient(self, upstream: Tensor) -> Tensor:
        return upstream @ self.back.conj()

    def vector_gradient(self, middle: Tensor) -> Tensor:
        return middle @ self.onto.mH


class _Native:
    """One side as boxes whose other side is a single place each; for real numbers.

    These boxes are made for one backward pass, so what is packed of them is not kept.
    """

    def __init__(self, left: Tensor, right: Tensor, places: Tensor, cols: int) -> None:
        (self.left, self.right), self.cols = resolved([left, right]), cols
        self.on_rows, self.on_cols = places[:2], places[2:]
        boxes = places.shape[1]
        index = torch.arange(boxes, device=places.device)
        self.single = torch.stack([index, torch.ones_like(index)])
        self.ones = torch.ones(boxes, dtype=left.dtype, device=left.device)

    def middle(self, vectors: Tensor) -> Tensor:
        return self._run(vectors, self.ones, self.right, [self.single, self.on_cols], len(self.ones))

    def middle_gradient(self, upstream: Tensor) -> Tensor:
        return self._run(upstream, self.ones, self.left, [self.single, self.on_rows], len(self.ones))

    def vector_gradient(self, middle: Tensor) -> Tensor:
        return self._run(middle, self.right, self.ones, [self.on_cols, self.single], self.cols)

    @staticmethod
    def _run(x: Tensor, left: Tensor, right: Tensor, sides: list[Tensor], rows: int) -> Tensor:
        (x,) = resolved([x])
        return NATIVE.run(x, left, right, torch.cat(sides), rows, keep=False)


class _Side(NamedTuple):
    """One side of the boxes: segments of ``0 .. size-1`` that hold ``total`` numbers."""

    start: Tensor
    width: Tensor
    size: int
    total: int

    def walk(self, stride: int, shift: Tensor) -> Tensor:
        """``stride * position + shift[owner]`` of each number, box after box.

        Along a box it grows by the stride, so it is a running sum of steps that are that nearly everywhere: fifteen
        times as fast as looking up owners and positions.
        """
        start, width, size, total = self
        end = width.cumsum(0)
        first = end - width
        step = torch.full((total + 1,), stride, dtype=torch.int64, device=start.device)
        step[0] = 0
        ahead = (start - first) * stride + shift  # of numbers counted through all boxes
        step.index_add_(0, first, torch.diff(ahead, prepend=ahead.new_zeros(1)))
        around = start + width > size
        turn = torch.full_like(start, -size * stride)
        step.index_add_(0, torch.where(around, first + (size - start), total), turn)
        step.index_add_(0, torch.where(around, end, total), -turn)
        return step.cumsum(0)[:total]

    def kept(self, one: Tensor, middle: Tensor, direct: bool) -> Tensor:
        """The entries of ``one^T middle`` on the segments, box after box."""
        boxes, vectors = len(self.width), len(one)
        if direct and vectors <= FEW_VECTORS and self.size * boxes >= MANY_ENTRIES:
            at = self.walk(1, torch.zeros_like(self.start))
            owners = middle.repeat_interleave(self.width, 1, output_size=self.total)
            return (one.index_select(1, at) * owners).sum(0)
        at = self.walk(boxes, torch.arange(boxes, device=self.start.device))
        return (one.mT @ middle).reshape(-1).index_select(0, at)


def segments_gradients(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, places: Tensor, need: tuple[bool, ...]
) -> Gradients:
    """The gradients of ``x``, ``left`` and ``right`` that are needed."""
    rows, cols = grad.shape[-1], x.shape[-1]
    direct = route(grad, (x, left, right, places)) is Route.DIRECT
    halves: _Halves
    if direct and native_is_next() and NATIVE.can_run(x, left, right, places, rows).ok:
        halves = _Native(left, right, places, cols)
    else:
        halves = _Masked(left, right, places, rows, cols)
    vectors, upstream = x.reshape(-1, cols), grad.reshape(-1, rows)
    grad_x = grad_left = grad_right = None
    if need[1]:
        on_rows = _Side(places[0], places[1], rows, left.shape[0])
        grad_left = on_rows.kept(upstream, halves.middle(vectors).conj(), direct)
    if need[0] or need[2]:
        middle = halves.middle_gradient(upstream)
        if need[2]:
            on_cols = _Side(places[2], places[3], cols, right.shape[0])
            grad_right = on_cols.kept(vectors.conj(), middle, direct)
        if need[0]:
            grad_x = halves.vector_gradient(middle).reshape(x.shape)
    return grad_x, grad_left, grad_right
