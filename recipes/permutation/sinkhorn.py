"""Gumbel-Sinkhorn: a matrix of scores, normalised to a doubly-stochastic one, with Gumbel noise; rounded by assignment.

Reference: Mena, Belanger, Linderman and Snoek, Learning latent permutations with Gumbel-Sinkhorn networks (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import scipy  # loads its parts when they are asked for
import torch
from torch import Tensor

from .variation import Places


@dataclass(frozen=True)
class Plan:
    """How it learns.

    Attributes:
        chains: starts for each table of distances.
        steps: of Adam.
        rate: of Adam.
        iterations: of Sinkhorn's normalisation.
        warm: temperature at first.
        cold: temperature at last.
    """

    chains: int = 8
    steps: int = 400
    rate: float = 0.1
    iterations: int = 20
    warm: float = 1.0
    cold: float = 0.05


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """Doubly-stochastic matrices from ``(chains, n, n)`` scores, rows and columns normalised in turn, in logarithms."""
    for _ in range(iterations):
        scores = scores - scores.logsumexp(-1, keepdim=True)
        scores = scores - scores.logsumexp(-2, keepdim=True)
    return scores.exp()


def learned(
    tables: Tensor, places: Places, plan: Plan, seed: int, shown: Callable[[int, int, float], None]
) -> tuple[Tensor, Tensor]:
    """Arrangements by the same loss, and through the same neighbourhoods, as the kaleidoscope's first stage."""
    draw = torch.Generator().manual_seed(seed)
    distances = tables.repeat_interleave(plan.chains, 0)
    n, widest = len(places), places.sizes[0] / 4
    scores = (0.1 * torch.randn(len(distances), n, n, generator=draw)).requires_grad_()
    optimizer = torch.optim.Adam([scores], plan.rate)
    for step in range(plan.steps):
        done = step / plan.steps
        noise = -torch.log(-torch.log(torch.rand(scores.shape, generator=draw).clamp(1e-6, 1 - 1e-6)))
        temperature = plan.warm * (plan.cold / plan.warm) ** done
        expected = sinkhorn((scores + (1 - done) * 0.1 * noise) / temperature, plan.iterations)
        width = widest * (0.5 / widest) ** (done / 0.7) if done < 0.7 else 0.0
        loss = ((expected @ distances) * places.spread(expected, width)).sum() / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        shown(step + 1, plan.steps, float(loss.detach()))
    order = torch.stack([assigned(-s) for s in scores.detach()])
    value = places.value(distances, order).reshape(-1, plan.chains)
    which = value.argmin(1) + plan.chains * torch.arange(len(tables))
    return order[which], value.amin(1)


def assigned(costs: Tensor) -> Tensor:
    """The column for each row that makes the sum least."""
    return torch.from_numpy(scipy.optimize.linear_sum_assignment(costs.numpy())[1])
