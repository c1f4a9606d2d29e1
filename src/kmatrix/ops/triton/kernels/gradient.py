"""The backward pass of one factor: gradients of its input and of its weight, from one reading of both."""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.arithmetic import narrowed, stacked_product
from kmatrix.ops.triton.kernels.coordinates import columns_of, rows_of
from kmatrix.ops.triton.kernels.factor import wait_for
from kmatrix.ops.triton.kernels.memory import numbers, put


@triton.jit
def gradient_tile(
    grad,
    grad_stride,
    x,
    x_stride,
    grad_x,
    grad_x_stride,
    weight,
    scales,
    sums,
    ready,
    free,
    needed,
    before,
    begun,
    tile,
    rows,
    n_in,
    n_out,
    F: tl.constexpr,
    Q: tl.constexpr,
    STEPS: tl.constexpr,
    NEED_X: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    SCALES_BEGIN: tl.constexpr,
    READY: tl.constexpr,
    GUARDED: tl.constexpr,
    X_FRESH: tl.constexpr,
    GRAD_FRESH: tl.constexpr,
    GROWING: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients for ``STEPS * BT`` of the vectors, one group, and a tile of its diagonals, inputs and outputs.

    The gradient of the weight is summed in registers and stored once, in the place of this share in ``sums``, of
    shape ``(shares, a, diagonals or their tiles, c, b)``: adding the shares up is left to torch, which does it in
    the same order every time. If they are ``GROWING``, it is added to what is there as soon as the counter ``before``
    is at ``begun``, or is the first if that is 0. ``NEED_X`` wants all inputs and outputs in one tile. Of ``PADDED``
    vectors only ``n_in`` numbers are there, of ``CROPPED`` gradients ``n_out``. ``X_FRESH`` and ``GRAD_FRESH`` are what
    other programs of the launch have written. The other counters are those of ``factor_tile``.
    """
    A: tl.constexpr = F[0]
    B: tl.constexpr = F[1] * Q
    C: tl.constexpr = F[2] * Q
    D: tl.constexpr = F[3]
    BT: tl.constexpr = F[6]
    BD: tl.constexpr = F[7]
    BB: tl.constexpr = F[8]
    BC: tl.constexpr = F[9]
    D_BLOCKS: tl.constexpr = (D + BD - 1) // BD
    B_BLOCKS: tl.constexpr = (B + BB - 1) // BB
    C_BLOCKS: tl.constexpr = (C + BC - 1) // BC
    SHARED: tl.constexpr = F[5] == 1 or BD == 1
    GROUPS: tl.constexpr = 1 if SHARED else BD
    KEPT: tl.constexpr = D_BLOCKS if SHARED else D

    b = (tile % B_BLOCKS) * BB + tl.arange(0, BB)
    rest = tile // B_BLOCKS
    c = (rest % C_BLOCKS) * BC + tl.arange(0, BC)
    rest = rest // C_BLOCKS
    d_block = rest % D_BLOCKS
    d0 = d_block * BD
    rest = rest // D_BLOCKS
    a = rest % A
    share = rest // A

    t0, d, stack = rows_of(d0, BT, BD, F[5])
    t0 += share * (STEPS * BT)
    slot = tl.arange(0, GROUPS) + (d_block if SHARED else d0)
    out = columns_of(a, b, d, F[1], D, Q)
    column = columns_of(a, c, d, F[2], D, Q)
    if NEED_X:
        matrix = tl.load(  # transposed: outputs before inputs
            weight
            + a * F[11]
            + stack.to(tl.int64)[:, None, None] * F[12]
            + c[None, None, :] * F[13]
            + b[None, :, None] * F[14],
            mask=(stack < F[5])[:, None, None] & (c < C)[None, None, :] & (b < B)[None, :, None],
            other=0.0,
        )
        if SCALED:
            scale = tl.load(
                scales + SCALES_BEGIN + (a if F[4] > 1 else 0) * F[5] + stack, mask=stack < F[5], other=0.0
            )
    if READY > 0:
        wait_for(ready, READY)
    if GUARDED:
        wait_for(free, needed)
    total = tl.zeros((GROUPS, BC, BB), tl.float32)
    for step in range(STEPS):
        t = t0 + step * BT
        row = t.to(tl.int64)[:, :, None]
        there = ((t < rows) & (d < D))[:, :, None]
        wanted = there & (c < C)[None, None, :]
        known = there & (b < B)[None, None, :]
        if PADDED:
            wanted = wanted & (column < n_in)
        if CROPPED:
            known = known & (out < n_out)
        upstream = numbers(grad + row * grad_stride + out, known, GRAD_FRESH, C_BLOCKS == 1)
        vectors = numbers(x + row * x_stride + column, wanted, X_FRESH, B_BLOCKS == 1)
        total += stacked_gradient(vectors, upstream, PRECISION)
        if NEED_X:
            pulled = stacked_product(upstream, matrix, PRECISION)
            if SCALED:
                pulled *= scale[:, None, None]
            pulled = narrowed(pulled, grad_x.dtype.element_ty, PRECISION)
            put(grad_x + row * grad_x_stride + column, pulled, wanted, not GUARDED)
    first = (share.to(tl.int64) * A + a) * KEPT
    add_to_sums(sums, total, first, slot, c, b, before, begun, KEPT, C, B, GROWING)


@triton.jit
def add_to_sums(
    sums, total, first, slot, c, b, before, begun,
    KEPT: tl.constexpr, C: tl.constexpr, B: tl.constexpr, GROWING: tl.constexpr,
):  # fmt: skip
    """Store gradients of weights from matrix ``first`` on, or add them to those of the chunk before when it is done."""
    where = sums + (first + slot)[:, None, None] * (C * B) + c[None, :, None] * B + b[None, None, :]
    held = (slot < KEPT)[:, None, None] & (c < C)[None, :, None] & (b < B)[None, None, :]
    if GROWING:
        wait_for(before, begun)
        total += numbers(where, held & (begun > 0), True, False)
    tl.store(where, total, mask=held)


@triton.jit
def stacked_gradient(x, grad, PRECISION: tl.constexpr):
    """``x^T grad`` for stacks of matrices."""
    return stacked_product(tl.permute(x, (0, 2, 1)), grad, PRECISION)


@triton.jit(do_not_specialize=["rows"])
def gradient_kernel(
    grad,
    grad_stride,
    x,
    x_stride,
    grad_x,
    grad_x_stride,
    weight,
    scales,
    sums,
    rows,
    n_in,
    n_out,
    F: tl.constexpr,
    Q: tl.constexpr,
    STEPS: tl.constexpr,
    NEED_X: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One factor, a program for each tile."""
    gradient_tile(
        grad, grad_stride, x, x_stride, grad_x, grad_x_stride, weight, scales, sums, None, None, 0, None, 0,
        tl.program_id(0), rows, n_in, n_out, F, Q, STEPS, NEED_X, PADDED, CROPPED, SCALED, 0, 0, False, False,
        False, False, PRECISION,
    )  # fmt: skip
