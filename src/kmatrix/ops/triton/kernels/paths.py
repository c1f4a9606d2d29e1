"""Multiplying a run of factors out into one, and back: each number of the product is a product along one path.

Only weights are read here, in one launch however many factors there are. ``PATH`` is ``runs.path_constants``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kmatrix.ops.triton.kernels.arithmetic import multiply, narrowed


@triton.jit
def place_of(
    out, column, a, d, PATH: tl.constexpr, i: tl.constexpr, GROWING: tl.constexpr, LANES: tl.constexpr
):
    """Where the number of factor ``i`` lies on the path from ``column`` to ``out``, in lane ``(a, d)``."""
    P: tl.constexpr = PATH[i]
    if GROWING:
        b = (out // P[5]) % P[1]
        c = (column // P[6]) % P[2]
        group = column // (P[6] * P[2])
        diagonal = out % P[5]
    else:
        b = (out // P[7]) % P[1]
        c = (column // P[8]) % P[2]
        group = out // (P[7] * P[1])
        diagonal = column % P[8]
    return P[0] + (a * P[4] + group) * P[9] + b * P[10] + c * P[11] + (diagonal * LANES + d) * P[12]


@triton.jit
def along_path(
    source, out, column, mask, a, d,
    PATH: tl.constexpr, GROWING: tl.constexpr, LANES: tl.constexpr, Q: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """The product of all numbers on the path but that of factor ``SKIP``: its real and its imaginary part."""
    real = tl.where(mask, 1.0, 0.0)
    imag = tl.zeros_like(real)
    for i in tl.static_range(len(PATH)):
        if i != SKIP:
            place = place_of(out, column, a, d, PATH, i, GROWING, LANES)
            x = tl.load(source + place * Q, mask=mask, other=0.0).to(tl.float32)
            if Q == 2:
                y = tl.load(source + place * 2 + 1, mask=mask, other=0.0)
                real, imag = real * x - imag * y, real * y + imag * x
            else:
                real = real * x
    return real, imag


@triton.jit
def product_kernel(
    source, target,
    FIRST: tl.constexpr, SECOND: tl.constexpr, GROWS_FIRST: tl.constexpr, GROWS_SECOND: tl.constexpr,
    B: tl.constexpr, R: tl.constexpr, C: tl.constexpr, HELD_D: tl.constexpr, LANES: tl.constexpr, Q: tl.constexpr,
    BB: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One lane of the product of a run, or of two, as ``(c, b)`` with complex numbers as real blocks."""
    lane = tl.program_id(0)
    a = lane // HELD_D
    d = lane % HELD_D
    c = tl.program_id(1) * BC + tl.arange(0, BC)[:, None]
    b = tl.program_id(2) * BB + tl.arange(0, BB)[None, :]
    if len(SECOND) == 0:
        real, imag = along_path(source, b, c, (b < B) & (c < C), a, d, FIRST, GROWS_FIRST, LANES, Q, -1)
    else:
        real = tl.zeros((BC, BB), tl.float32)
        imag = tl.zeros((BC, BB), tl.float32)
        for start in tl.static_range(0, R, BR):
            between = start + tl.arange(0, BR)
            left = between[None, :]
            right = between[:, None]
            x, u = along_path(source, left, c, (left < R) & (c < C), a, d, FIRST, GROWS_FIRST, LANES, Q, -1)
            y, v = along_path(
                source, b, right, (b < B) & (right < R), a, d, SECOND, GROWS_SECOND, LANES, Q, -1
            )
            real += multiply(x, y, PRECISION)
            if Q == 2:
                real -= multiply(u, v, PRECISION)
                imag += multiply(x, v, PRECISION) + multiply(u, y, PRECISION)
    inside = (c < C) & (b < B)
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
def gradient_kernel(
    source, upstream, target,
    PATH: tl.constexpr, i: tl.constexpr, GROWING: tl.constexpr,
    B: tl.constexpr, C: tl.constexpr, HELD_D: tl.constexpr, LANES: tl.constexpr, Q: tl.constexpr,
    EDGES: tl.constexpr, FREE: tl.constexpr, BE: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """Gradient of factor ``i`` of a run for some of its numbers in one lane, as ``(a, b, c, d)`` without ties.

    ``upstream`` is that of the product, packed. Every number lies on ``FREE`` paths, whose gradients are added up here.
    """
    P: tl.constexpr = PATH[i]
    lane = tl.program_id(0)
    a = lane // LANES
    d = lane % LANES
    edge = tl.program_id(1) * BE + tl.arange(0, BE)[:, None]
    diagonal = edge % P[3]
    c_i = (edge // P[3]) % P[2]
    b_i = (edge // (P[3] * P[2])) % P[1]
    group = edge // (P[3] * P[2] * P[1])
    real = tl.zeros((BE,), tl.float32)
    imag = tl.zeros((BE,), tl.float32)
    for start in tl.static_range(0, FREE, BF):
        free = start + tl.arange(0, BF)[None, :]
        if GROWING:  # free are the high digits of the output and the low ones of the input
            out = ((free // P[6]) * P[1] + b_i) * P[5] + diagonal
            column = (group * P[2] + c_i) * P[6] + free % P[6]
        else:
            out = (group * P[1] + b_i) * P[7] + free % P[7]
            column = ((free // P[7]) * P[2] + c_i) * P[8] + diagonal
        mask = (edge < EDGES) & (free < FREE)
        x, y = along_path(source, out, column, mask, a, d, PATH, GROWING, LANES, Q, i)
        held = upstream + (a * HELD_D + (d if HELD_D > 1 else 0)).to(tl.int64) * (B * C * Q * Q)
        if Q == 1:
            g = tl.load(held + column * B + out, mask=mask, other=0.0)
            real += tl.sum(g * x, 1)
        else:
            place = held + column * (B * 4) + out * 2
            g = tl.load(place, mask=mask, other=0.0) + tl.load(place + B * 2 + 1, mask=mask, other=0.0)
            h = tl.load(place + 1, mask=mask, other=0.0) - tl.load(place + B * 2, mask=mask, other=0.0)
            real += tl.sum(g * x + h * y, 1)
            imag += tl.sum(h * x - g * y, 1)
    e = tl.program_id(1) * BE + tl.arange(0, BE)
    rest = e // P[3]
    row = (a * (P[4] * P[1] * P[2]) + rest).to(tl.int64)
    where = target + (row * (P[3] * LANES) + (e % P[3]) * LANES + d) * Q
    tl.store(where, real, mask=e < EDGES)
    if Q == 2:
        tl.store(where + 1, imag, mask=e < EDGES)
