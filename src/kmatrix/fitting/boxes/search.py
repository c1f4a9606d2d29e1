"""Boxes for a dense matrix: several starts, each improved, the best kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kmatrix.fitting.boxes.descent import End, Limits, descend, filled, marginal_price, settled, widened
from kmatrix.fitting.boxes.pursuit import pursue
from kmatrix.fitting.boxes.staircase import staircase, step_of
from kmatrix.fitting.boxes.terms import Terms
from kmatrix.fitting.boxes.tilings import best_grids, tiled

SHARES = (0.05, 0.15)
"""Prices of a unit of width in the pursuit, as shares of the mean energy for a unit of the cost allowed."""
PURSUED = 32
"""Most boxes that are found one after the other."""
AHEAD = 1.1
"""How much more energy than the other starts for its cost a pursuit must have taken to go on."""
FIRST = 4
"""Boxes before it is asked."""
GRIDS = 2
"""Tilings that boxes begin with."""
MIXTURES = ((0.25, 16), (0.5, 4), (0.5, 16), (0.75, 8), (0.75, 16))
"""Shares of the cost that go to low rank, and tiles to a side that take the rest. Small tiles use up all boxes, and
grow where it pays."""
TRIAL, FINALISTS, ROUNDS = 3, 2, 24
"""Rounds for each start, and how many of the best get how many more."""

ROUNDING = 1e-9
"""Errors that differ by this share are the same."""

Start = tuple[str, Terms, float]
"""How it was made, the boxes, and a price of width to begin with."""


def search(
    dense: Tensor,
    nblocks: int,
    cost: int,
    *,
    left: int | None = None,
    rounds: int = ROUNDS,
    thorough: bool = True,
    late: Callable[[], bool] = lambda: False,
) -> tuple[Terms, str]:
    """At most ``nblocks`` boxes with widths of at most ``cost`` in all, near a matrix, and where they came from.

    Never worse than the truncated singular value decomposition of that cost, which is one of the starts.

    Args:
        dense: the target, ``(m, n)`` float64 or complex128, contiguous, finite.
        nblocks: most boxes.
        cost: most that their widths may sum to.
        left: most that the heights among them may sum to, and ``cost - left`` the others; any split if not given.
        rounds: of improvement for the best starts.
        thorough: whether all starts are tried, or the few that are quickly made.
        late: asked between rounds; True ends the work with the best so far.
    """
    limits = Limits(nblocks, cost, late, pairs=thorough, left=left)
    if not bool(dense.any()) or cost < 2 or left in (0, cost):
        return Terms.none(dense), "all numbers zero"
    ends: list[tuple[End, float, str]] = []
    for how, terms, price in _starts(dense, limits, rounds, thorough=thorough):
        ends.append((settled(dense, terms, limits), price, how))
        if late():
            break
    for turns, count in ((min(TRIAL, rounds), len(ends)), (rounds, FINALISTS)):
        for k in _order(ends)[: count if turns else 0]:
            end, price, how = ends[k]
            ends[k] = (_nearer(end, descend(dense, end.terms, limits, price, turns)), price, how)
    end, _, how = ends[_order(ends)[0]]
    end = widened(dense, end, limits)
    return filled(dense, end.terms.alive(), limits).terms, how


def _order(ends: list[tuple[End, float, str]]) -> list[int]:
    """Nearest first; what differs by rounding stays in order, the simpler start first."""
    lowest = min(end.error for end, _, _ in ends)
    return sorted(range(len(ends)), key=lambda k: max(ends[k][0].error, lowest * (1 + ROUNDING)))


def _nearer(one: End, other: End) -> End:
    return other if other.error < one.error else one


def _starts(dense: Tensor, limits: Limits, rounds: int, *, thorough: bool) -> Iterator[Start]:
    m, n = dense.shape
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    rank = min(limits.rank(m, n), len(s))
    whole = _low_rank(u, s, vh, rank)
    yield "a truncated SVD", whole, marginal_price(whole)
    rivals = [whole]
    for _, height, width in list(best_grids(dense, limits.nblocks, limits.cost))[:GRIDS]:
        tiles = tiled(dense, height, width, limits.nblocks, limits.cost)
        yield f"SVDs of {height} x {width} tiles", tiles, marginal_price(tiles)
        rivals.append(tiles)
    for share, parts in MIXTURES if thorough else MIXTURES[-1:]:
        some = round(share * rank)
        height, width = -(-m // parts), -(-n // parts)
        blocks, spare = limits.nblocks - some, limits.cost - some * (m + n)
        if some and blocks > 0 and spare >= height + width:
            first = staircase(_low_rank(u, s, vh, some), step_of(m, n))
            tiles = tiled(dense - first.dense, height, width, blocks, limits.cost - first.cost)
            mixed = first.and_also(tiles)
            yield f"a truncated SVD and {height} x {width} tiles of the rest", mixed, marginal_price(mixed)
    if not thorough:
        return
    yield from _pursuits(dense, rivals, limits, rounds)


def _low_rank(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> Terms:
    root = s[:rank].sqrt().unsqueeze(1).to(u.dtype)
    return Terms.full((u[:, :rank].mT * root).contiguous(), (root * vh[:rank]).contiguous())


def _pursuits(dense: Tensor, rivals: list[Terms], limits: Limits, rounds: int) -> Iterator[Start]:
    """Boxes one after the other, for as long as they take clearly more than the other starts for their cost."""
    energy = float(torch.linalg.vector_norm(dense).square())

    def goes_on(terms: Terms, left: float) -> bool:
        if limits.late() or terms.cost > 4 * limits.cost:
            return False
        return len(terms) < FIRST or energy - left > AHEAD * max(_taken(r, terms.cost) for r in rivals)

    for share in SHARES:
        price = share * energy / limits.cost
        found = pursue(dense, min(limits.nblocks, PURSUED), price, goes_on)
        if len(found):
            end = descend(dense, found, limits, price, rounds)
            yield "boxes one after the other", end.terms, price


def _taken(terms: Terms, cost: int) -> float:
    """About how much energy those of some boxes take that pay most and together cost no more than this."""
    if not len(terms):
        return 0.0
    widths = (terms.rows[:, 1] + terms.cols[:, 1]).double()
    order = (terms.energies / widths).argsort(descending=True)
    fits = ((cost - (widths[order].cumsum(0) - widths[order])) / widths[order]).clamp(0, 1)
    # Terms that cancel each other take less than they hold.
    whole = float(torch.linalg.vector_norm(terms.dense)) / max(
        terms.amplitude, torch.finfo(torch.float64).tiny
    )
    return float((terms.energies[order] * fits).sum()) * min(1.0, whole**2)
