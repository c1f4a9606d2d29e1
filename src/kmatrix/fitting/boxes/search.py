"""Boxes for a dense matrix: several starts, each improved, the best kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kmatrix.fitting.boxes.descent import End, Limits, descend, marginal_price, settled
from kmatrix.fitting.boxes.pursuit import pursue
from kmatrix.fitting.boxes.terms import Terms
from kmatrix.fitting.boxes.tilings import best_grids, tiled

SHARES = (0.05, 0.15)
"""Prices of a unit of width in the pursuit, as shares of the mean energy for a unit of the cost allowed."""
PURSUED = 32
"""Most boxes that are found one after the other."""
AHEAD = 1.1
"""How much more energy than low rank of the same cost a pursuit must have taken to go on."""
GRIDS = 2
"""Tilings that boxes begin with."""
MIXTURES = (0.25, 0.5, 0.75)
"""Shares of the cost that go to low rank in starts that go on with tiles of the rest."""
TRIED, TRIAL, ROUNDS = 3, 3, 24
"""Starts that are improved, rounds for each of them, and rounds for the best."""

Start = tuple[str, Terms, float]
"""How it was made, the boxes, and a price of width to begin with."""


def search(
    dense: Tensor, nblocks: int, cost: int, *, late: Callable[[], bool] = lambda: False
) -> tuple[Terms, str]:
    """At most ``nblocks`` boxes with widths of at most ``cost`` in all, near a matrix, and where they came from.

    Never worse than the truncated singular value decomposition of that cost, which is one of the starts.

    Args:
        dense: the target, ``(m, n)`` float64 or complex128, contiguous, finite.
        nblocks: most boxes.
        cost: most that their widths may sum to.
        late: asked between rounds; True ends the work with the best so far.
    """
    limits = Limits(nblocks, cost, late)
    if not bool(dense.any()):
        return Terms.none(dense), "all numbers zero"
    ends: list[tuple[End, float, str]] = []
    for how, terms, price in _starts(dense, limits):
        ends.append((settled(dense, terms, limits), price, how))
        if late():
            break
    ends.sort(key=lambda entry: entry[0].error)
    for k, (end, price, how) in enumerate(ends[:TRIED]):
        ends[k] = (_nearer(end, descend(dense, end.terms, limits, price, TRIAL)), price, how)
    end, price, how = min(ends, key=lambda entry: entry[0].error)
    end = _nearer(end, descend(dense, end.terms, limits, price, ROUNDS))
    return end.terms.alive(), how


def _nearer(one: End, other: End) -> End:
    return other if other.error < one.error else one


def _starts(dense: Tensor, limits: Limits) -> Iterator[Start]:
    m, n = dense.shape
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    rank = min(limits.nblocks, limits.cost // (m + n), len(s))
    whole = _low_rank(u, s, vh, rank)
    yield "a truncated SVD", whole, marginal_price(whole)
    for _, height, width in list(best_grids(dense, limits.nblocks, limits.cost))[:GRIDS]:
        tiles = tiled(dense, height, width, min(limits.nblocks, limits.cost // (height + width)))
        yield f"SVDs of {height} x {width} tiles", tiles, marginal_price(tiles)
    for share in MIXTURES:
        first = _low_rank(u, s, vh, round(share * rank))
        if not 0 < len(first) < rank:
            continue
        blocks, cost = limits.nblocks - len(first), limits.cost - first.cost
        rest = dense - first.dense
        for _, height, width in list(best_grids(rest, blocks, cost))[:1]:
            tiles = tiled(rest, height, width, min(blocks, cost // (height + width)))
            mixed = first.and_also(tiles)
            yield f"a truncated SVD and {height} x {width} tiles of the rest", mixed, marginal_price(mixed)
    yield from _pursuits(dense, s, limits)


def _low_rank(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> Terms:
    root = s[:rank].sqrt().unsqueeze(1).to(u.dtype)
    return Terms.full((u[:, :rank].mT * root).contiguous(), (root * vh[:rank]).contiguous())


def _pursuits(dense: Tensor, s: Tensor, limits: Limits) -> Iterator[Start]:
    """Boxes one after the other, for as long as they take clearly more than low rank of their cost would."""
    m, n = dense.shape
    energy = float(s.square().sum())
    taken = torch.cat([s.new_zeros(1), s.square().cumsum(0)])

    def goes_on(terms: Terms, left: float) -> bool:
        rank = terms.cost / (m + n)
        whole = min(int(rank), len(s))
        by_rank = float(taken[whole] + (rank - whole) * (s[whole].square() if whole < len(s) else 0))
        return energy - left > AHEAD * by_rank and terms.cost < 4 * limits.cost and not limits.late()

    for share in SHARES:
        price = share * energy / limits.cost
        found = pursue(dense, min(limits.nblocks, PURSUED), price, goes_on)
        if len(found):
            end = descend(dense, found, limits, price, ROUNDS)
            yield "boxes one after the other", end.terms, price
