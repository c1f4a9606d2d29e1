"""Which factors are multiplied out for the GPU, and in which tiles the results meet the vectors.

A pass over the vectors costs memory traffic, wide blocks cost arithmetic, and narrow ones do not fill the matrix
instructions; few vectors cannot pay for weights that are multiplied out. ``plan`` weighs these with rates of an H200,
of which only ratios matter. It looks at patterns, tying, number of vectors, number type and direction, never at values.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from kmatrix.ops.definition import Patterns
from kmatrix.ops.merging import product_pattern, split
from kmatrix.ops.schedule import Factor, Shapes
from kmatrix.ops.triton.chip import SHARED
from kmatrix.ops.triton.residence import MANY, residence
from kmatrix.ops.triton.tiles import LEAST, PROCESSORS, SECTOR, Demand, Tile, lowered, spread, tile_for

# Widest blocks that narrow factors are multiplied out to. Those of float32 have no matrix instructions of their own,
# and one sum of many products is rounded more often than some sums of two.
_WIDEST = {2: 128, 4: 16, 8: 16}
_BYTES_PER_SECOND = 5.5e12  # of the second cache
_MEMORY = 4.2e12  # bytes a second, read and written
_HALF_RATE, _SINGLE_RATE = 2e14, 1.5e13  # multiply-adds a second
_UNHIDDEN = 0.3  # of the shorter of both is not hidden behind the longer
_LATENCY = 2e-6  # seconds until a pass has begun and ended
_WAIT = 1.5e-6  # seconds until a tile of a ring knows that it may begin, and others that it is done
# Of vectors between factors, to stay in the second cache of 50 MiB: either half of it keeps what its side reads, so
# that numbers written on one side and read on the other take room in both.
_RING_BYTES = 16 * 2**20
_WORSE = (
    2  # times as slow as a launch for each factor, by these estimates, may one launch be: it takes no memory
)


class Choice(NamedTuple):
    """What measuring may choose: the widest block to multiply out, and bytes of vectors between two factors.

    The second cache should hold the latter; 0 for a launch for each factor.
    """

    widest: int
    ring: int
    kernel: str = "triton"


class Step(NamedTuple):
    """Factors ``start .. stop-1`` as one factor, and its tiles."""

    start: int
    stop: int
    factor: Factor
    tile: Tile


class Plan(NamedTuple):
    """The steps, and how many vectors go from one to the next at a time.

    Attributes:
        steps: in order of application.
        chunk: that number; 0 for all vectors, in a launch for each step.
        held: whether both steps stay on the chip together while many vectors pass, so that nothing lies between.
    """

    steps: tuple[Step, ...]
    chunk: int
    held: bool = False


@lru_cache(maxsize=1024)
def plan(
    patterns: Patterns,
    shapes: Shapes,
    batch: int,
    dtype: torch.dtype,
    *,
    backward: bool = False,
    choice: Choice | None = None,
    memory: int = SHARED,
) -> Plan:
    """The cheapest steps for about ``batch`` vectors, by the rule or by what was measured.

    A program may have ``memory`` bytes of shared memory.

    Example:
        >>> from kmatrix.ops import Pattern
        >>> butterfly = tuple(Pattern(2048 // 2**k, 2, 2, 2**k) for k in range(12))
        >>> found = plan(butterfly, butterfly, 2**15, torch.bfloat16)
        >>> [tuple(step.factor.pattern) for step in found.steps]
        [(32, 128, 128, 1), (1, 32, 32, 128)]
    """
    widest, ring, _ = by_rule(dtype) if choice is None else choice
    demand = Demand(batch, dtype, ring, backward, memory)
    factors = tuple(Factor(p, s[0] == 1, s[3] == 1) for p, s in zip(patterns, shapes, strict=True))
    found = [_fitted(steps, demand) for steps in _cheapest(factors, widest, demand)]
    cost, best = min(found, key=lambda option: option[0])
    if len(best.steps) > 1 and not backward and batch >= MANY and choice in (None, by_rule(dtype)):
        for held_cost, steps in _resident(factors, widest, demand):
            if held_cost < cost:
                cost, best = held_cost, _fitted(steps, demand)[1]
        best = best._replace(held=residence([s.factor for s in best.steps], dtype, memory) is not None)
    return best


def _cheapest(factors: tuple[Factor, ...], widest: int, demand: Demand) -> list[tuple[Step, ...]]:
    """For every number of steps that is possible, the cheapest ones."""
    best: list[dict[int, tuple[float, tuple[Step, ...]]]] = [{0: (0.0, ())}, *[{} for _ in factors]]
    for start in range(len(factors)):
        for stop, factor in _groups(factors, start, widest):
            tile = tile_for(factor, demand)
            own = _cost(factor, tile, demand, stop - start > 1)
            tile = tile if demand.backward else spread(tile, factor.pattern, demand.batch, demand.pairs)
            for count, (cost, steps) in best[start].items():
                if cost + own < best[stop].get(count + 1, (float("inf"), ()))[0]:
                    best[stop][count + 1] = cost + own, (*steps, Step(start, stop, factor, tile))
    return [steps for _, steps in best[-1].values()]


def _fitted(steps: tuple[Step, ...], demand: Demand) -> tuple[float, Plan]:
    """The steps in one launch, or each in its own if that is clearly cheaper, and seconds for one vector.

    In one launch what lies between factors stays in the second cache; many factors and long vectors leave room for few
    vectors at a time there, and weights are read again for all of them.
    """
    apart = demand._replace(ring=0)
    tiles = [tile_for(step.factor, apart) for step in steps]
    if not demand.backward:
        patterns = [step.factor.pattern for step in steps]
        tiles = [spread(t, p, demand.batch, demand.pairs) for t, p in zip(tiles, patterns, strict=True)]
    alone = Plan(tuple([s._replace(tile=t) for s, t in zip(steps, tiles, strict=True)]), 0)
    between = max(step.factor.pattern.rows for step in steps) * demand.batch * demand.dtype.itemsize
    cost = _cost_of(alone, apart, _MEMORY if between > _RING_BYTES else _BYTES_PER_SECOND)
    if len(steps) == 1 or not demand.ring:
        return cost, alone
    ring = _through_ring(steps, demand)
    ring_cost = _cost_of(ring, demand, _BYTES_PER_SECOND) + sum(_waits(step, demand) for step in ring.steps)
    return (ring_cost, ring) if ring.chunk and ring_cost <= _WORSE * cost else (cost, alone)


def _waits(step: Step, demand: Demand) -> float:
    """Seconds for one vector that tiles wait for others, at two programs a processor; backward each comes twice."""
    (a, b, _, d), tile = step.factor.pattern, step.tile
    tiles = a * -(-d // tile.diagonals) * -(-b * demand.pairs // tile.outputs)
    return _WAIT * (1 + demand.backward) * tiles / (tile.vectors * tile.steps) / (2 * PROCESSORS)


def _cost_of(found: Plan, demand: Demand, rate: float) -> float:
    """Seconds for one vector, where vectors come at so many bytes a second."""
    return sum(_cost(s.factor, s.tile, demand, s.stop - s.start > 1, rate) for s in found.steps)


def by_rule(dtype: torch.dtype) -> Choice:
    """What is chosen where nothing was measured."""
    return Choice(_WIDEST[dtype.itemsize], _RING_BYTES)


def _groups(factors: tuple[Factor, ...], start: int, widest: int) -> list[tuple[int, Factor]]:
    """Runs of factors from ``start`` on that are one factor, not too wide: where each stops, and what it is."""
    product = factors[start]
    found = [(start + 1, product)]
    for stop, (pattern, tied_a, tied_d) in enumerate(factors[start + 1 :], start + 2):
        if split(product.pattern, pattern) is None:
            break
        merged = product_pattern(product.pattern, pattern)
        if max(merged.b, merged.c) > widest:
            break
        tied = (merged.a == 1 or (product.tied_a and tied_a), merged.d == 1 or (product.tied_d and tied_d))
        product = Factor(merged, *tied)
        found.append((stop, product))
    return found


def _cost(
    factor: Factor, tile: Tile, demand: Demand, merged: bool, rate_of_vectors: float = _BYTES_PER_SECOND
) -> float:
    """Seconds for one vector."""
    batch, dtype = demand.batch, demand.dtype
    _, _, c, d = factor.pattern
    strided = not (d == 1 or factor.tied_d)
    waste = max(SECTOR / (tile.diagonals * dtype.itemsize), 1.0) if strided else 1.0
    repeats = -(-factor.pattern.b * demand.pairs // tile.outputs)
    traffic = (factor.pattern.cols * repeats * waste + factor.pattern.rows * waste) * dtype.itemsize
    weights = factor.numel * dtype.itemsize * (1 / (tile.vectors * tile.steps) + 3 * merged / batch)
    rate = _HALF_RATE if dtype.itemsize == 2 else _SINGLE_RATE / (4 if dtype.is_complex else 1)
    arithmetic = factor.pattern.rows * max(c, LEAST) / rate
    if demand.backward:  # two are read, one is written, and most products are made a second time
        traffic *= 2.5
        arithmetic *= 3
        # Sums of gradients are read and written once for each tile, in float32.
        weights += 2 * 4 * factor.numel * demand.pairs**2 / (tile.vectors * tile.steps)
    memory = traffic / rate_of_vectors + weights / _BYTES_PER_SECOND
    return max(memory, arithmetic) + _UNHIDDEN * min(memory, arithmetic) + _LATENCY / batch


def _resident(
    factors: tuple[Factor, ...], widest: int, demand: Demand
) -> list[tuple[float, tuple[Step, ...]]]:
    """The chain as two factors that stay on the chip while all vectors pass: seconds for one vector, and the steps."""
    batch, dtype = demand.batch, demand.dtype
    found: list[tuple[float, tuple[Step, ...]]] = []
    for middle, first in _groups(factors, 0, widest):
        for stop, second in _groups(factors, middle, widest) if middle < len(factors) else []:
            if stop < len(factors) or residence((first, second), dtype, demand.memory) is None:
                continue
            made = first.numel * (middle > 1) + second.numel * (stop - middle > 1)  # by multiplying out
            numbers = first.pattern.cols + second.pattern.rows + 3 * made / batch
            memory = numbers * dtype.itemsize / _MEMORY
            rate = _HALF_RATE if dtype.itemsize == 2 else _SINGLE_RATE
            arithmetic = sum(f.pattern.rows * f.pattern.c for f in (first, second)) / rate
            cost = max(memory, arithmetic) + _UNHIDDEN * min(memory, arithmetic) + _LATENCY / batch
            tiles = [tile_for(f, demand) for f in (first, second)]
            steps = Step(0, middle, first, tiles[0]), Step(middle, stop, second, tiles[1])
            found.append((cost, steps))
    return found


def shelves(count: int, *, backward: bool) -> tuple[int, ...]:
    """How many chunks lie behind each of ``count`` factors but the last: in the ring of vectors.

    Forward, one is written while the one before is read. Backward, products are read again by the gradient of the
    factor behind, as many stages later as there are chunks; and two of their gradients lie there.

    Example:
        >>> shelves(3, backward=False), shelves(3, backward=True)
        ((2, 2), (6, 4))
    """
    return tuple([2 * (count - 1 - k) + 2 if backward else 2 for k in range(count - 1)])


def _through_ring(steps: tuple[Step, ...], demand: Demand) -> Plan:
    """As many vectors at a time as let all that lies between factors stay in the second cache, in whole tiles.

    Tiles are cut for that; where not even the smallest fit, factors have a launch each.
    """
    between = [step.factor.pattern.rows for step in steps[:-1]]
    counts = shelves(len(steps), backward=demand.backward)
    numbers = sum(count * rows for count, rows in zip(counts, between, strict=True))
    room = demand.ring // (numbers * demand.dtype.itemsize)
    cut = tuple([step._replace(tile=lowered(step.tile, step.factor, room)) for step in steps])
    tall = max(step.tile.vectors * step.tile.steps for step in cut)
    return Plan(cut, max(min(room, demand.batch) // tall, 1) * tall) if tall <= room else Plan(steps, 0)
