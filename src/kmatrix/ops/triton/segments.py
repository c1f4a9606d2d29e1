"""The product with a sum of boxes and its gradients on the GPU: what ``ops.segments_dispatch`` calls."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops import dispatch
from kmatrix.ops.segments_definition import is_empty
from kmatrix.ops.triton.available import can_compute, precision
from kmatrix.ops.triton.backend import DTYPES, device_of
from kmatrix.ops.triton.chip import chip
from kmatrix.ops.triton.launch import rows_of
from kmatrix.ops.triton.segments_plan import PROGRAMS, SMALL_MEMORY, Side, sides_of, tile_for
from kmatrix.ops.verdict import Verdict

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

# Up to so many tiles of so many vectors, packed numbers are read where they are and not expanded first; more vectors
# leave no registers for finding numbers.
_FEW_TILES, _FEW = 2, 64
_MOST_PARTS = 16  # of the vectors, whose gradients are summed apart
_DEEP = 128  # bytes of vectors that one step of a sum over vectors takes


class TritonSegments:
    """Kernels on NVIDIA GPUs that skip where no box is; on the CPU only in Triton's interpreter, asked for by name."""

    name = "triton"

    def can_run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Verdict:
        """Everything on a GPU in the number types of the kernels that is not empty."""
        ok, reason = can_compute(x, DTYPES, dispatch.requested() == self.name)
        if not ok:
            return Verdict(False, reason)
        if is_empty(x, left, right, rows):
            return Verdict(False, "empty tensors need no speed")
        return Verdict(True, f"{reason}, tiles that boxes touch")

    def run(
        self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int, bias: Tensor | None = None
    ) -> Tensor:
        """The product, plus a contiguous bias of its type."""
        with device_of(x):
            call = _Call(x, left, right, places, rows)
            z = call.onto(call.pairs(x), call.factor(right, call.sides.cols))
            y = call.back(z, call.factor(left, call.sides.rows), bias)
        return y.view(*x.shape[:-1], rows)

    def run_backward(
        self,
        grad: Tensor,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        places: Tensor,
        need: tuple[bool, ...],
    ) -> Gradients:
        """The gradients of ``x``, ``left`` and ``right`` that are needed, as new contiguous tensors."""
        grad_x = grad_left = grad_right = None
        with device_of(x):
            call = _Call(x, left, right, places, grad.shape[-1])
            on_cols = call.factor(right, call.sides.cols) if need[0] or need[1] else None
            upstream = call.pairs(grad)
            if need[1]:
                assert on_cols is not None
                grad_left = call.outer(call.onto(call.pairs(x), on_cols), upstream, call.sides.rows, left)
            if need[0] or need[2]:
                z = call.onto(upstream, call.factor(left, call.sides.rows))
                if need[2]:
                    grad_right = call.outer(z, call.pairs(x), call.sides.cols, right)
                if need[0]:
                    assert on_cols is not None
                    grad_x = call.back(z, on_cols).view(x.shape)
        return grad_x, grad_left, grad_right


class _Factor(NamedTuple):
    """One side of the boxes as the kernels read it: packed numbers, or a masked factor with rows of ``stride``."""

    numbers: Tensor
    stride: int
    side: Side
    flip: int

    @property
    def straight(self) -> bool:
        """Whether the numbers are the packed ones."""
        return self.stride == 0


