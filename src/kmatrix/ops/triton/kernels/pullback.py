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
                n_in, n_out, chunk, tile, s, STAGES, Q, NEED_X, PADDED, CROPPED, SCALED, PRECISION, CHUNK,
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
):
    """One tile of a chunk at one stage, when what it reads is there and what it overwrites has been read.

    Behind the constants of the factor stand the first tile and the number of tiles; where the weight begins; where in
    the ring the input lies, as a multiple of a chunk, and how many chunks have room there; the same for what is
    written, and the stage that reads it last; where the gradient from behind lies; and where scales and sums begin.
    """
    N: tl.constexpr = len(STAGES)
    K: tl.constexpr = (N + 1) // 2
    S: tl.constexpr = STAGES[s]
    AGAIN: tl.constexpr = s < K - 1
    FIRST: tl.constexpr = s == 0 or s == N - 1  # whether the input is that of the chain
    LAST: tl.constexpr = s == N - 1
    READY: tl.constexpr = 0 if s == 0 else STAGES[s - 1][16]
    WIDTH_IN: tl.constexpr = S[0] * S[2] * S[3] * Q
    WIDTH_OUT: tl.constexpr = S[0] * S[1] * S[3] * Q
    TILES: tl.constexpr = S[16]
    WEIGHT: tl.constexpr = S[17]
    SOURCE: tl.constexpr = S[18]
    SOURCE_ROOM: tl.constexpr = S[19]
    TARGET: tl.constexpr = S[20]
    TARGET_ROOM: tl.constexpr = S[21]
    READER: tl.constexpr = S[22]
    UPSTREAM: tl.constexpr = S[23]
    LANES: tl.constexpr = S[24]
    SUMS: tl.constexpr = S[25]
    done = counters + 1 + chunk * N + s
    here = (chunk * CHUNK).to(tl.int64)
    left = tl.minimum(rows - chunk * CHUNK, CHUNK)
    if FIRST:
        source = x + here * x_stride
        source_stride = x_stride
    else:
        source = ring + (SOURCE + (chunk % SOURCE_ROOM) * WIDTH_IN).to(tl.int64) * CHUNK
        source_stride = WIDTH_IN
    # The shelf was that of an earlier chunk; before the first chunks lay nothing.
    free = done
    needed = 0
    if LAST:
        target = grad_x + here * grad_x_stride
        target_stride = grad_x_stride
    else:
        free = done + tl.where(chunk >= TARGET_ROOM, READER - s - TARGET_ROOM * N, 0)
        needed = tl.where(chunk >= TARGET_ROOM, STAGES[READER][16], 0)
        target_stride = WIDTH_OUT if AGAIN else WIDTH_IN
        target = ring + (TARGET + (chunk % TARGET_ROOM) * target_stride).to(tl.int64) * CHUNK
    if AGAIN:
        factor_tile(
            source, source_stride, target, target_stride, weights + WEIGHT, scales, None, None, done - 1, free, needed,
            tile, left, n_in, 0, STAGES, s, Q, False, PADDED and FIRST, False, SCALED, False, False, "", LANES, READY,
            True, False, PRECISION,
        )  # fmt: skip
    else:
        if s == K - 1:
            upstream = grad + here * grad_stride
            upstream_stride = grad_stride
        else:
            upstream = ring + (UPSTREAM + (chunk % 2) * WIDTH_OUT).to(tl.int64) * CHUNK
            upstream_stride = WIDTH_OUT
        begun = tl.where(chunk > 0, TILES, 0)
        before = done - tl.where(chunk > 0, N, 0)
        gradient_tile(
            upstream, upstream_stride, source, source_stride, target, target_stride, weights + WEIGHT, scales,
            sums + SUMS, done - 1, free, needed, before, begun, tile, left, n_in, n_out, S, Q, S[10],
            NEED_X or not LAST, PADDED and LAST, CROPPED and s == K - 1, SCALED, LANES, READY, not LAST, not LAST,
            s > K - 1, True, PRECISION,
        )  # fmt: skip
    tl.debug_barrier()
    tl.atomic_add(done, 1, sem="release", scope="gpu")
