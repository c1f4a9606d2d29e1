"""One choice for every layer under one budget: a multiple-choice knapsack, solved by HiGHS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from kmatrix._errors import ArgumentError, complaint
from kmatrix._quiet import quiet

GAP = 1e-4
"""Largest relative distance from the optimum that ends the search."""
SECONDS = 60.0
TOLERANCE = 1e-6
"""Of constraints, in HiGHS."""


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
    picked = _solve([[layer[k] for k in own] for layer, own in zip(options, kept, strict=True)], budget)
    return [own[k] for own, k in zip(kept, picked, strict=True)]


def _undominated(layer: Sequence[Option]) -> list[int]:
    """The options that no other beats in both loss and cost, dearest first."""
    kept: list[int] = []
    for k in sorted(range(len(layer)), key=lambda k: (layer[k].cost, layer[k].loss)):
        if not kept or layer[k].loss < layer[kept[-1]].loss:
            kept.append(k)
    return kept[::-1]


def _solve(options: Sequence[Sequence[Option]], budget: float) -> list[int]:
    """Of HiGHS; step by step where it runs out of time. Its costs may exceed what it is given by its tolerance."""
    for allowed in (budget, budget * (1 - 2 * TOLERANCE)):
        picked = _solved(options, allowed)
        if picked is not None and _cost(options, picked) <= budget * (1 + 1e-12):
            return picked
    return _greedy(options, budget)


def _cost(options: Sequence[Sequence[Option]], picked: Sequence[int]) -> float:
    return sum(layer[k].cost for layer, k in zip(options, picked, strict=True))


def _solved(options: Sequence[Sequence[Option]], budget: float) -> list[int] | None:
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


def _greedy(options: Sequence[Sequence[Option]], budget: float) -> list[int]:
    """From the dearest options down, always the step that loses least for what it saves."""
    picked = [0] * len(options)
    # Summed anew each time: in the end exactly the sum that was seen to be within the budget.
    while _cost(options, picked) > budget * (1 + 1e-12):
        steps = [
            ((layer[j].loss - layer[k].loss) / (layer[k].cost - layer[j].cost), i, j)
            for i, (layer, k) in enumerate(zip(options, picked, strict=True))
            for j in range(k + 1, len(layer))
        ]
        _, i, j = min(steps)
        picked[i] = j
    return picked