class _Call:
    """What all launches of one product share."""

    def __init__(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> None:
        self.q = 2 if x.is_complex() else 1
        self.batch = x.numel() // x.shape[-1]
        self.precision = precision()
        boxes = places.shape[1]
        self.tile = tile_for(self.batch, boxes, x.dtype, self.precision, chip(x.device).memory)
        # Buffers of what is summed over; where tiles are looked up, looking up has stages of its own.
        self.stages, self.looked_up = (3, 5) if chip(x.device).memory > SMALL_MEMORY else (2, 3)
        self.sides = sides_of(places, rows, x.shape[-1], len(left), len(right), self.tile, self.q)
        self.vector_tiles = -(-self.batch // self.tile.vectors)

    def factor(self, numbers: Tensor, side: Side) -> _Factor:
        """The numbers of one side, expanded where they are read often."""
        numbers = numbers.contiguous()
        real = torch.view_as_real(numbers) if self.q == 2 else numbers
        # The blocks of complex numbers stand transposed where boxes are what is summed over.
        flip = int(side is self.sides.rows)
        if self.vector_tiles <= _FEW_TILES and self.tile.vectors * self.q <= _FEW:
            return _Factor(real, 0, side, flip)
        from kmatrix.ops.triton.kernels import segments as kernels

        tall, wide = self.tile.outer
        stride = -(-side.size * self.q // wide) * wide
        target = real.new_empty(side.padded * self.q, stride)
        kernels.expand_kernel[(side.outer.numel(),)](
            real, target, stride, side.boxes, side.outer, side.padded, side.size,
            BK=tall, BP=wide, Q=self.q, FLIP=flip, num_warps=8,
        )  # fmt: skip
        return _Factor(target, stride, side, flip)

    def pairs(self, vectors: Tensor) -> Tensor:
        """Vectors as rows of real numbers."""
        rows = rows_of(vectors)
        return torch.view_as_real(rows).flatten(1) if self.q == 2 else rows

    def onto(self, x: Tensor, factor: _Factor) -> Tensor:
        """What the boxes of one side make of rows: a row for each, in the order of the other side."""
        from kmatrix.ops.triton.kernels import segments as kernels

        (tall, wide), vectors, side = self.tile.onto, self.tile.vectors, factor.side
        z = x.new_empty(side.padded * self.q, self.vector_tiles * vectors)
        kernels.onto_kernel[(self.vector_tiles * len(z) // tall,)](
            x, x.stride(0), z, z.stride(0), factor.numbers, factor.stride, side.boxes, side.onto, side.onto.shape[1],
            self.batch, side.padded, side.size,
            BK=tall, BP=wide, BT=vectors, Q=self.q, FLIP=factor.flip, STRAIGHT=factor.straight,
            PRECISION=self.precision, num_warps=self.tile.warps, num_stages=self.looked_up,
        )  # fmt: skip
        return z

    def back(self, z: Tensor, factor: _Factor, bias: Tensor | None = None) -> Tensor:
        """Rows of the numbers of positions, from those of the boxes."""
        from kmatrix.ops.triton.kernels import segments as kernels

        (tall, wide), vectors, side = self.tile.back, self.tile.vectors, factor.side
        y = z.new_empty(self.batch, side.size * self.q)
        kernels.back_kernel[(self.vector_tiles * len(side.back),)](
            z, z.stride(0), y, y.stride(0), bias if bias is None else self.pairs(bias)[0],
            factor.numbers, factor.stride, side.boxes, side.back, side.back.shape[1],
            self.batch, side.padded, side.size,
            BK=tall, BP=wide, BT=vectors, Q=self.q, FLIP=factor.flip, STRAIGHT=factor.straight,
            BIASED=bias is not None, PRECISION=self.precision, num_warps=self.tile.warps, num_stages=self.looked_up,
        )  # fmt: skip
        return torch.view_as_complex(y.view(self.batch, -1, 2)) if self.q == 2 else y

    def outer(self, z: Tensor, x: Tensor, side: Side, numbers: Tensor) -> Tensor:
        """The gradients of the numbers of one side."""
        from kmatrix.ops.triton.kernels import segments as kernels

        tall, wide = self.tile.outer
        deep = min(max(_power(self.batch), 16), _DEEP // x.element_size())
        steps = -(-self.batch // deep)
        # Half of the tiles do nothing, as a guess.
        parts = min(max(4 * PROGRAMS // side.outer.numel(), 1), steps, _MOST_PARTS)
        steps = -(-steps // parts)
        wanted = numbers.dtype if parts == 1 else torch.complex64 if self.q == 2 else torch.float32
        sums = numbers.new_empty((parts, len(numbers)), dtype=wanted)
        kernels.outer_kernel[(parts * side.outer.numel(),)](
            z, z.stride(0), x, x.stride(0), torch.view_as_real(sums) if self.q == 2 else sums,
            side.boxes, side.outer, self.batch, side.padded, side.size, len(numbers), steps,
            BK=tall, BP=wide, BT=deep, Q=self.q, FLIP=int(side is self.sides.rows), PRECISION=self.precision,
            num_warps=self.tile.warps, num_stages=self.stages,
        )  # fmt: skip
        return sums[0] if parts == 1 else sums.sum(0).to(numbers.dtype)


def _power(size: int) -> int:
    """The power of two from ``size`` on."""
    return 1 << (size - 1).bit_length()
