"""Where the numbers of a tile lie: vectors, diagonals, and the matrices that they meet."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of(d0, BT: tl.constexpr, BD: tl.constexpr, HELD_D: tl.constexpr):
    """The rows of a tile of ``BT`` vectors and the diagonals from ``d0`` on, as a stack of products.

    Diagonals that share their matrix stand beside the vectors, as rows of one product; others are a stack. Returned are
    the vector and the diagonal of each row, shapes ``(1 or groups, rows)`` and ``(1 or groups, 1 or rows)``, and the
    matrix that each group meets, shape ``(groups,)``.
    """
    SHARED: tl.constexpr = HELD_D == 1 or BD == 1
    GROUPS: tl.constexpr = 1 if SHARED else BD
    m = tl.arange(0, BT * BD // GROUPS)
    lane = tl.arange(0, GROUPS)
    if SHARED:
        t = (m // BD)[None, :]
        d = (d0 + m % BD)[None, :]
        stack = tl.zeros((GROUPS,), tl.int32) + (0 if HELD_D == 1 else d0)
    else:
        t = m[None, :]
        d = (d0 + lane)[:, None]
        stack = d0 + lane
    return t, d, stack


@triton.jit
def columns_of(a, entries, d, SIDE: tl.constexpr, D: tl.constexpr, Q: tl.constexpr):
    """Where numbers ``entries`` of group ``a`` and diagonals ``d`` lie in a vector; ``Q`` numbers are one entry."""
    return ((a * SIDE + entries // Q)[None, None, :] * D + d[:, :, None]) * Q + (entries % Q)[None, None, :]
