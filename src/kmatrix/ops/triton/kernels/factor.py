"""One factor times one tile of vectors, and the kernels that put such tiles together to a chain.

A factor of pattern ``(a, b, c, d)`` comes packed as ``(a or 1, d or 1, c, b)``, inputs before outputs, so that a tile
is a matrix product ``vectors x c @ c x b`` for each group and diagonal. Complex numbers are real pairs: ``Q = 2``
numbers for each entry, and ``2c x 2b`` blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def factor_tile(
    source,
    source_stride,
    target,
    target_stride,
    weight,
    bias,
    gather,
    tile,
    rows,
    n_in,
    n_out,
    FACTORS: tl.constexpr,
    k: tl.constexpr,
    Q: tl.constexpr,
    GATHERED: tl.constexpr,
    PADDED: tl.constexpr,
    LAST: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FRESH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply tile number ``tile`` of the first ``rows`` vectors of ``source`` by factor ``k``, into ``target``.

    ``FACTORS`` are what ``launch.constants`` says of each. ``FRESH`` says that other programs have just written the
    source: the first cache, which knows nothing of them, is passed by.
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
    # Diagonals that share their matrix stand beside the vectors, as rows of one product; others are a stack.
    SHARED: tl.constexpr = F[5] == 1 or BD == 1
    GROUPS: tl.constexpr = 1 if SHARED else BD
    M: tl.constexpr = BT * BD // GROUPS

    block = tile % B_BLOCKS
    rest = tile // B_BLOCKS
    d0 = (rest % D_BLOCKS) * BD
    rest = rest // D_BLOCKS
    a = rest % A
    first = (rest // A) * (BT * STEPS)

    m = tl.arange(0, M)
    lane = tl.arange(0, GROUPS)
    if SHARED:
        t0 = (first + m // BD)[None, :]
        d = (d0 + m % BD)[None, :]
        stack = tl.zeros((GROUPS,), tl.int32) + (0 if F[5] == 1 else d0)
    else:
        t0 = (first + m)[None, :]
        d = (d0 + lane)[:, None]
        stack = d0 + lane
    b = block * BB + tl.arange(0, BB)
    c = tl.arange(0, BC)
    weight += a * F[11] + stack.to(tl.int64)[:, None, None] * F[12]
    held = (stack < F[5])[:, None, None] & (b < B)[None, None, :]
    matrix = tl.load(
        weight + c[None, :, None] * F[13] + b[None, None, :] * F[14],
        mask=held & (c < C)[None, :, None],
        other=0.0,
    )
    out = ((a * F[1] + b // Q)[None, None, :] * D + d[:, :, None]) * Q + (b % Q)[None, None, :]
    kept = (d < D)[:, :, None] & (b < B)[None, None, :]
    if LAST:
        kept = kept & (out < n_out)
    for step in range(STEPS):
        t = t0 + step * BT
        row = t.to(tl.int64)[:, :, None]
        there = (t < rows) & (d < D)
        total = tl.zeros((GROUPS, M, BB), tl.float32)
        for start in tl.static_range(0, C, BC):
            column = ((a * F[2] + (start + c) // Q)[None, None, :] * D + d[:, :, None]) * Q
            column += (c % Q)[None, None, :]
            inside = there[:, :, None] & (start + c < C)[None, None, :]
            if (
                GATHERED
            ):  # negative entries count from the end, as everywhere in torch; what is outside is zero
                entry = tl.load(gather + column // Q, mask=inside, other=0)
                entry = tl.where(entry < 0, entry + A * F[2] * D, entry)
                inside = inside & (entry >= 0) & (entry * Q < n_in)
                column = entry * Q + column % Q
            if PADDED:
                inside = inside & (column < n_in)
            place = source + row * source_stride + column
            if FRESH:
                vectors = tl.load(place, mask=inside, other=0.0, cache_modifier=".cg")
            else:
                vectors = tl.load(place, mask=inside, other=0.0)
            if start > 0:
                matrix = tl.load(
                    weight + (start + c)[None, :, None] * F[13] + b[None, None, :] * F[14],
                    mask=held & (start + c < C)[None, :, None],
                    other=0.0,
                )
            total += stacked_product(vectors, matrix, PRECISION)
        wanted = kept & there[:, :, None]
        if LAST:
            if BIASED:
                total += tl.load(bias + out, mask=wanted, other=0.0).to(tl.float32)
            total = activate(total, ACTIVATION)
        tl.store(
            target + row * target_stride + out,
            narrowed(total, target.dtype.element_ty, PRECISION),
            mask=wanted,
        )
        if C > BC:
            matrix = tl.load(
                weight + c[None, :, None] * F[13] + b[None, None, :] * F[14],
                mask=held & (c < C)[None, :, None],
                other=0.0,
            )


@triton.jit
def stacked_product(x, y, PRECISION: tl.constexpr):
    """``multiply`` for stacks, of which one of a single product is none, so that it may use wider instructions."""
    if x.shape[0] == 1:
        left = tl.reshape(x, (x.shape[1], x.shape[2]))
        right = tl.reshape(y, (y.shape[1], y.shape[2]))
        return multiply(left, right, PRECISION)[None, :, :]
    else:
        return multiply(x, y, PRECISION)


@triton.jit
def multiply(x, y, PRECISION: tl.constexpr):
    """A product of matrices, or of stacks of them, with sums in float32.

    ``PRECISION`` is ``input_precision`` of ``tl.dot``, or ``wide`` for factors that become float32 first: Triton's
    interpreter takes bfloat16 for whole numbers. Products of halves are exact in float32, so nothing else changes.
    """
    if PRECISION == "wide":
        return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def narrowed(x, TYPE: tl.constexpr, PRECISION: tl.constexpr):
    """Float32 as another type, rounded to the nearest; Triton's interpreter merely cuts bits off for bfloat16."""
    if PRECISION == "wide":
        if TYPE == tl.bfloat16:
            bits = x.to(tl.int32, bitcast=True)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
            x = tl.where(x == x, rounded, x)
    return x.to(TYPE)


