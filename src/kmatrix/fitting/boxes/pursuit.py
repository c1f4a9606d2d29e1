"""Boxes one after the other: the rank-one box that the residual pays most for, grown from the strongest tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kmatrix.fitting.boxes.sweep import add_box, renewed, sweep
from kmatrix.fitting.boxes.terms import Terms
from kmatrix.fitting.boxes.tilings import cut
from kmatrix.fitting.boxes.unmix import unmix

SEEDS_PER_GRID, SEEDS = 8, 24
"""Tiles that a box is grown from, for each box."""
TURNS = 8
"""How often the sides of a growing box are renewed."""
SWEEPS = 2
"""Rounds over all boxes after each new one."""


def pursue(dense: Tensor, most: int, price: float, goes_on: Callable[[Terms, float], bool]) -> Terms:
    """Add the best box to the others, renew all, and again, until none is worth its price.

    Args:
        dense: the target ``(m, n)``.
        most: boxes.
        price: of a unit of width, in squared error.
        goes_on: asked after each box, with all boxes and the squared error left; False ends the pursuit.
    """
    terms = Terms.none(dense)
    rest = dense.contiguous().clone()
    while len(terms) < most:
        grown = _best_box(rest, price)
        if grown is None:
            break
        add_box(rest, grown.rows[0].tolist(), grown.cols[0].tolist(), grown.left[0], grown.right[0], -1)
        terms = terms.and_also(grown)
        for _ in range(SWEEPS):
            terms = sweep(terms, rest, price).alive()
        terms, moves = unmix(terms, price)
        if moves:
            rest = dense - terms.dense
        if not goes_on(terms, float(torch.linalg.vector_norm(rest).square())):
            break
    return terms


def _best_box(rest: Tensor, price: float) -> Terms | None:
    """The box grown from the strongest tiles that gains most beyond its price."""
    best, most = None, 0.0
    for seed in _seeds(rest, price):
        net, grown = _grown(rest, seed, price)
        if net > most:
            best, most = grown, net
    return best


def _seeds(rest: Tensor, price: float) -> Iterator[Terms]:
    """The leading triplets of the tiles whose energy exceeds their price most, one grid after the other."""
    m, n = rest.shape
    found: list[tuple[float, Terms]] = []
    for share in (4, 8, 16):
        height, width = -(-m // share), -(-n // share)
        tiles = cut(rest, height, width)
        across = tiles.shape[1]
        u, s, vh = torch.linalg.svd(tiles.reshape(-1, height, width), full_matrices=False)
        net = s[:, 0].square() - price * (height + width)
        for k in net.topk(min(SEEDS_PER_GRID, len(net))).indices.tolist():
            top, first = k // across * height, k % across * width
            rows, cols = min(height, m - top), min(width, n - first)
            left, right = rest.new_zeros(1, m), rest.new_zeros(1, n)
            left[0, top : top + rows], right[0, first : first + cols] = u[k, :rows, 0], vh[k, 0, :cols]
            box = Terms(torch.tensor([[top, rows]]), torch.tensor([[first, cols]]), left, right)
            found.append((float(net[k]), box))
    found.sort(key=lambda entry: -entry[0])
    yield from (box for _, box in found[:SEEDS])


def _grown(rest: Tensor, seed: Terms, price: float) -> tuple[float, Terms | None]:
    """Power iteration from a seed in which the segments are chosen anew with each product."""
    left, right = seed.left[0], seed.right[0]
    rows, cols = seed.rows[0].tolist(), seed.cols[0].tolist()
    net = 0.0
    for _ in range(TURNS):
        before = (rows, cols)
        rows, _ = renewed(left, rest, right, cols, price)
        if rows[1] == 0:
            return 0.0, None
        cols, gain = renewed(right, rest.mT, left, rows, price)
        net = gain - price * rows[1]
        if net <= 0:
            return 0.0, None
        if (rows, cols) == before:
            break
    return net, Terms(torch.tensor([rows]), torch.tensor([cols]), left[None], right[None])
