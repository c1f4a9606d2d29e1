"""What boxes may cost together: widths brought within a budget, while they learn and when they become whole.

One unit of width, a row or a column of a box, costs one multiplication with each vector, however long the side is. A
width is stored as a share of its side, so a share costs what its side is long.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ITERATIONS = 100
_CLOSE = 1e-12
_FARTHEST = 1.0
"""How far out of bounds a width may be in a proximal step: one that has diverged would empty all other boxes."""


def project(widths: Tensor, sizes: Tensor, budget: float) -> Tensor:
    """The nearest shares within the budget: the Euclidean projection onto ``0 <= w <= 1, sum(sizes * w) <= budget``.

    It is ``clamp(w - t * sizes, 0, 1)`` with the smallest ``t >= 0`` that meets the budget, found by Newton steps on
    the piecewise linear cost, which bisection keeps within bounds.

    Shares farther than 1 out of their bounds count as that far, and those that are no numbers as 0.

    Args:
        widths: shares, of any size.
        sizes: of the sides that they are shares of, of the same shape.
        budget: the most that all units together may cost.

    Example:
        >>> project(torch.tensor([0.5, 0.25]), torch.tensor([4.0, 4.0]), 2.0).tolist()
        [0.375, 0.125]
    """
    w, c = within_reach(widths.detach().double()), sizes.double()
    low, t, high = 0.0, 0.0, float((w / c).amax().clamp(min=0)) if w.numel() else 0.0
    for _ in range(_ITERATIONS):
        shifted = w - t * c
        excess = float((c * shifted.clamp(0, 1)).sum()) - budget
        if abs(excess) <= _CLOSE * budget or (t == 0 and excess <= 0):
            break
        low, high = (t, high) if excess > 0 else (low, t)
        slope = float(c[(shifted > 0) & (shifted < 1)].square().sum())
        newton = t + excess / slope if slope > 0 else low
        t = newton if low < newton < high else 0.5 * (low + high)
    return (w - t * c).clamp(0, 1).to(widths.dtype)


def shrink(widths: Tensor, sizes: Tensor, by: float) -> Tensor:
    """Soft shrinkage, the proximal step of ``by * sum(sizes * w) / mean(sizes)``, within ``[0, 1]``."""
    return (within_reach(widths) - by * sizes / sizes.mean()).clamp(0, 1)


def within_reach(widths: Tensor) -> Tensor:
    """Widths that have not diverged as they are; the others near their bounds, and 0 for what is no number."""
    return widths.nan_to_num(nan=0.0).clamp(-_FARTHEST, 1 + _FARTHEST)


def cost(widths: Tensor, sizes: Tensor) -> float:
    """Units of all widths together."""
    return float((widths.detach().double() * sizes.double()).sum())


def rounded_within(units: Sequence[Tensor], sizes: Sequence[tuple[int, int]], budget: int) -> list[Tensor]:
    """Whole widths of the boxes of several matrices, which together cost at most the budget, and use it up.

    All widths are rounded with one threshold: ``floor(width + t)``, where ``t = 1/2`` is ordinary rounding, and at
    least 1. The threshold is the largest that meets the budget, and what it leaves goes to those widths that come next.
    Boxes that are empty on a side after ordinary rounding stay empty, and cost nothing; so do the thinnest where the
    budget is too small for all.

    Args:
        units: for each matrix the widths of its boxes on both sides, ``(2, K)``, in rows and columns; not rounded.
            Longer ones than the side count as the side, and those that are no numbers as 0.
        sizes: for each matrix ``(m, n)``.
        budget: the most that all widths together may be.

    Returns:
        For each matrix int64 ``(2, K)``; both 0 where a box is dropped.
    """
    if not units:
        return []
    device = units[0].device
    wide = torch.cat([u.detach().double().cpu() for u in units], 1)
    most = torch.cat(
        [torch.tensor(s).unsqueeze(1).expand(2, u.shape[1]) for s, u in zip(sizes, units, strict=True)], 1
    )
    wide = wide.nan_to_num(nan=0.0, posinf=torch.inf).minimum(most)
    alive = ((wide + 0.5).floor() > 0).all(0)
    if 2 * int(alive.sum()) > budget:
        thickest = torch.argsort(wide.amin(0).masked_fill(~alive, -1.0), descending=True, stable=True)
        alive[thickest[max(0, budget) // 2 :]] = False
    most = torch.where(alive, most, 0)

    def at(t: float) -> Tensor:
        return (wide + t).floor().clamp(min=1).long().minimum(most)

    low, high = -float(most.max()) - 1.0, float(most.max()) + 1.0
    for _ in range(_ITERATIONS):
        t = 0.5 * (low + high)
        low, high = (t, high) if int(at(t).sum()) <= budget else (low, t)
    filled = _filled(at(low), wide + low, most, budget).to(device)
    return list(torch.split(filled, [u.shape[1] for u in units], 1))


def _filled(whole: Tensor, wide: Tensor, most: Tensor, budget: int) -> Tensor:
    """Widths that are there already made longer by a unit each, the nearest to the next one first."""
    flat = whole.flatten().clone()
    left = budget - int(flat.sum())
    while left > 0:
        room = (flat > 0) & (flat < most.flatten())
        order = torch.argsort(
            (wide.flatten() - flat).masked_fill(~room, -torch.inf), descending=True, stable=True
        )
        chosen = order[: min(left, int(room.sum()))]
        if not len(chosen):
            break
        flat[chosen] += 1
        left -= len(chosen)
    return flat.reshape(whole.shape)
