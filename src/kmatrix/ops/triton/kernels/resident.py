"""Two factors whose blocks stay on the chip while all vectors pass, a tile of whole vectors at a time.

Memory sees each vector once and each product once, and nothing lies between the factors but registers and shared
memory. A factor of pattern ``(a, b, c, d)`` comes packed as ``(a or 1, d or 1, c, b)``, as everywhere.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.arithmetic import activate, narrowed, stacked_product


@triton.jit
def blocks(weights, F: tl.constexpr):
    """All blocks of a factor as a stack of matrices, inputs before outputs."""
    STACK: tl.constexpr = F[4] * F[5]
    g = tl.arange(0, STACK)[:, None, None]
    c = tl.arange(0, F[2])[None, :, None]
    b = tl.arange(0, F[1])[None, None, :]
    return tl.load(weights + F[6] + (g * F[2] + c) * F[1] + b)


@triton.jit
def through(vectors, stack, F: tl.constexpr, PRECISION: tl.constexpr):
    """Whole vectors times a factor: ``(BT, a c d) -> (BT, a b d)``, in float32.

    ``F`` is what ``resident.constants`` says. Groups and diagonals that share their block stand beside the vectors, as
    rows of one product.
    """
    BT: tl.constexpr = vectors.shape[0]
    A: tl.constexpr = F[0]
    B: tl.constexpr = F[1]
    C: tl.constexpr = F[2]
    D: tl.constexpr = F[3]
    SHARED_A: tl.constexpr = F[4] == 1
    SHARED_D: tl.constexpr = F[5] == 1
    STACK: tl.constexpr = F[4] * F[5]
    M: tl.constexpr = BT * A * D // STACK
    entries = tl.reshape(vectors, (BT, A, C, D))
    if SHARED_A and SHARED_D:
        rows = tl.permute(entries, (0, 1, 3, 2))
    elif SHARED_D:
        rows = tl.permute(entries, (1, 0, 3, 2))
    elif SHARED_A:
        rows = tl.permute(entries, (3, 0, 1, 2))
    else:
        rows = tl.permute(entries, (1, 3, 0, 2))
    total = stacked_product(tl.reshape(rows, (STACK, M, C)), stack, PRECISION)
    if SHARED_A and SHARED_D:
        found = tl.permute(tl.reshape(total, (BT, A, D, B)), (0, 1, 3, 2))
    elif SHARED_D:
        found = tl.permute(tl.reshape(total, (A, BT, D, B)), (1, 0, 3, 2))
    elif SHARED_A:
        found = tl.permute(tl.reshape(total, (D, BT, A, B)), (1, 2, 3, 0))
    else:
        found = tl.permute(tl.reshape(total, (A, D, BT, B)), (2, 0, 3, 1))
    return tl.reshape(found, (BT, A * B * D))


@triton.jit
def whole_tile(
    x,
    x_stride,
    y,
    y_stride,
    first,
    second,
    added,
    tile,
    rows,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BT: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Tile number ``tile`` of whole vectors times both factors, and what follows them."""
    TYPE: tl.constexpr = y.dtype.element_ty
    t = tile * BT + tl.arange(0, BT)
    there = (t < rows)[:, None]
    t = t.to(tl.int64)[:, None]
    entry = tl.arange(0, FIRST[0] * FIRST[2] * FIRST[3])[None, :]
    out = tl.arange(0, SECOND[0] * SECOND[1] * SECOND[3])[None, :]
    vectors = tl.load(x + t * x_stride + entry, mask=there, other=0.0)
    between = narrowed(through(vectors, first, FIRST, PRECISION), TYPE, PRECISION)
    total = through(between, second, SECOND, PRECISION)
    if BIASED:
        total += added
    total = activate(total, ACTIVATION)
    tl.store(y + t * y_stride + out, narrowed(total, TYPE, PRECISION), mask=there)


@triton.jit(do_not_specialize=["rows"])
def resident_kernel(
    x,
    x_stride,
    y,
    y_stride,
    weights,
    bias,
    rows,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BT: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All vectors, in tiles of ``BT``: program ``i`` takes tiles ``i``, ``i + programs`` and so on."""
    first = blocks(weights, FIRST)
    second = blocks(weights, SECOND)
    added = None
    if BIASED:
        added = tl.load(bias + tl.arange(0, SECOND[0] * SECOND[1] * SECOND[3])[None, :]).to(tl.float32)
    tiles = (rows + BT - 1) // BT
    if PRECISION == "wide":  # the interpreter, which cannot count to a tensor
        tile = tl.program_id(0)
        while tile < tiles:
            whole_tile(
                x, x_stride, y, y_stride, first, second, added, tile, rows,
                FIRST, SECOND, BT, BIASED, ACTIVATION, PRECISION,
            )  # fmt: skip
            tile += tl.num_programs(0)
    else:  # the next tiles are on their way while one is multiplied
        for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0)):
            whole_tile(
                x, x_stride, y, y_stride, first, second, added, tile, rows,
                FIRST, SECOND, BT, BIASED, ACTIVATION, PRECISION,
            )  # fmt: skip
