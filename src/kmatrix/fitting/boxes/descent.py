"""From boxes to better boxes of the same cost: rounds of moves, least squares and cuts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix.fitting.boxes.refit import refit
from kmatrix.fitting.boxes.sweep import sweep
from kmatrix.fitting.boxes.terms import Terms
from kmatrix.fitting.boxes.tilings import strongest_tile
from kmatrix.fitting.boxes.trim import trim
from kmatrix.fitting.boxes.unmix import unmix

STEADY = 1.25
"""Most by which the price changes from one round to the next."""
UNMIXED = 32
"""Boxes up to which all pairs are looked at."""
LEFT_OVER = 8
"""Most boxes that the cost which is left over goes to."""
DECADES = 8
"""How far the price falls at the end, while cost is left: rows with a ten thousandth of the mean square still count."""
LAST, LAST_GAIN = 400, 1e-3
"""Most rounds of least squares for the result, if it has few boxes, and the share of the error at which they end."""
SETTLED = 10
"""Rounds of least squares at the end."""


@dataclass(frozen=True)
class Limits:
    """What boxes may cost, how many there may be, whether time is up, and whether all pairs are looked at.

    Where ``left`` is given, the heights may sum to that and the widths to the rest of the cost.
    """

    nblocks: int
    cost: int
    late: Callable[[], bool] = lambda: False
    pairs: bool = True
    left: int | None = None

    def rank(self, m: int, n: int) -> int:
        """How many boxes of full size there may be."""
        fits = (
            self.cost // (m + n) if self.left is None else min(self.left // m, (self.cost - self.left) // n)
        )
        return min(self.nblocks, fits)

    def used(self, terms: Terms) -> float:
        """What boxes cost as a share of what they may, that of the side nearer to its limit; above 1 is too much."""
        if self.left is None:
            return terms.cost / self.cost
        rows = int(terms.rows[:, 1].sum())
        return max(rows / max(self.left, 1), (terms.cost - rows) / max(self.cost - self.left, 1))

    def spare(self, terms: Terms) -> tuple[int, int | None]:
        """The cost that is left over, and how much of it is for heights."""
        rows = int(terms.rows[:, 1].sum())
        return self.cost - terms.cost, None if self.left is None else self.left - rows


@dataclass(frozen=True, eq=False)
class End:
    """Boxes within the limits and their squared error."""

    error: float
    terms: Terms


def squared_error(dense: Tensor, terms: Terms) -> float:
    """``||W - A||_F^2``."""
    return float(torch.linalg.vector_norm(dense - terms.dense).square())


def descend(dense: Tensor, terms: Terms, limits: Limits, price: float, rounds: int) -> End:
    """Rounds at a price that follows the cost, each cut to the limits and judged there; the best of all.

    A round takes mixtures apart, solves for all vectors by least squares, and renews box after box with its segments.
    The price rises while the boxes cost more than they may, and falls while they cost less.

    Args:
        dense: the target ``(m, n)``.
        terms: where to begin; within the limits or not.
        limits: what the result must keep to.
        price: of a unit of width, in squared error, at first.
        rounds: most rounds; one that changes nothing is the last.
    """
    best = settled(dense, terms, limits)
    for _ in range(rounds):
        if limits.late() or not len(terms) or price <= 0:
            break
        if limits.pairs and len(terms) <= UNMIXED:
            terms, _ = unmix(terms, price)
        terms = refit(dense, terms, 2)
        before = terms
        terms = sweep(terms, dense - terms.dense, price).alive()
        end = settled(dense, terms, limits)
        still = same_places(before, terms) and end.error >= best.error * (1 - 1e-4)
        best = min(best, end, key=lambda e: e.error)
        used = limits.used(terms)
        if still and used <= 1:
            break
        price *= min(STEADY, max(1 / STEADY, used))
    return best


def settled(dense: Tensor, terms: Terms, limits: Limits) -> End:
    """Boxes cut to the limits, and least squares for their vectors."""
    kept = trim(_fewer(terms, limits.nblocks), limits.cost, limits.left)
    kept = refit(dense, kept, SETTLED) if kept is not terms else kept
    return End(squared_error(dense, kept), kept)


def widened(dense: Tensor, end: End, limits: Limits) -> End:
    """What cost is left spent on edges: rows and columns that were not worth the price are, at prices that fall."""
    price = marginal_price(end.terms)
    for _ in range(DECADES):
        price /= 10
        if limits.late() or limits.spare(end.terms)[0] <= 0 or end.error == 0:
            break
        wider = descend(dense, end.terms, limits, price, 1)
        end = wider if wider.error < end.error else end
    # Vectors of boxes that overlap settle slowly.
    rounds = 0 if limits.late() or len(end.terms) > UNMIXED else LAST
    terms = refit(dense, end.terms, rounds, gain=LAST_GAIN)
    return End(squared_error(dense, terms), terms)


def filled(dense: Tensor, terms: Terms, limits: Limits) -> End:
    """What cost and boxes are left spent on the residual."""
    kept = terms
    for _ in range(LEFT_OVER):
        spare, rows = limits.spare(kept)
        if spare < 2 or rows in (0, spare) or len(kept) >= limits.nblocks:
            break
        more = strongest_tile(dense - kept.dense, spare)
        more = more and trim(more, spare, rows)
        if not more:
            break
        kept = kept.and_also(more)
    return End(squared_error(dense, kept), kept)


def _fewer(terms: Terms, nblocks: int) -> Terms:
    """The boxes with most energy."""
    if len(terms) <= nblocks:
        return terms
    return terms.take(terms.energies.topk(nblocks).indices.sort().values)


def same_places(one: Terms, other: Terms) -> bool:
    """Whether the boxes lie in the same places."""
    return len(one) == len(other) and torch.equal(one.rows, other.rows) and torch.equal(one.cols, other.cols)


def marginal_price(terms: Terms) -> float:
    """What the box that pays least gives for a unit of its width."""
    if not len(terms):
        return 0.0
    price = float((terms.energies / (terms.rows[:, 1] + terms.cols[:, 1])).min())
    return price if math.isfinite(price) else 0.0
