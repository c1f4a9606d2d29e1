"""Boxes cut at their edges until they cost no more than they may."""

from __future__ import annotations

import heapq

import torch

from kmatrix.fitting.boxes.terms import Terms, masks


def trim(terms: Terms, cost: int, left: int | None = None) -> Terms:
    """The same boxes without the entries at their edges that matter least, until the widths sum to ``cost``.

    An entry at the end of one side costs ``|u_i|^2 |v|^2`` of squared error, and a unit of width saves as much
    wherever it is; the cheapest goes first. A side of one entry goes with its whole box.

    Args:
        terms: the boxes; not changed.
        cost: most that all widths may sum to.
        left: most that the heights may sum to, and ``cost - left`` the widths; any split of the cost if not given.
    """
    over = _excess(terms, cost, left)
    if max(over) <= 0:
        return terms
    sizes = (terms.left.shape[1], terms.right.shape[1])
    squares: list[list[list[float]]] = [t.abs().square().tolist() for t in (terms.left, terms.right)]
    norms = [[sum(row) for row in side] for side in squares]
    intervals: list[list[list[int]]] = [terms.rows.tolist(), terms.cols.tolist()]
    queue: list[tuple[float, int, int, bool]] = []

    def loss(k: int, side: int, last: bool) -> float:
        start, width = intervals[side][k]
        if width == 1:  # the whole box, per unit of width
            other = intervals[1 - side][k][1] if over[1 - side] > 0 else 0
            return norms[0][k] * norms[1][k] / (1 + other)
        place = (start + width - 1) % sizes[side] if last else start
        return squares[side][k][place] * norms[1 - side][k]

    for k in range(len(terms)):
        for side in (0, 1):
            for last in (False, True):
                if intervals[side][k][1]:
                    heapq.heappush(queue, (loss(k, side, last), k, side, last))
    while max(over) > 0 and queue:
        was, k, side, last = heapq.heappop(queue)
        start, width = intervals[side][k]
        if width == 0 or over[side] <= 0:
            continue
        now = loss(k, side, last)
        if now != was:  # it changed since it was queued
            heapq.heappush(queue, (now, k, side, last))
            continue
        if width == 1:
            over = _less(_less(over, side, 1, left), 1 - side, intervals[1 - side][k][1], left)
            intervals[0][k], intervals[1][k] = [0, 0], [0, 0]
            continue
        place = (start + width - 1) % sizes[side] if last else start
        norms[side][k] -= squares[side][k][place]
        intervals[side][k] = [start if last else (start + 1) % sizes[side], width - 1]
        over = _less(over, side, 1, left)
        heapq.heappush(queue, (loss(k, side, last), k, side, last))
    rows, cols = (torch.tensor(t, dtype=torch.int64).reshape(-1, 2) for t in intervals)
    heights, widths = masks(rows, sizes[0]), masks(cols, sizes[1])
    return Terms(rows, cols, terms.left * heights, terms.right * widths).alive()


def _excess(terms: Terms, cost: int, left: int | None) -> tuple[int, int]:
    """By how much the heights and the widths are too long; without a split both are what all are too long by."""
    if left is None:
        return terms.cost - cost, terms.cost - cost
    return int(terms.rows[:, 1].sum()) - left, int(terms.cols[:, 1].sum()) - (cost - left)


def _less(over: tuple[int, int], side: int, by: int, left: int | None) -> tuple[int, int]:
    """The excess after one side became shorter, which without a split is as good as the other side."""
    return (over[0] - by * (left is None or side == 0), over[1] - by * (left is None or side == 1))
