"""Moves of two boxes at once that leave their sum as it is: mixtures of boxes taken apart.

``u_a v_a^T + u_b v_b^T = u_a (v_a + c v_b)^T + (u_b - c u_a) v_b^T`` for every ``c``. Rounds that change one box at a
time never find back from a mixture, as it is exact; yet it is seen from its edges: where box ``a`` reaches only because
it holds a share of ``b``, the ratio of ``v_a`` to ``v_b`` is the same at every place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from kmatrix.fitting.boxes.intervals import best_interval, inside
from kmatrix.fitting.boxes.terms import Terms

Array = npt.NDArray[np.generic]
EDGE = 3
"""Places at an end of a segment from which a ratio is estimated."""
WORTH = 0.5
"""Units of width that a move must save to be made."""


def unmix(terms: Terms, price: float) -> tuple[Terms, int]:
    """Every ordered pair of boxes with the best of a few ratios ``c``, where that makes segments shorter.

    Args:
        terms: the boxes; not changed.
        price: of a unit of width, in squared error.

    Returns:
        The boxes, and how many moves were made.
    """
    terms = terms.copy()
    u, v = terms.left.numpy(), terms.right.numpy()
    rows, cols = terms.rows.tolist(), terms.cols.tolist()
    moves = 0
    for a in range(len(terms)):
        for b in range(len(terms)):
            ratios = [] if a == b else _ratios((u, v), (rows, cols), a, b)
            if not ratios:
                continue
            c = np.array([0.0, *ratios])[:, None]
            changed = (v[a] + c * v[b], u[b] - c * u[a])
            weights = (_energy(u[a]), _energy(v[b]))
            priced = [_priced(w * _square(t), price) for w, t in zip(weights, changed, strict=True)]
            totals = priced[0][0] + priced[1][0]
            best = int(totals.argmin())
            segments = (priced[0][1][best], priced[1][1][best])
            if totals[best] < totals[0] - WORTH * price and min(width for _, width in segments) > 0:
                v[a] = changed[0][best] * inside(*segments[0], v.shape[1])
                u[b] = changed[1][best] * inside(*segments[1], u.shape[1])
                cols[a], rows[b] = list(segments[0]), list(segments[1])
                moves += 1
    terms.rows, terms.cols = (torch.tensor(t, dtype=torch.int64).reshape(-1, 2) for t in (rows, cols))
    return terms, moves


def _ratios(
    vectors: tuple[Array, Array], segments: tuple[list[list[int]], list[list[int]]], a: int, b: int
) -> list[complex]:
    """What ``c`` may be: minus ``v_a / v_b`` at the ends of ``v_a``, and ``u_b / u_a`` at those of ``u_b``."""
    (u, v), (rows, cols) = vectors, segments
    found = []
    for one, other, segment, sign in ((v[a], v[b], cols[a], -1), (u[b], u[a], rows[b], 1)):
        start, width = segment
        size, reach = len(one), min(EDGE, width)
        for first in (start, start + width - reach):
            places = np.arange(first, first + reach) % size
            there = other[places]
            if reach and there.all():
                found.append(sign * np.vdot(there, one[places]) / np.vdot(there, there).real)
    return found


def _priced(
    gains: npt.NDArray[np.float64], price: float
) -> tuple[npt.NDArray[np.float64], list[tuple[int, int]]]:
    """Of each row the energy outside its best segment plus the price of the segment, and the segment."""
    found = [best_interval(row) for row in gains - price]
    return gains.sum(1) - np.array([net for _, _, net in found]), [
        (start, width) for start, width, _ in found
    ]


def _square(vectors: Array) -> npt.NDArray[np.float64]:
    squares: npt.NDArray[np.float64] = np.abs(vectors) ** 2
    return squares


def _energy(vector: Array) -> float:
    return float(_square(vector).sum())
