"""One choice for every layer under one budget: a multiple-choice knapsack, solved by a bound, and by HiGHS.

With a price ``t`` on cost every layer chooses for itself, ``min_k loss_k + t cost_k``; the sum over layers less ``t``
times the budget is a lower bound of the least loss for every ``t >= 0``, largest at a price that bisection finds. Just
above it the choices are within the budget. Where their loss is as near to the bound as ``GAP``, they are the answer;
elsewhere no option can be in a better choice whose priced loss exceeds that of its layer's best by more than the
distance (Dyer, Kayal and Walker 1984), and HiGHS chooses among the few that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kmatrix._errors import ArgumentError, complaint
from kmatrix._quiet import quiet

GAP = 1e-4
"""Largest relative distance from the optimum that ends the search."""
SECONDS = 60.0
TOLERANCE = 1e-6
"""Of constraints, in HiGHS."""
_HALVINGS = 200
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Option:
    """One of the ways to go in one layer.

    Attributes:
        loss: what it loses, in the unit of the sum.
        cost: what it costs, in the unit of the budget.
    """

    loss: float
    cost: float


def choose(options: Sequence[Sequence[Option]], budget: float, *, what: str = "budget") -> list[int]:
    """The option of every layer whose losses have the least sum, the costs summing to at most the budget.

    Args:
        options: of every layer, at least one.
        budget: largest sum of the costs.
        what: the budget in words, for the complaint.

    Returns:
        The index of the chosen option of every layer.

    Raises:
        ArgumentError: if even the cheapest options of all layers cost more.

    Example:
        >>> dense_or_small = [Option(0.0, 10.0), Option(0.3, 4.0)]
        >>> choose([dense_or_small, [Option(0.0, 10.0), Option(0.1, 4.0)]], 14.0)
        [0, 1]
    """
    least = sum(min(option.cost for option in layer) for layer in options)
    if least > budget * (1 + 1e-12):
        reason = f"the cheapest choice in every layer comes to {least:.6g}"
        way_out = "ask for more, or allow more structures or sizes"
        raise ArgumentError(complaint("compress_", what, f"{budget:.6g}", reason, way_out))
    kept = [_undominated(layer) for layer in options]
    left = [[layer[k] for k in own] for layer, own in zip(options, kept, strict=True)]
    priced = _priced(left, budget)
    by_price = [own[k] for own, k in zip(kept, priced.picked, strict=True)]
    if priced.gap <= GAP * abs(priced.loss):
        return by_price
    kept = [[own[k] for k in hopeful] for own, hopeful in zip(kept, priced.hopeful, strict=True)]
    found = _solve([[layer[k] for k in own] for layer, own in zip(options, kept, strict=True)], budget)
    if found is None:
        return by_price
    solved = [own[k] for own, k in zip(kept, found, strict=True)]
    # What HiGHS has when its time is over may be the worse of the two.
    return min(solved, by_price, key=lambda picked: _loss(options, picked))


def _undominated(layer: Sequence[Option]) -> list[int]:
    """The options that no other beats in both loss and cost, dearest first."""
    kept: list[int] = []
    for k in sorted(range(len(layer)), key=lambda k: (layer[k].cost, layer[k].loss)):
        if not kept or layer[k].loss < layer[kept[-1]].loss:
            kept.append(k)
    return kept[::-1]


@dataclass(frozen=True)
class Priced:
    """What a price on cost says of all choices.

    Attributes:
        picked: a choice within the budget.
        loss: its loss.
        gap: how much less any choice could lose at most.
        hopeful: the options of every layer that may be in a better choice, or are in this one.
    """

    picked: list[int]
    loss: float
    gap: float
    hopeful: list[list[int]]


def _priced(options: Sequence[Sequence[Option]], budget: float) -> Priced:
    """A choice by the best price, and how far it is from the least loss at most; options dearest first."""
    if not options:
        return Priced([], 0.0, 0.0, [])
    width = max(len(layer) for layer in options)
    losses, costs = np.full((2, len(options), width), np.inf)
    for i, layer in enumerate(options):
        losses[i, : len(layer)] = [option.loss for option in layer]
        costs[i, : len(layer)] = [option.cost for option in layer]
    with np.errstate(invalid="ignore"):
        saved = costs[:, :1] - costs  # in the last column at most, by what all lose
    rows = np.arange(len(options))
    real = np.isfinite(costs)

    def at(price: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
        value = np.where(real, losses - price * np.where(real, saved, 0.0), np.inf)
        # Of equals the cheapest, which come last: the choice of a price has to be within the budget above it.
        return value, width - 1 - np.argmin(value[:, ::-1], axis=1)

    def cost(chosen: npt.NDArray[np.intp]) -> float:
        return float(costs[rows, chosen].sum())

    steps = np.diff(np.where(real, losses, np.nan), axis=1) / np.diff(np.where(real, saved, np.nan), axis=1)
    low, high = 0.0, 2 * float(np.nanmax(steps, initial=0.0)) + 1e-300
    if cost(at(low)[1]) <= budget:
        high = low
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if cost(at(middle)[1]) <= budget else (middle, high)
    value, chosen = at(high)
    picked = _filled(options, [int(k) for k in chosen], budget)
    loss = sum(layer[k].loss for layer, k in zip(options, picked, strict=True))
    least = value.min(1)
    bound = float(least.sum()) + high * (float(costs[:, 0].sum()) - budget)
    gap = max(0.0, loss - bound)
    near = value - least[:, None] <= gap * (1 + _ROUNDING) + _ROUNDING * abs(loss)
    near[rows, picked] = True
    return Priced(picked, loss, gap, [[int(k) for k in np.flatnonzero(own)] for own in near])


def _filled(options: Sequence[Sequence[Option]], picked: list[int], budget: float) -> list[int]:
    """A choice with what it leaves of the budget spent, each time where that saves most loss."""
    picked = list(picked)
    spent = _cost(options, picked)
    while True:
        gains = [
            (layer[k].loss - layer[j].loss, i, j)
            for i, (layer, k) in enumerate(zip(options, picked, strict=True))
            for j in range(k)
            if spent - layer[k].cost + layer[j].cost <= budget
        ]
        if not gains:
            return picked
        _, i, j = max(gains)
        before = picked[i]
        picked[i] = j
        spent = _cost(options, picked)
        if spent > budget * (1 + 1e-12):  # by rounding
            picked[i] = before
            return picked


def _solve(options: Sequence[Sequence[Option]], budget: float) -> list[int] | None:
    """Of HiGHS; None where it runs out of time with nothing. Its costs may exceed what it is given by its tolerance."""
    for allowed in (budget, budget * (1 - 2 * TOLERANCE)):
        picked = _solved(options, allowed)
        if picked is not None and _cost(options, picked) <= budget * (1 + 1e-12):
            return picked
    return None


def _loss(options: Sequence[Sequence[Option]], picked: Sequence[int]) -> float:
    return sum(layer[k].loss for layer, k in zip(options, picked, strict=True))


def _cost(options: Sequence[Sequence[Option]], picked: Sequence[int]) -> float:
    return sum(layer[k].cost for layer, k in zip(options, picked, strict=True))


def _solved(options: Sequence[Sequence[Option]], budget: float) -> list[int] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sizes = [len(layer) for layer in options]
    if not sizes:
        return []
    starts = np.concatenate([[0], np.cumsum(sizes)])
    losses = np.array([option.loss for layer in options for option in layer])
    costs = np.array([option.cost for layer in options for option in layer])
    # HiGHS has absolute tolerances: both sums are brought near one.
    scale = max(sum(max(option.loss for option in layer) for layer in options), 1e-300)
    budget_scale = max(abs(budget), 1e-300)
    count = int(starts[-1])
    one_each = csr_array(
        (np.ones(count), (np.repeat(np.arange(len(sizes)), sizes), np.arange(count))),
        shape=(len(sizes), count),
    )
    with quiet(1):  # HiGHS prints the names of its own functions when it repairs a solution
        found = milp(
            losses / scale,
            integrality=np.ones(count, dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(costs[None] / budget_scale, -np.inf, budget / budget_scale),
            ],
            options={"mip_rel_gap": GAP, "time_limit": SECONDS},
        )
    if found.x is None:
        return None
    return [int(np.argmax(found.x[a:b])) for a, b in pairwise(starts)]
