"""The backward pass of a whole chain in one launch, its vectors in the second cache between two factors."""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.factor import factor_tile
from kmatrix.ops.triton.kernels.gradient import gradient_tile


@triton.jit(do_not_specialize=["rows", "chunks"])
def pullback_kernel(
    grad,
    grad_stride,
    x,
    x_stride,
    grad_x,
    grad_x_stride,
    ring,
    weights,
    scales,
    sums,
    counters,
    rows,
    n_in,
    n_out,
    chunks,
    STAGES: tl.constexpr,
    Q: tl.constexpr,
    NEED_X: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    TILES: tl.constexpr,
):
    """Gradients of all factors and of the input, the vectors between factors computed again chunk by chunk.

    ``STAGES`` are the factors but the last, as in ``chain_kernel``, and then the gradients of all from the last to the
    first: in phase ``i`` the first stage meets chunk ``i``, the second chunk ``i - 1`` and so on. Tickets and waits are
    those of ``chain_kernel``, and in addition a tile adds to its sums only behind the chunk before.
    """
    ticket = tl.atomic_add(counters, 1, sem="relaxed", scope="gpu")
    phase = ticket // TILES
    place = ticket % TILES
    for s in tl.static_range(len(STAGES)):
        chunk = phase - s
        tile = place - STAGES[s][15]
        if (tile >= 0) & (tile < STAGES[s][16]) & (chunk >= 0) & (chunk < chunks):
            stage(
                grad, grad_stride, x, x_stride, grad_x, grad_x_stride, ring, weights, scales, sums, counters, rows,
                n_in, n_out, chunk, tile, s, STAGES, Q, NEED_X, PADDED, CROPPED, SCALED, PRECISION, CHUNK, WIDTH,
            )  # fmt: skip


@triton.jit
def stage(
    grad,
    grad_stride,
    x,
    x_stride,
    grad_x,
    grad_x_stride,
    ring,
    weights,
    scales,
    sums,
    counters,
    rows,
    n_in,
    n_out,
    chunk,
    tile,
    s: tl.constexpr,
    STAGES: tl.constexpr,
    Q: tl.constexpr,
    NEED_X: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One tile of a chunk at one stage, when what it reads is there and what it overwrites has been read.

    Behind the constants of the factor stand the first tile, the number of tiles, and where weight, scales and sums
    begin; then the shelf of the ring where the input lies and how many chunks have room there, the same for what is
    written and the stage that reads it, and the shelf of the gradient from behind.
    """
    N: tl.constexpr = len(STAGES)
    K: tl.constexpr = (N + 1) // 2
    S: tl.constexpr = STAGES[s]
    AGAIN: tl.constexpr = s < K - 1
    FIRST: tl.constexpr = s == 0 or s == N - 1  # whether the input is that of the chain
    LAST: tl.constexpr = s == N - 1
    READY: tl.constexpr = 0 if s == 0 else STAGES[s - 1][16]
    done = counters + 1 + chunk * N + s
    here = (chunk * CHUNK).to(tl.int64)
    left = tl.minimum(rows - chunk * CHUNK, CHUNK)
    if FIRST:
        source = x + here * x_stride
        source_stride = x_stride
    else:
        source = ring + (S[18] + chunk % S[19]).to(tl.int64) * (CHUNK * WIDTH)
        source_stride = WIDTH
    # The shelf was that of an earlier chunk; before the first chunks lay nothing.
    free = done
    needed = 0
    if LAST:
        target = grad_x + here * grad_x_stride
        target_stride = grad_x_stride
    else:
        free = done + tl.where(chunk >= S[21], S[22] - s - S[21] * N, 0)
        needed = tl.where(chunk >= S[21], STAGES[S[22]][16], 0)
        target = ring + (S[20] + chunk % S[21]).to(tl.int64) * (CHUNK * WIDTH)
        target_stride = WIDTH
    if AGAIN:
        factor_tile(
            source, source_stride, target, target_stride, weights + S[17], scales, None, None, done - 1, free, needed,
            tile, left, n_in, 0, STAGES, s, Q, False, PADDED and FIRST, False, SCALED, False, False, "", S[24], READY,
            True, False, PRECISION,
        )  # fmt: skip
    else:
        if s == K - 1:
            upstream = grad + here * grad_stride
            upstream_stride = grad_stride
        else:
            upstream = ring + (S[23] + chunk % 2).to(tl.int64) * (CHUNK * WIDTH)
            upstream_stride = WIDTH
        begun = tl.where(chunk > 0, S[16], 0)
        before = done - tl.where(chunk > 0, N, 0)
        gradient_tile(
            upstream, upstream_stride, source, source_stride, target, target_stride, weights + S[17], scales,
            sums + S[25], done - 1, free, needed, before, begun, tile, left, n_in, n_out, S, Q, S[10],
            NEED_X or not LAST, PADDED and LAST, CROPPED and s == K - 1, SCALED, S[24], READY, not LAST, not LAST,
            s > K - 1, True, PRECISION,
        )  # fmt: skip
    tl.debug_barrier()
    tl.atomic_add(done, 1, sem="release", scope="gpu")
