"""One factor times one tile of vectors: what all products of chains are made of.

A factor of pattern ``(a, b, c, d)`` comes packed as ``(a or 1, d or 1, c, b)``, inputs before outputs, so that a tile
is a matrix product ``vectors x c @ c x b`` for each group and diagonal. Complex numbers are real pairs: ``Q = 2``
numbers for each entry, and ``2c x 2b`` blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.arithmetic import activate, narrowed, stacked_product
from kmatrix.ops.triton.kernels.coordinates import columns_of, rows_of
from kmatrix.ops.triton.kernels.memory import numbers, put


@triton.jit
def factor_tile(
    source,
    source_stride,
    target,
    target_stride,
    weight,
    scales,
    bias,
    gather,
    ready,
    free,
    needed,
    tile,
    rows,
    n_in,
    n_out,
    FACTORS: tl.constexpr,
    k: tl.constexpr,
    Q: tl.constexpr,
    GATHERED: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    LAST: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SCALES_BEGIN: tl.constexpr,
    READY: tl.constexpr,
    GUARDED: tl.constexpr,
    ONCE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply tile number ``tile`` of the first ``rows`` vectors of ``source`` by factor ``k``, into ``target``.

    ``FACTORS`` are what ``launch.constants`` says of each. The tile waits until the counter ``ready`` is at ``READY``,
    if that is not 0, and if it is ``GUARDED`` until ``free`` is at ``needed``; weights are on their way before that. A
    source for which it does not wait is read ``ONCE``, or again later.
    """
    F: tl.constexpr = FACTORS[k]
    A: tl.constexpr = F[0]
    B: tl.constexpr = F[1] * Q
    C: tl.constexpr = F[2] * Q
    D: tl.constexpr = F[3]
    BT: tl.constexpr = F[6]
    BD: tl.constexpr = F[7]
    BB: tl.constexpr = F[8]
    BC: tl.constexpr = F[9]
    STEPS: tl.constexpr = F[10]
    D_BLOCKS: tl.constexpr = (D + BD - 1) // BD
    B_BLOCKS: tl.constexpr = (B + BB - 1) // BB
    GROUPS: tl.constexpr = 1 if F[5] == 1 else BD
    M: tl.constexpr = BT * BD // GROUPS

    block = tile % B_BLOCKS
    rest = tile // B_BLOCKS
    d0 = (rest % D_BLOCKS) * BD
    rest = rest // D_BLOCKS
    a = rest % A
    first = (rest // A) * (BT * STEPS)

    t0, d, stack = rows_of(d0, BT, BD, F[5])
    t0 += first
    b = block * BB + tl.arange(0, BB)
    c = tl.arange(0, BC)
    weight += a * F[11] + stack.to(tl.int64)[:, None, None] * F[12]
    held = (stack < F[5])[:, None, None] & (b < B)[None, None, :]
    if C <= BC:
        matrix = block_of(weight, c, b, held, C, F[13], F[14])
    if SCALED:
        scale = tl.load(
            scales + SCALES_BEGIN + (a if F[4] > 1 else 0) * F[5] + stack, mask=stack < F[5], other=0.0
        )
    if READY > 0:
        wait_for(ready, READY)
    if GUARDED:
        wait_for(free, needed)
    out = columns_of(a, b, d, F[1], D, Q)
    kept = (d < D)[:, :, None] & (b < B)[None, None, :]
    if LAST and CROPPED:
        kept = kept & (out < n_out)
    for step in range(STEPS):
        t = t0 + step * BT
        there = (t < rows) & (d < D)
        from_row = source + t.to(tl.int64)[:, :, None] * source_stride
        if C <= BC:
            vectors = entries_of(
                from_row, columns_of(a, c, d, F[2], D, Q), there[:, :, None] & (c < C)[None, None, :], gather, n_in,
                A * F[2] * D, Q, GATHERED, PADDED, READY > 0, ONCE and B_BLOCKS == 1,
            )  # fmt: skip
            total = stacked_product(vectors, matrix, PRECISION)
        else:
            total = tl.zeros((GROUPS, M, BB), tl.float32)
            for start in tl.range(0, C, BC, num_stages=2):
                part = start + c
                vectors = entries_of(
                    from_row, columns_of(a, part, d, F[2], D, Q), there[:, :, None] & (part < C)[None, None, :],
                    gather, n_in, A * F[2] * D, Q, GATHERED, PADDED, READY > 0, ONCE and B_BLOCKS == 1,
                )  # fmt: skip
                matrix = block_of(weight, part, b, held, C, F[13], F[14])
                total += stacked_product(vectors, matrix, PRECISION)
        wanted = kept & there[:, :, None]
        if SCALED:
            total *= scale[:, None, None]
        if LAST:
            if BIASED:
                total += tl.load(bias + out, mask=wanted, other=0.0).to(tl.float32)
            total = activate(total, ACTIVATION)
        total = narrowed(total, target.dtype.element_ty, PRECISION)
        put(target + t.to(tl.int64)[:, :, None] * target_stride + out, total, wanted, LAST)


@triton.jit
def entries_of(
    row, column, inside, gather, n_in,
    SIZE: tl.constexpr, Q: tl.constexpr, GATHERED: tl.constexpr, PADDED: tl.constexpr, FRESH: tl.constexpr,
    ONCE: tl.constexpr,
):  # fmt: skip
    """Numbers of vectors, which have ``n_in``, where they would lie in ones of ``SIZE`` entries that are gathered."""
    if GATHERED:  # negative entries count from the end, as in torch; what is outside is zero
        entry = tl.load(gather + column // Q, mask=inside, other=0)
        entry = tl.where(entry < 0, entry + SIZE, entry)
        inside = inside & (entry >= 0) & (entry < n_in // Q)  # before a product that might overflow
        column = entry * Q + column % Q
    if PADDED:
        inside = inside & (column < n_in)
    return numbers(row + column, inside, FRESH, ONCE)


@triton.jit
def block_of(weight, c, b, held, C: tl.constexpr, INPUT_STRIDE: tl.constexpr, OUTPUT_STRIDE: tl.constexpr):
    """The numbers of packed weights for inputs ``c`` and outputs ``b``."""
    place = weight + c[None, :, None] * INPUT_STRIDE + b[None, None, :] * OUTPUT_STRIDE
    return tl.load(place, mask=held & (c < C)[None, :, None], other=0.0)


@triton.jit
def wait_for(counter, count):
    """Wait until a counter has reached ``count``; what was written before it was raised can be read then."""
    seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    while seen < count:
        seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit(do_not_specialize=["rows"])
def factor_kernel(
    x,
    x_stride,
    y,
    y_stride,
    weight,
    scales,
    bias,
    gather,
    rows,
    n_in,
    n_out,
    F: tl.constexpr,
    Q: tl.constexpr,
    GATHERED: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    LAST: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One factor, a program for each tile."""
    factor_tile(
        x, x_stride, y, y_stride, weight, scales, bias, gather, None, None, 0, tl.program_id(0), rows, n_in, n_out,
        (F,), 0, Q, GATHERED, PADDED, CROPPED, SCALED, LAST, BIASED, ACTIVATION, 0, 0, False, True, PRECISION,
    )  # fmt: skip