@triton.jit
def activate(x, NAME: tl.constexpr):
    """What follows the bias: the functions of ``torch.nn.functional`` of these names, ``gelu`` the exact one."""
    if NAME == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif NAME == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif NAME == "silu":
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit
def factor_kernel(
    x,
    x_stride,
    y,
    y_stride,
    weight,
    bias,
    gather,
    rows,
    n_in,
    n_out,
    F: tl.constexpr,
    Q: tl.constexpr,
    GATHERED: tl.constexpr,
    PADDED: tl.constexpr,
    LAST: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One factor, a program for each tile."""
    factor_tile(
        x, x_stride, y, y_stride, weight, bias, gather, tl.program_id(0), rows, n_in, n_out,
        (F,), 0, Q, GATHERED, PADDED, LAST, BIASED, ACTIVATION, False, PRECISION,
    )  # fmt: skip


@triton.jit
def wait_for(counter, count):
    """Wait until a counter has reached ``count``; what was written before it was raised can be read then."""
    seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    while seen < count:
        seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def chain_kernel(
    x,
    x_stride,
    y,
    y_stride,
    ring,
    weights,
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
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
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
                x, x_stride, y, y_stride, ring, weights, bias, gather, counters, rows, n_in, n_out, chunk, tile,
                k, FACTORS, Q, GATHERED, PADDED, BIASED, ACTIVATION, PRECISION, CHUNK, WIDTH,
            )  # fmt: skip


@triton.jit
def link(
    x,
    x_stride,
    y,
    y_stride,
    ring,
    weights,
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
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Factor ``k`` times one tile of a chunk, when what it reads is there and what it overwrites has been read."""
    K: tl.constexpr = len(FACTORS)
    FIRST: tl.constexpr = k == 0
    LAST: tl.constexpr = k == K - 1
    done = counters + 1 + chunk * K + k
    here = (chunk * CHUNK).to(tl.int64)
    there = ((chunk % 2) * CHUNK).to(tl.int64)
    left = tl.minimum(rows - chunk * CHUNK, CHUNK)
    if not FIRST:
        wait_for(done - 1, FACTORS[k - 1][16])
    if not LAST:
        if chunk >= 2:  # the chunk before the last one lay in the same place of the ring
            wait_for(done - 2 * K + 1, FACTORS[k + 1][16])
    if FIRST:
        source = x + here * x_stride
        source_stride = x_stride
    else:
        source = ring + (there + (k - 1) * 2 * CHUNK) * WIDTH
        source_stride = WIDTH
    if LAST:
        target = y + here * y_stride
        target_stride = y_stride
    else:
        target = ring + (there + k * 2 * CHUNK) * WIDTH
        target_stride = WIDTH
    factor_tile(
        source, source_stride, target, target_stride, weights + FACTORS[k][17], bias, gather, tile, left, n_in, n_out,
        FACTORS, k, Q, GATHERED and FIRST, PADDED and FIRST, LAST, BIASED, ACTIVATION, not FIRST, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()
    tl.atomic_add(done, 1, sem="release", scope="gpu")
