"""Multiplying runs of factors out, each into one, and back: each number of a product is a product along one path.

Only weights are read here, in one launch however many factors there are. A path is thirteen numbers for each of its
factors, which ``runs.path_constants`` describes, in tuples that begin with other constants.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.arithmetic import multiply, narrowed

HEAD = tl.constexpr(14)  # constants of a job before its paths
SIZE = tl.constexpr(13)  # constants of a factor on a path


@triton.jit
def place_of(
    out, column, a, d, JOB: tl.constexpr, AT: tl.constexpr, GROWING: tl.constexpr, LANES: tl.constexpr
):
    """Where the number lies that a factor has on the path from ``column`` to ``out``, in lane ``(a, d)``.

    The constants of the factor begin at ``AT``.
    """
    B: tl.constexpr = JOB[AT + 1]
    C: tl.constexpr = JOB[AT + 2]
    OUTPUTS_BEFORE: tl.constexpr = JOB[AT + 5]
    INPUTS_BEFORE: tl.constexpr = JOB[AT + 6]
    OUTPUTS_AFTER: tl.constexpr = JOB[AT + 7]
    INPUTS_AFTER: tl.constexpr = JOB[AT + 8]
    if GROWING:
        b = (out // OUTPUTS_BEFORE) % B
        c = (column // INPUTS_BEFORE) % C
        group = column // (INPUTS_BEFORE * C)
        diagonal = out % OUTPUTS_BEFORE
    else:
        b = (out // OUTPUTS_AFTER) % B
        c = (column // INPUTS_AFTER) % C
        group = out // (OUTPUTS_AFTER * B)
        diagonal = column % INPUTS_AFTER
    place = (a * JOB[AT + 4] + group) * JOB[AT + 9] + b * JOB[AT + 10] + c * JOB[AT + 11]
    return JOB[AT] + place + (diagonal * LANES + d) * JOB[AT + 12]


@triton.jit
def along_path(
    source, out, column, mask, a, d,
    JOB: tl.constexpr, AT: tl.constexpr, COUNT: tl.constexpr, SKIP: tl.constexpr, GROWING: tl.constexpr,
    LANES: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """The product of all numbers on the path but that of factor ``SKIP``: its real and its imaginary part."""
    real = tl.where(mask, 1.0, 0.0)
    imag = tl.zeros_like(real)
    for i in tl.static_range(COUNT):
        if i != SKIP:
            place = place_of(out, column, a, d, JOB, AT + i * SIZE, GROWING, LANES)
            x = tl.load(source + place * Q, mask=mask, other=0.0).to(tl.float32)
            if Q == 2:
                y = tl.load(source + place * 2 + 1, mask=mask, other=0.0)
                real, imag = real * x - imag * y, real * y + imag * x
            else:
                real = real * x
    return real, imag


@triton.jit
def product_kernel(source, target, JOBS: tl.constexpr, Q: tl.constexpr, PRECISION: tl.constexpr):
    """All products, each of a run or of two, as ``(lanes, c, b)`` with complex numbers as real blocks."""
    program = tl.program_id(0)
    for j in tl.static_range(len(JOBS)):
        at = program - JOBS[j][0]
        if (at >= 0) & (at < JOBS[j][1]):
            product_tile(source, target + JOBS[j][2], at, j, JOBS, Q, PRECISION)


@triton.jit
def product_tile(
    source, target, at, j: tl.constexpr, JOBS: tl.constexpr, Q: tl.constexpr, PRECISION: tl.constexpr
):
    """Some inputs and outputs of one lane of product ``j``. ``JOBS`` are what ``packing.product_jobs`` says."""
    JOB: tl.constexpr = JOBS[j]
    B: tl.constexpr = JOB[3]
    R: tl.constexpr = JOB[4]
    C: tl.constexpr = JOB[5]
    LANES: tl.constexpr = JOB[6]
    BB: tl.constexpr = JOB[7]
    BR: tl.constexpr = JOB[8]
    BC: tl.constexpr = JOB[9]
    GROWS_FIRST: tl.constexpr = JOB[10]
    GROWS_SECOND: tl.constexpr = JOB[11]
    FIRST: tl.constexpr = JOB[12]
    SECOND: tl.constexpr = JOB[13]
    BEHIND: tl.constexpr = HEAD + FIRST * SIZE  # where the constants of the second run begin
    B_BLOCKS: tl.constexpr = (B + BB - 1) // BB
    C_BLOCKS: tl.constexpr = (C + BC - 1) // BC
    b = (at % B_BLOCKS) * BB + tl.arange(0, BB)[None, :]
    rest = at // B_BLOCKS
    c = (rest % C_BLOCKS) * BC + tl.arange(0, BC)[:, None]
    lane = rest // C_BLOCKS
    a = lane // LANES
    d = lane % LANES
    inside = (c < C) & (b < B)
    if SECOND == 0:
        real, imag = along_path(source, b, c, inside, a, d, JOB, HEAD, FIRST, -1, GROWS_FIRST, LANES, Q)
    else:
        real = tl.zeros((BC, BB), tl.float32)
        imag = tl.zeros((BC, BB), tl.float32)
        for start in tl.static_range(0, R, BR):
            between = start + tl.arange(0, BR)
            left = between[None, :]
            right = between[:, None]
            x, u = along_path(
                source, left, c, (left < R) & (c < C), a, d, JOB, HEAD, FIRST, -1, GROWS_FIRST, LANES, Q
            )
            y, v = along_path(
                source, b, right, (b < B) & (right < R), a, d, JOB, BEHIND, SECOND, -1, GROWS_SECOND, LANES, Q
            )
            real += multiply(x, y, PRECISION)
            if Q == 2:
                real -= multiply(u, v, PRECISION)
                imag += multiply(x, v, PRECISION) + multiply(u, y, PRECISION)
    place = target + lane.to(tl.int64) * (B * C * Q * Q) + c * (B * Q * Q) + b * Q
    TYPE: tl.constexpr = target.dtype.element_ty
    if Q == 1:
        tl.store(place, narrowed(real, TYPE, PRECISION), mask=inside)
    else:
        tl.store(place, real, mask=inside)
        tl.store(place + 1, imag, mask=inside)
        tl.store(place + B * Q, -imag, mask=inside)
        tl.store(place + B * Q + 1, real, mask=inside)


@triton.jit
def gradient_kernel(source, upstream, target, JOBS: tl.constexpr, Q: tl.constexpr, PRECISION: tl.constexpr):
    """Gradients of all factors of all runs from those of their products, as ``(a, b, c, d)`` without ties.

    They lie in ``target`` one behind the other, those of the products in ``upstream``, packed.
    """
    program = tl.program_id(0)
    for j in tl.static_range(len(JOBS)):
        at = program - JOBS[j][0]
        if (at >= 0) & (at < JOBS[j][1]):
            gradient_tile(source, upstream + JOBS[j][3], target + JOBS[j][2], at, j, JOBS, Q, PRECISION)


@triton.jit
def gradient_tile(
    source,
    upstream,
    target,
    at,
    j: tl.constexpr,
    JOBS: tl.constexpr,
    Q: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of some numbers of a factor in one lane. ``JOBS`` are what ``unpacking.gradient_jobs`` says.

    Every number lies on ``FREE`` paths, whose gradients are added up here.
    """
    JOB: tl.constexpr = JOBS[j]
    B: tl.constexpr = JOB[4]
    C: tl.constexpr = JOB[5]
    HELD_D: tl.constexpr = JOB[6]
    EDGES: tl.constexpr = JOB[7]
    FREE: tl.constexpr = JOB[8]
    BE: tl.constexpr = JOB[9]
    BF: tl.constexpr = JOB[10]
    GROWING: tl.constexpr = JOB[11]
    COUNT: tl.constexpr = JOB[12]
    SELF: tl.constexpr = JOB[13]
    P: tl.constexpr = HEAD + SELF * SIZE
    P_B: tl.constexpr = JOB[P + 1]
    P_C: tl.constexpr = JOB[P + 2]
    P_D: tl.constexpr = JOB[P + 3]
    P_A: tl.constexpr = JOB[P + 4]
    BLOCKS: tl.constexpr = (EDGES + BE - 1) // BE
    first = (at % BLOCKS) * BE
    lane = at // BLOCKS
    a = lane // HELD_D
    d = lane % HELD_D
    edge = first + tl.arange(0, BE)[:, None]
    diagonal = edge % P_D
    c_i = (edge // P_D) % P_C
    b_i = (edge // (P_D * P_C)) % P_B
    group = edge // (P_D * P_C * P_B)
    held = upstream + lane.to(tl.int64) * (B * C * Q * Q)
    real = tl.zeros((BE,), tl.float32)
    imag = tl.zeros((BE,), tl.float32)
    for start in tl.static_range(0, FREE, BF):
        free = start + tl.arange(0, BF)[None, :]
        if GROWING:  # free are the high digits of the output and the low ones of the input
            out = ((free // JOB[P + 6]) * P_B + b_i) * JOB[P + 5] + diagonal
            column = (group * P_C + c_i) * JOB[P + 6] + free % JOB[P + 6]
        else:
            out = (group * P_B + b_i) * JOB[P + 7] + free % JOB[P + 7]
            column = ((free // JOB[P + 7]) * P_C + c_i) * JOB[P + 8] + diagonal
        mask = (edge < EDGES) & (free < FREE)
        x, y = along_path(source, out, column, mask, a, d, JOB, HEAD, COUNT, SELF, GROWING, HELD_D, Q)
        if Q == 1:
            g = tl.load(held + column * B + out, mask=mask, other=0.0)
            real += tl.sum(g * x, 1)
        else:
            place = held + column * (B * 4) + out * 2
            g = tl.load(place, mask=mask, other=0.0) + tl.load(place + B * 2 + 1, mask=mask, other=0.0)
            h = tl.load(place + 1, mask=mask, other=0.0) - tl.load(place + B * 2, mask=mask, other=0.0)
            real += tl.sum(g * x + h * y, 1)
            imag += tl.sum(h * x - g * y, 1)
    e = first + tl.arange(0, BE)
    row = (a * (P_A * P_B * P_C) + e // P_D).to(tl.int64)
    where = target + (row * (P_D * HELD_D) + (e % P_D) * HELD_D + d) * Q
    tl.store(where, narrowed(real, target.dtype.element_ty, PRECISION), mask=e < EDGES)
    if Q == 2:
        tl.store(where + 1, imag, mask=e < EDGES)
