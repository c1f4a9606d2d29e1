"""Doubly-stochastic kaleidoscopes that learn to put positions in order.

A factor pairs positions at a stride ``s``; each pair stays with probability ``a`` and is swapped otherwise, so its
2 x 2 block is ``[[a, 1 - a], [1 - a, a]]``. Strides 1, 2, ..., n/2 and back (a butterfly and then a transposed one, a
Benes network) reach every permutation. The product of the expected factors is doubly stochastic.

``sampled`` is the paper's way: total variation of images under drawn permutations, with a penalty on entropy.
``staged`` is ours: the expected total variation in closed form from a table of distances, first over wide
neighbourhoods and then over narrow ones; round; take the result for the new identity, wire the ring to
the network in another way (turned, folded), learn again; of several chains the better half goes on. A product of
permutations is a permutation, and a Benes network writes any, so one kaleidoscope holds the result of all stages. At
the end switches are flipped, which needs no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import kmatrix as km

from .variation import Places, total_variation

Shown = Callable[[int, int, float], None]


def strides(n: int) -> list[int]:
    """Of the factors, in order of application."""
    up = [1 << k for k in range(n.bit_length() - 1)]
    return up + up[::-1]


def factors(chances: Tensor, n: int) -> list[Tensor]:
    """Weights of the chain that is block-diagonal in the chains, from chances to stay ``(chains, factors, n / 2)``."""
    found = []
    for k, stride in enumerate(strides(n)):
        stay = chances[:, k].reshape(-1, stride)
        swap = 1 - stay
        found.append(torch.stack([torch.stack([stay, swap], 1), torch.stack([swap, stay], 1)], 1))
    return found


def times(chances: Tensor, tables: Tensor) -> Tensor:
    """Expected matrices times ``tables`` ``(chains, n, m)``, one each."""
    chains, n, m = tables.shape
    across = tables.permute(2, 0, 1).reshape(m, chains * n)
    found: Tensor = km.ops.chain_matmul(across, factors(chances, n))
    return found.reshape(m, chains, n).permute(1, 2, 0)


def rounded(logits: Tensor) -> Tensor:
    """The permutations of the likelier choices: ``order[k]`` is what comes to position ``k``."""
    chains, _, half = logits.shape
    held = torch.arange(2 * half, device=logits.device).repeat(chains, 1)
    for k, stride in enumerate(strides(2 * half)):
        pairs = held.reshape(chains, -1, 2, stride)
        swap = (logits[:, k] < 0).reshape(chains, -1, 1, stride)
        held = torch.where(swap, pairs.flip(2), pairs).reshape(chains, -1)
    return held


@dataclass(frozen=True)
class Plan:
    """How ``staged`` learns.

    Attributes:
        chains: starts for each table of distances.
        first: steps of the first stage, from random numbers.
        stages: how many follow.
        steps: of each.
        rate: of Adam.
        stay: logit that the later stages begin with, plus noise of ``spread``.
        spread: standard deviation of that noise.
        widest: of the neighbourhoods in the first stage, as a share of the ring.
        heat: a rise of the total variation that is accepted with probability 1/e at first; falls to zero.
        select: stages after which the better half of the chains replaces the worse one.
        restarts: how often all of this is done at most; it ends when the least value was found twice.
    """

    chains: int = 16
    first: int = 150
    stages: int = 80
    steps: int = 25
    rate: float = 0.4
    stay: float = 2.0
    spread: float = 1.0
    widest: float = 0.25
    heat: float = 0.2
    select: int = 10
    restarts: int = 6


@dataclass
class Found:
    """What ``agreed`` found, for each table of distances.

    Attributes:
        order: which thing stands at each position.
        value: its total variation.
        learned: the best order of the stages alone, before switches are flipped.
        restarts: how many it took.
    """

    order: Tensor
    value: Tensor
    learned: Tensor
    restarts: list[int]


def agreed(tables: Tensor, places: Places, plan: Plan, seed: int, shown: Shown) -> Found:
    """Learn in stages and settle, again and again, until two restarts agree on a table's least total variation.

    Chains of one restart end in the same arrangement, which may be a local minimum; two that do so on their own seldom
    end in the same one. Arrangements of all pixels are not settled.
    """
    least = torch.full((len(tables),), math.inf)
    found = Found(
        torch.zeros(len(tables), len(places), dtype=torch.long), least, torch.zeros(0), [0] * len(tables)
    )
    found.learned, before = found.order.clone(), least.clone()
    left = list(range(len(tables)))
    for restart in range(plan.restarts):
        orders, values = staged(tables[left], places, plan, seed + 7_919 * restart, shown)
        open_ = []
        for k, learned, reached in zip(left, orders, values, strict=True):
            found.restarts[k] += 1
            if reached < before[k]:
                found.learned[k], before[k] = learned, reached
            order, value = learned, reached
            if len(places.sizes) == 1:
                order = settle(tables[k], learned, places)
                value = places.value(tables[k : k + 1], order[None])[0]
            if not math.isclose(float(value), float(least[k]), rel_tol=1e-5):
                open_.append(k)
            if value < least[k]:
                found.order[k], least[k] = order, value
        left = open_
        if not left:
            break
    return found


def staged(tables: Tensor, places: Places, plan: Plan, seed: int, shown: Shown) -> tuple[Tensor, Tensor]:
    """Arrangements of least total variation, one for each table of distances.

    Args:
        tables: ``(tables, n, n)``, mean one.
        places: what is filled.
        plan: how.
        seed: of all that is drawn.
        shown: called with stages done, stages in all and the best value.

    Returns:
        ``(tables, n)``: which thing stands at each position, and its total variation.
    """
    draw = torch.Generator().manual_seed(seed)
    distances = tables.repeat_interleave(plan.chains, 0)
    n, chains = len(places), len(distances)
    order = torch.arange(n).repeat(chains, 1)
    widest = plan.widest * places.sizes[0]
    order = _stage(distances, order, places, plan, plan.first, (0.0, widest), draw)
    value = places.value(distances, order)
    best, kept = value.clone(), order.clone()
    for stage in range(plan.stages):
        wiring = places.wirings(chains, draw)
        # Half of the stages look at nearest neighbours alone; wider looks lead out of their local minima.
        wide = float(torch.rand((), generator=draw)) * 2 - 1
        width = 0.3 + 0.1 * places.sizes[0] * wide if wide > 0 else 0.0
        new = _stage(
            distances, order.gather(1, wiring), places, plan, plan.steps, (plan.stay, width), draw, wiring
        )
        found = places.value(distances, new)
        heat = max(plan.heat * (1 - stage / plan.stages), 1e-9)
        taken = torch.rand(chains, generator=draw) < torch.exp(((value - found) / heat).clamp(max=0))
        order, value = torch.where(taken[:, None], new, order), torch.where(taken, found, value)
        better = value < best
        best, kept = torch.where(better, value, best), torch.where(better[:, None], order, kept)
        if plan.chains > 1 and (stage + 1) % plan.select == 0:
            good = best.reshape(-1, plan.chains).argsort(1)
            good = good + plan.chains * torch.arange(len(tables))[:, None]
            half = plan.chains // 2
            worse, source = good[:, -half:].flatten(), good[:, :half].flatten()
            for held, origin in ((order, kept), (kept, kept), (value, best), (best, best)):
                held[worse] = origin[source]
        shown(stage + 1, plan.stages, float(best.reshape(-1, plan.chains).amin(1).sum()))
    which = best.reshape(-1, plan.chains).argmin(1) + plan.chains * torch.arange(len(tables))
    return kept[which], best[which]


def settle(table: Tensor, order: Tensor, places: Places) -> Tensor:
    """Flip switches of one more kaleidoscope, in any wiring, while that lowers the total variation.

    A switch alone swaps two positions, which decides between neighbours that differ in a few images, whose gradients
    drown in the noise of the choices. The first ``m`` switches at stride one of a ring folded at ``c`` swap mirror
    images: together they reverse the segment of ``2 m`` around ``c``. Gradients do not see that: switch by switch it
    first gets worse.
    """
    n = len(order)
    moves = torch.cat([_swaps(n), _reversals(n)])
    exact = table.double().expand(len(moves), n, n)
    while True:
        tried = order[moves]
        values = places.value(exact, tried)
        now = float(places.value(exact[:1], order[None]))
        best = int(values.argmin())
        if float(values[best]) > now - 1e-9:
            return order
        order = tried[best]


def _swaps(n: int) -> Tensor:
    """All swaps of two positions, as index arrays."""
    here, there = torch.triu_indices(n, n, 1)
    found, trial = torch.arange(n).repeat(len(here), 1), torch.arange(len(here))
    found[trial, here], found[trial, there] = there, here
    return found


def _reversals(n: int) -> Tensor:
    """All reversals of at most half of a ring, as index arrays."""
    found = []
    for start in range(n):
        for length in range(2, n // 2 + 1):
            segment = (start + torch.arange(length)) % n
            index = torch.arange(n)
            index[segment] = segment.flip(0)
            found.append(index)
    return torch.stack(found) if found else torch.arange(n)[None]


def _stage(
    distances: Tensor,
    order: Tensor,
    places: Places,
    plan: Plan,
    steps: int,
    start: tuple[float, float],
    draw: torch.Generator,
    wiring: Tensor | None = None,
) -> Tensor:
    """One kaleidoscope for each chain, learned and rounded, after ``order``; ``wiring`` says where positions are."""
    stay, width = start
    chains, n = order.shape
    chain = torch.arange(chains)[:, None, None]
    there = distances[chain, order[:, :, None], order[:, None, :]]
    back = None if wiring is None else wiring.argsort(1)
    # Two positions that hold the same thing half each would else be the best of neighbours.
    if wiring is not None:
        torch.diagonal(there, dim1=1, dim2=2).copy_((0.5 * there.amax((1, 2)))[:, None].expand(-1, n))
    both = torch.cat([torch.eye(n).expand(chains, n, n), there], 2)
    shape = (chains, len(strides(n)), n // 2)
    logits = (stay + plan.spread * torch.randn(shape, generator=draw)).requires_grad_()
    optimizer = torch.optim.Adam([logits], plan.rate if wiring is not None else 0.15, betas=(0.9, 0.95))
    for step in range(steps):
        done = step / steps
        drawn = logits
        if wiring is not None:
            u = torch.rand(shape, generator=draw).clamp(1e-6, 1 - 1e-6)
            drawn = logits + 0.5 * (1 - done) * torch.log(u / (1 - u))
            now = width
        else:
            now = width * (0.5 / width) ** (done / 0.7) if done < 0.7 else 0.0
        moved = times(torch.sigmoid(drawn / 0.1**done), both)
        if back is not None:
            moved = moved.gather(1, back[:, :, None].expand_as(moved))
        expected, reached = moved[..., :n], moved[..., n:]
        loss = (reached * places.spread(expected, now)).sum() / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = order.gather(1, rounded(logits.detach()))
    return found if wiring is None else torch.empty_like(found).scatter_(1, wiring, found)


def sampled(
    images: Tensor,
    rank: int,
    *,
    steps: int,
    chains: int,
    batch: int,
    rate: float,
    entropy: float,
    temperature: float,
    seed: int,
    shown: Shown,
) -> Tensor:
    """The paper's way, ``chains`` times; the arrangement of all pixels of the chain with the least total variation.

    Choices are drawn by Gumbel softmax at a temperature; the loss is the paper's total variation of the images under
    the drawn matrices, plus an entropy of the choices that weighs ``entropy * sqrt(share of the steps done)``.
    """
    draw = torch.Generator().manual_seed(seed)
    side = images.shape[-1]
    n = side if rank == 2 else side * side
    shape = (rank * chains, len(strides(n)), n // 2)
    u = torch.rand(shape, generator=draw).clamp(1e-6, 1 - 1e-6)
    logits = (2 * torch.log(u / (1 - u))).requires_grad_()  # logistic noise times the number of butterflies
    optimizer = torch.optim.Adam([logits], rate)
    for step in range(steps):
        x = images[torch.randint(len(images), (batch,), generator=draw)].float() / 255
        u = torch.rand(shape, generator=draw).clamp(1e-6, 1 - 1e-6)
        drawn = torch.sigmoid((logits + torch.log(u / (1 - u))) / temperature)
        if rank == 2:
            matrices = times(drawn, torch.eye(n).expand(len(drawn), n, n))
            y = torch.einsum("rij,bcjk,rlk->rbcil", matrices[:chains], x, matrices[chains:])
        else:
            pixels = (
                x.flatten(2).flatten(0, 1).T
            )  # few columns: the matrix itself, of all pixels, is not needed
            y = times(drawn, pixels.expand(chains, *pixels.shape)).mT.reshape(chains, *x.shape)
        loss = total_variation(y).sum() + entropy * math.sqrt(step / steps) * entropies(logits).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        shown(step + 1, steps, float(loss.detach()) / chains)
    order = rounded(logits.detach())
    if rank == 2:
        order = (order[:chains, :, None] * side + order[chains:, None, :]).flatten(1)
    some = images[:256].float() / 255
    values = [total_variation(some.flatten(2)[..., o].reshape(some.shape)) for o in order]
    return order[int(torch.stack(values).argmin())]


def entropies(logits: Tensor) -> Tensor:
    """Of choices with the given logits, in nats; exact, with its gradient, where they are settled."""
    return torch.nn.functional.softplus(logits) - logits * torch.sigmoid(logits)


def network(order: Tensor) -> km.ChainMatrix:
    """One kaleidoscope, strides up and down again, whose numbers are 0 and 1: ``network(order) @ x == x[order]``."""
    return km.constructions.permutation(order, side="B*B", dtype=torch.float64)
