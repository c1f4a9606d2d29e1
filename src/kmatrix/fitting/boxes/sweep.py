"""One round over the boxes: each in turn becomes the best rank-one box near it, given the others and a price of width.

The function that falls is ``||W - A||_F^2 + price * (sum of all widths)``. With one vector of a box fixed, every entry
of the other is a least squares solution of its own, ``u_i = <R_i, v> / |v|^2``, and lowers the error by
``|<R_i, v>|^2 / |v|^2``: the best interval is the cyclic interval with the largest sum of these gains minus the price.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix.fitting.boxes.intervals import best_interval, spans
from kmatrix.fitting.boxes.terms import Terms

TURNS = 2
"""How often both sides of a box are renewed before the next has its turn."""


def sweep(terms: Terms, rest: Tensor, price: float, order: list[int] | None = None) -> Terms:
    """Renew every box once; boxes that are not worth their price are left with width 0.

    Args:
        terms: the boxes; not changed.
        rest: ``W - A``, ``(m, n)`` contiguous; changed to that of the result.
        price: of one unit of width, in squared error.
        order: in which the boxes have their turn.
    """
    terms = terms.copy()
    rows, cols = terms.rows.tolist(), terms.cols.tolist()
    for k in order if order is not None else range(len(terms)):
        if rows[k][1] == 0 or cols[k][1] == 0:
            continue
        left, right = terms.left[k], terms.right[k]
        add_box(rest, rows[k], cols[k], left, right, 1)
        worth = False
        for _ in range(TURNS):
            rows[k], _ = renewed(left, rest, right, cols[k], price)
            if rows[k][1] == 0:
                break
            cols[k], gain = renewed(right, rest.mT, left, rows[k], price)
            worth = gain > price * rows[k][1]
            if not worth:
                break
        if worth:
            add_box(rest, rows[k], cols[k], left, right, -1)
        else:
            rows[k], cols[k] = [0, 0], [0, 0]
            left.zero_()
            right.zero_()
    terms.rows, terms.cols = (torch.tensor(t, dtype=torch.int64).reshape(-1, 2) for t in (rows, cols))
    return terms


def renewed(
    into: Tensor, rest: Tensor, other: Tensor, interval: list[int], price: float
) -> tuple[list[int], float]:
    """Write the best vector of one side into ``into``; its interval, and what it gains beyond its price."""
    size = rest.shape[1]
    through = sum(
        (rest[:, s] @ other[s].conj() for s in spans(interval[0], interval[1], size)),
        start=rest.new_zeros(()),
    )
    squared = float(torch.linalg.vector_norm(other).square())
    if not squared > 0:
        return [0, 0], 0.0
    gains = (through.abs().square() / squared).numpy()
    start, width, net = best_interval(gains - price)
    into.zero_()
    for s in spans(start, width, len(into)):
        into[s] = through[s] / squared
    return [start, width], net


def add_box(rest: Tensor, rows: list[int], cols: list[int], left: Tensor, right: Tensor, sign: int) -> None:
    """Add ``sign * left right^T`` on one box."""
    m, n = rest.shape
    for r in spans(rows[0], rows[1], m):
        for c in spans(cols[0], cols[1], n):
            rest[r, c].addr_(left[r], right[c], alpha=sign)
