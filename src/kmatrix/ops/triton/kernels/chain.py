"""A whole chain in one launch, its vectors in the second cache between two factors."""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.factor import factor_tile


@triton.jit(do_not_specialize=["rows", "chunks"])
def chain_kernel(
    x,
    x_stride,
    y,
    y_stride,
    ring,
    weights,
    scales,
    bias,
    gather,
    counters,
    rows,
    n_in,
    n_out,
    chunks,
    FACTORS: tl.constexpr,
    Q: tl.constexpr,
    GATHERED: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    TILES: tl.constexpr,
):
    """A whole chain in one launch: the vectors between two factors go through a ring that stays in the second cache.

    Vectors come in chunks of ``CHUNK``. In phase ``i`` the first factor meets chunk ``i``, the second chunk ``i - 1``
    and so on, so that what a tile needs was begun a phase before. Programs take tickets in the order in which they
    begin to run, and one waits only for tiles of smaller tickets, which run already: there is always one that goes on.
    """
    ticket = tl.atomic_add(counters, 1, sem="relaxed", scope="gpu")
    phase = ticket // TILES
    place = ticket % TILES
    for k in tl.static_range(len(FACTORS)):
        chunk = phase - k
        tile = place - FACTORS[k][15]
        if (tile >= 0) & (tile < FACTORS[k][16]) & (chunk >= 0) & (chunk < chunks):
            link(
                x, x_stride, y, y_stride, ring, weights, scales, bias, gather, counters, rows, n_in, n_out, chunk, tile,
                k, FACTORS, Q, GATHERED, PADDED, CROPPED, SCALED, BIASED, ACTIVATION, PRECISION, CHUNK,
            )  # fmt: skip


@triton.jit
def link(
    x,
    x_stride,
    y,
    y_stride,
    ring,
    weights,
    scales,
    bias,
    gather,
    counters,
    rows,
    n_in,
    n_out,
    chunk,
    tile,
    k: tl.constexpr,
    FACTORS: tl.constexpr,
    Q: tl.constexpr,
    GATHERED: tl.constexpr,
    PADDED: tl.constexpr,
    CROPPED: tl.constexpr,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Factor ``k`` times one tile of a chunk, when what it reads is there and what it overwrites has been read."""
    K: tl.constexpr = len(FACTORS)
    FIRST: tl.constexpr = k == 0
    LAST: tl.constexpr = k == K - 1
    WIDTH_IN: tl.constexpr = FACTORS[k][0] * FACTORS[k][2] * FACTORS[k][3] * Q
    WIDTH_OUT: tl.constexpr = FACTORS[k][0] * FACTORS[k][1] * FACTORS[k][3] * Q
    done = counters + 1 + chunk * K + k
    here = (chunk * CHUNK).to(tl.int64)
    there = ((chunk % 2) * CHUNK).to(tl.int64)
    left = tl.minimum(rows - chunk * CHUNK, CHUNK)
    READY: tl.constexpr = 0 if FIRST else FACTORS[k - 1][16]
    # The chunk before the last one lay in the same place of the ring; before the first two chunks lay nothing.
    free = done
    needed = 0
    if not LAST:
        free = done + tl.where(chunk >= 2, 1 - 2 * K, 0)
        needed = tl.where(chunk >= 2, FACTORS[k + 1][16], 0)
    if FIRST:
        source = x + here * x_stride
        source_stride = x_stride
    else:
        source = ring + FACTORS[k][19] * CHUNK + there * WIDTH_IN
        source_stride = WIDTH_IN
    if LAST:
        target = y + here * y_stride
        target_stride = y_stride
    else:
        target = ring + FACTORS[k][20] * CHUNK + there * WIDTH_OUT
        target_stride = WIDTH_OUT
    factor_tile(
        source, source_stride, target, target_stride, weights + FACTORS[k][17], scales, bias, gather,
        done - 1, free, needed, tile, left, n_in, n_out, FACTORS, k, Q, GATHERED and FIRST, PADDED and FIRST, CROPPED,
        SCALED, LAST, BIASED, ACTIVATION, FACTORS[k][18], READY, not LAST, True, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()
    tl.atomic_add(done, 1, sem="release", scope="gpu")
