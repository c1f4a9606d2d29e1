"""The backward pass of one factor: gradients of its input and of its weight, from one reading of both."""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.arithmetic import narrowed, stacked_product


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
    F: tl.constexpr,
    Q: tl.constexpr,
    STEPS: tl.constexpr,
    NEED_X: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients for ``STEPS * BT`` of the vectors, one group, and a tile of its diagonals, inputs and outputs.

    The gradient of the weight is summed in registers and stored once, in the place of this share in ``sums``, of
    shape ``(shares, a, diagonals or their tiles, c, b)``: adding the shares up is left to torch, which does it in
    the same order every time. ``NEED_X`` wants all inputs and outputs in one tile.
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
    M: tl.constexpr = BT * BD // GROUPS
    KEPT: tl.constexpr = D_BLOCKS if SHARED else D

    place = tl.program_id(0)
    b = (place % B_BLOCKS) * BB + tl.arange(0, BB)
    place = place // B_BLOCKS
    c = (place % C_BLOCKS) * BC + tl.arange(0, BC)
    place = place // C_BLOCKS
    d_block = place % D_BLOCKS
    d0 = d_block * BD
    place = place // D_BLOCKS
    a = place % A
    part = place // A

    m = tl.arange(0, M)
    lane = tl.arange(0, GROUPS)
    if SHARED:
        t0 = (m // BD)[None, :]
        d = (d0 + m % BD)[None, :]
        stack = tl.zeros((GROUPS,), tl.int32) + (0 if F[5] == 1 else d0)
        slot = tl.zeros((GROUPS,), tl.int32) + d_block
    else:
        t0 = m[None, :]
        d = (d0 + lane)[:, None]
        stack = d0 + lane
        slot = d0 + lane
    out = ((a * F[1] + b // Q)[None, None, :] * D + d[:, :, None]) * Q + (b % Q)[None, None, :]
    column = ((a * F[2] + c // Q)[None, None, :] * D + d[:, :, None]) * Q + (c % Q)[None, None, :]
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
            scale = tl.load(scales + (a if F[4] > 1 else 0) * F[5] + stack, mask=stack < F[5], other=0.0)
    total = tl.zeros((GROUPS, BC, BB), tl.float32)
    first = part * (STEPS * BT)
    for step in range(STEPS):
        t = t0 + first + step * BT
        row = t.to(tl.int64)[:, :, None]
        there = ((t < rows) & (d < D))[:, :, None]
        wanted = there & (c < C)[None, None, :]
        upstream = tl.load(grad + row * grad_stride + out, mask=there & (b < B)[None, None, :], other=0.0)
        vectors = tl.load(x + row * x_stride + column, mask=wanted, other=0.0)
        total += stacked_gradient(vectors, upstream, PRECISION)
        if NEED_X:
            pulled = stacked_product(upstream, matrix, PRECISION)
            if SCALED:
                pulled *= scale[:, None, None]
            pulled = narrowed(pulled, grad_x.dtype.element_ty, PRECISION)
            tl.store(grad_x + row * grad_x_stride + column, pulled, mask=wanted)
    where = (
        ((part.to(tl.int64) * A + a) * KEPT + slot)[:, None, None] * (C * B)
        + c[None, :, None] * B
        + b[None, None, :]
    )
    held = (slot < KEPT)[:, None, None] & (c < C)[None, :, None] & (b < B)[None, None, :]
    tl.store(sums + where, total, mask=held)
