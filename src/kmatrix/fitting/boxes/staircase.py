"""Boxes in one place that lose rows and columns to each other: the rank they have together, with fewer numbers.

A sum of ``r`` terms of full size holds ``r (m + n)`` numbers, yet a matrix of rank ``r`` has only ``r (m + n - r)``
degrees of freedom. Elimination finds the form that shows it: the first ``g`` terms are made to agree with the sum on
``g`` rows and ``g`` columns, so that what is left is zero there and the other terms need not reach so far, and so on.
This is an LU decomposition in blocks, in which every pivot is a block at a corner of what is left, as the segments must
stay intervals.
"""

from __future__ import annotations

from functools import reduce
from itertools import product

import torch
from torch import Tensor

from kmatrix.fitting.boxes.terms import Terms

STEP = 8
"""Terms that are eliminated at a time: pivots of several rows are seldom near singular."""
AMPLIFIED = 30.0
"""Largest norm of the terms, relative to the norm of their sum, that is accepted."""
EXACT = 1e-8
"""What may be left at the end, relative: rounding, whatever the pivots were."""


def step_of(height: int, width: int) -> int:
    """How many terms of a tile are eliminated at a time."""
    return max(1, min(STEP, min(height, width) // 16))


def saved(index: Tensor, step: int) -> Tensor:
    """How much shorter, on both sides together, the terms of one tile are; the first ``step`` not at all."""
    return 2 * step * (index // step)


def staircase(terms: Terms, step: int) -> Terms:
    """The same sum, of boxes in one place, with ever shorter segments.

    Where pivots are near singular, more terms are eliminated at a time; at last the terms are left as they are.

    Args:
        terms: boxes with equal segments that do not wrap, as many as their rank.
        step: terms that are eliminated at a time.
    """
    size = float(torch.linalg.vector_norm(terms.dense))
    while step < len(terms):
        made = _eliminated(terms, step)
        if made is not None and made.amplitude <= AMPLIFIED * size:
            return made
        step *= 2
    return terms


def _eliminated(terms: Terms, step: int) -> Terms | None:
    """The terms after elimination; ``None`` where it does not arrive at zero."""
    (top, height), (first, width) = terms.rows[0].tolist(), terms.cols[0].tolist()
    whole = terms.left[:, top : top + height].mT @ terms.right[:, first : first + width]
    rest, made = whole.clone(), []
    rows, cols = (0, height), (0, width)
    for done in range(0, len(terms), step):
        count = min(step, len(terms) - done)
        corner = _best_corner(rest, rows, cols, count) if done + count < len(terms) else None
        here = (slice(*rows), slice(*cols))
        left, right = _leading(rest[here], count) if corner is None else _through(rest, rows, cols, *corner)
        made.append(_boxes(left, right, (top, first), rows, cols, terms))
        rest[here] -= left @ right
        if corner is not None:
            rows, cols = _without(rows, corner[0]), _without(cols, corner[1])
            inner = rest[slice(*rows), slice(*cols)].clone()
            rest.zero_()[slice(*rows), slice(*cols)] = inner
    exact = bool(torch.linalg.vector_norm(rest) <= EXACT * torch.linalg.vector_norm(whole))
    return reduce(Terms.and_also, made) if exact else None


Interval = tuple[int, int]


def _best_corner(
    rest: Tensor, rows: Interval, cols: Interval, count: int
) -> tuple[Interval, Interval] | None:
    """The corner of what is left whose block is farthest from singular."""
    ends = [((a, a + count), (b - count, b)) for a, b in (rows, cols)]
    best, most = None, 0.0
    for r, c in product(*ends):
        smallest = float(torch.linalg.svdvals(rest[r[0] : r[1], c[0] : c[1]])[-1])
        if smallest > most:
            best, most = (r, c), smallest
    return best


def _through(rest: Tensor, rows: Interval, cols: Interval, r: Interval, c: Interval) -> tuple[Tensor, Tensor]:
    """The terms that agree with a matrix on the rows and the columns of a pivot, balanced."""
    inner = rest[rows[0] : rows[1], cols[0] : cols[1]]
    across = rest[r[0] : r[1], cols[0] : cols[1]]
    down = rest[rows[0] : rows[1], c[0] : c[1]]
    pivot = rest[r[0] : r[1], c[0] : c[1]]
    q, triangle = torch.linalg.qr(down)
    p, other = torch.linalg.qr(across.mH)
    try:
        u, s, vh = torch.linalg.svd(triangle @ torch.linalg.solve(pivot, other.mH))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return _leading(inner, len(pivot))
    root = s.sqrt().to(u.dtype)
    return (q @ u) * root, root.unsqueeze(-1) * (vh @ p.mH)


def _leading(rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading triplets of what is left, balanced."""
    u, s, vh = torch.linalg.svd(rest, full_matrices=False)
    root = s[:count].sqrt().to(u.dtype)
    return u[:, :count] * root, root.unsqueeze(-1) * vh[:count]


def _without(interval: Interval, part: Interval) -> Interval:
    return (part[1], interval[1]) if part[0] == interval[0] else (interval[0], part[0])


def _boxes(
    left: Tensor, right: Tensor, corner: Interval, rows: Interval, cols: Interval, like: Terms
) -> Terms:
    """Vectors on the rows and columns of a tile as boxes of the whole matrix."""
    count = left.shape[1]
    new = Terms(
        torch.tensor([[corner[0] + rows[0], rows[1] - rows[0]]]).repeat(count, 1),
        torch.tensor([[corner[1] + cols[0], cols[1] - cols[0]]]).repeat(count, 1),
        like.left.new_zeros(count, like.left.shape[1]),
        like.right.new_zeros(count, like.right.shape[1]),
    )
    new.left[:, corner[0] + rows[0] : corner[0] + rows[1]] = left.mT
    new.right[:, corner[1] + cols[0] : corner[1] + cols[1]] = right
    return new
