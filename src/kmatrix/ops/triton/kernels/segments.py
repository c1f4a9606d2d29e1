"""Products with the masked factors of a sum of boxes, in tiles of boxes and positions that touch each other.

``boxes``, int64 ``(4, padded)``, describes one side: start, width, first number and, for the results, the row of each
box. Boxes stand in an order in which neighbours cover much the same positions; ``padded`` is their number, filled up
with empty ones to whole tiles. What the boxes make of the vectors, ``z``, holds a row for each box, its vectors side by
side, so that rows can be permuted at no cost. Complex numbers are real pairs: ``Q = 2`` rows for each box, ``Q = 2``
columns for each position, and a ``2 x 2`` block for each number; the component of the box that changes the sign of the
imaginary part is ``FLIP``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.arithmetic import multiply, narrowed


@triton.jit
def counted(count, PRECISION: tl.constexpr):
    """A scalar as the bound of a loop: Triton's interpreter takes a number of Python's only."""
    if PRECISION == "wide":
        return count.handle.data.item()
    else:
        return count


@triton.jit
def gathered(
    numbers,
    boxes,
    padded,
    size,
    i,
    j,
    BK: tl.constexpr,
    BP: tl.constexpr,
    Q: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Tile ``i`` of the boxes, tile ``j`` of the positions of a masked factor, from its packed numbers."""
    row = i * BK + tl.arange(0, BK)
    column = j * BP + tl.arange(0, BP)
    start = tl.load(boxes + row // Q).to(tl.int32)
    width = tl.load(boxes + padded + row // Q).to(tl.int32)
    first = tl.load(boxes + 2 * padded + row // Q)
    position = (column // Q)[None, :]
    offset = position - start[:, None]
    offset = tl.where(offset < 0, offset + size, offset)
    inside = (offset < width[:, None]) & (position < size)
    if Q == 1:
        return tl.load(numbers + first[:, None] + offset, mask=inside, other=0.0)
    else:
        component = (row % Q)[:, None]
        crossed = component ^ (column % Q)[None, :]
        value = tl.load(numbers + 2 * first[:, None] + (2 * offset + crossed), mask=inside, other=0.0)
        return tl.where((crossed == 1) & (component == FLIP), -value, value)


@triton.jit
def masked(
    numbers,
    stride,
    boxes,
    padded,
    size,
    i,
    j,
    BK: tl.constexpr,
    BP: tl.constexpr,
    Q: tl.constexpr,
    FLIP: tl.constexpr,
    STRAIGHT: tl.constexpr,
):
    """``gathered``, or the same tile from what ``expand_kernel`` has made of the numbers."""
    if STRAIGHT:
        return gathered(numbers, boxes, padded, size, i, j, BK, BP, Q, FLIP)
    else:
        row = (i * BK + tl.arange(0, BK)).to(tl.int64)
        return tl.load(numbers + row[:, None] * stride + (j * BP + tl.arange(0, BP))[None, :])


@triton.jit
def expand_kernel(
    numbers,
    target,
    stride,
    boxes,
    touching,
    padded,
    size,
    BK: tl.constexpr,
    BP: tl.constexpr,
    Q: tl.constexpr,
    FLIP: tl.constexpr,
):
    """The masked factor, box after box in rows of whole tiles; only tiles that are touched are written."""
    tile = tl.program_id(0)
    if tl.load(touching + tile) != 0:
        tiles = stride // BP
        i = tile // tiles
        j = tile % tiles
        value = gathered(numbers, boxes, padded, size, i, j, BK, BP, Q, FLIP)
        row = (i * BK + tl.arange(0, BK)).to(tl.int64)
        tl.store(target + row[:, None] * stride + (j * BP + tl.arange(0, BP))[None, :], value)


@triton.jit(do_not_specialize=["longest"])
def onto_kernel(
    x,
    x_stride,
    z,
    z_stride,
    numbers,
    stride,
    boxes,
    touched,
    longest,
    rows,
    padded,
    size,
    BK: tl.constexpr,
    BP: tl.constexpr,
    BT: tl.constexpr,
    Q: tl.constexpr,
    FLIP: tl.constexpr,
    STRAIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``z[k, t] = sum_p factor[k, p] x[t, p]`` for a tile of boxes and one of vectors.

    ``touched`` holds in rows of ``longest``, for each tile of boxes, how many tiles of positions it touches, and which.
    Vectors beyond the last are zeros, and are written up to a whole tile: ``z`` is read without masks.
    """
    i = tl.program_id(0) % (padded * Q // BK)
    t = (tl.program_id(0) // (padded * Q // BK)) * BT + tl.arange(0, BT)
    there = (t < rows)[None, :]
    vectors = x + t.to(tl.int64)[None, :] * x_stride
    touched += i * longest
    total = tl.zeros((BK, BT), tl.float32)
    for step in range(counted(tl.load(touched), PRECISION)):
        j = tl.load(touched + 1 + step)
        factor = masked(numbers, stride, boxes, padded, size, i, j, BK, BP, Q, FLIP, STRAIGHT)
        column = (j * BP + tl.arange(0, BP))[:, None]
        tile = tl.load(vectors + column, mask=there & (column < size * Q), other=0.0)
        total += multiply(factor, tile, PRECISION)
    row = i * BK + tl.arange(0, BK)
    slot = tl.load(boxes + 3 * padded + row // Q) * Q + row % Q
    value = narrowed(total, z.dtype.element_ty, PRECISION)
    tl.store(z + slot[:, None] * z_stride + t[None, :], value)


@triton.jit(do_not_specialize=["longest"])
def back_kernel(
    z,
    z_stride,
    y,
    y_stride,
    bias,
    numbers,
    stride,
    boxes,
    touched,
    longest,
    rows,
    padded,
    size,
    BK: tl.constexpr,
    BP: tl.constexpr,
    BT: tl.constexpr,
    Q: tl.constexpr,
    FLIP: tl.constexpr,
    STRAIGHT: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``y[t, p] = sum_k z[k, t] factor[k, p]``, plus a bias, for a tile of vectors and one of positions.

    ``touched`` is as for ``onto_kernel``, with boxes and positions in each other's place.
    """
    tiles = (size * Q + BP - 1) // BP
    j = tl.program_id(0) % tiles
    t = (tl.program_id(0) // tiles) * BT + tl.arange(0, BT)
    touched += j * longest
    total = tl.zeros((BT, BP), tl.float32)
    for step in range(counted(tl.load(touched), PRECISION)):
        i = tl.load(touched + 1 + step)
        row = (i * BK + tl.arange(0, BK)).to(tl.int64)
        factor = masked(numbers, stride, boxes, padded, size, i, j, BK, BP, Q, FLIP, STRAIGHT)
        tile = tl.load(z + row[:, None] * z_stride + t[None, :])
        total += multiply(tl.trans(tile), factor, PRECISION)
    column = j * BP + tl.arange(0, BP)
    if BIASED:
        total += tl.load(bias + column, mask=column < size * Q, other=0.0).to(tl.float32)[None, :]
    tl.store(
        y + t.to(tl.int64)[:, None] * y_stride + column[None, :],
        narrowed(total, y.dtype.element_ty, PRECISION),
        mask=(t < rows)[:, None] & (column < size * Q)[None, :],
    )


@triton.jit(do_not_specialize=["total", "steps"])
def outer_kernel(
    z,
    z_stride,
    x,
    x_stride,
    target,
    boxes,
    touching,
    rows,
    padded,
    size,
    total,
    steps,
    BK: tl.constexpr,
    BP: tl.constexpr,
    BT: tl.constexpr,
    Q: tl.constexpr,
    FLIP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``target[part, number at (k, p)] = sum_t z[k, t] x[t, p]`` over the vectors of a part, ``steps`` times ``BT``.

    A number has one box and one position, so that it is written once for each part. With complex numbers ``x`` is
    conjugated, or ``z`` if ``FLIP`` is 1.
    """
    tiles = (size * Q + BP - 1) // BP
    place = tl.program_id(0) % (tiles * (padded * Q // BK))
    part = tl.program_id(0) // (tiles * (padded * Q // BK))
    i = place // tiles
    j = place % tiles
    if tl.load(touching + place) != 0:
        row = (i * BK + tl.arange(0, BK)).to(tl.int64)[:, None]
        column = (j * BP + tl.arange(0, BP))[None, :]
        found = tl.zeros((BK, BP), tl.float32)
        for step in range(counted(steps, PRECISION)):
            t = (part * steps + step) * BT + tl.arange(0, BT)
            left = tl.load(z + row * z_stride + t[None, :], mask=(t < z_stride)[None, :], other=0.0)
            right = tl.load(
                x + t.to(tl.int64)[:, None] * x_stride + column,
                mask=(t < rows)[:, None] & (column < size * Q),
                other=0.0,
            )
            found += multiply(left, right, PRECISION)
        box = i * (BK // Q) + tl.arange(0, BK // Q)
        position = (j * (BP // Q) + tl.arange(0, BP // Q))[None, :]
        start = tl.load(boxes + box).to(tl.int32)
        width = tl.load(boxes + padded + box).to(tl.int32)
        first = tl.load(boxes + 2 * padded + box)
        offset = position - start[:, None]
        offset = tl.where(offset < 0, offset + size, offset)
        inside = (offset < width[:, None]) & (position < size)
        here = target + (part.to(tl.int64) * total + first[:, None] + offset) * Q
        if Q == 1:
            tl.store(here, narrowed(found, target.dtype.element_ty, PRECISION), mask=inside)
        else:
            pairs = tl.permute(tl.reshape(found, (BK // 2, 2, BP // 2, 2)), (0, 2, 1, 3))
            with_real, with_imaginary = tl.split(pairs)
            one, across = tl.split(with_real)
            back, other = tl.split(with_imaginary)
            imaginary = across - back
            if FLIP == 1:
                imaginary = -imaginary
            tl.store(here, one + other, mask=inside)
            tl.store(here + 1, imaginary, mask=inside)
