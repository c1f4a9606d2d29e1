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
from kmatrix.ops.triton.tiles import LEAST, SECTOR, Demand, Tile, spread, tile_for

# Widest blocks that narrow factors are multiplied out to. Those of float32 have no matrix instructions of their own,
# and one sum of many products is rounded more often than some sums of two.
_WIDEST = {2: 128, 4: 16, 8: 16}
_BYTES_PER_SECOND = 5.5e12  # of the second cache
_MEMORY = 4.2e12  # bytes a second, read and written
_HALF_RATE, _SINGLE_RATE = 2e14, 1.5e13  # multiply-adds a second
_UNHIDDEN = 0.3  # of the shorter of both is not hidden behind the longer
_LATENCY = 2e-6  # seconds until a pass has begun and ended
# Of vectors between factors, to stay in the second cache of 50 MiB: either half of it keeps what its side reads, so
# that numbers written on one side and read on the other take room in both.
_RING_BYTES = 16 * 2**20


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
    """The steps, and how many vectors go from one to the next at a time; 0 if all, in a launch for each step."""

    steps: tuple[Step, ...]
    chunk: int


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
        >>> butterfly = tuple(Pattern(2048 // 2**k, 2, 2, 2**k) for k in range(12))
        >>> found = plan(butterfly, butterfly, 2**15, torch.bfloat16)
        >>> [tuple(step.factor.pattern) for step in found.steps]
        [(32, 128, 128, 1), (1, 32, 32, 128)]
    """
    widest, ring, _ = by_rule(dtype) if choice is None else choice
    demand = Demand(batch, dtype, ring, backward, memory)
    factors = tuple(Factor(p, s[0] == 1, s[3] == 1) for p, s in zip(patterns, shapes, strict=True))
    best: list[tuple[float, tuple[Step, ...]]] = [(0.0, ()), *[(float("inf"), ())] * len(factors)]
    for start in range(len(factors)):
        for stop, factor in _groups(factors, start, widest):
            tile = tile_for(factor, demand)
            cost = best[start][0] + _cost(factor, tile, demand, stop - start > 1)
            if cost < best[stop][0]:
                tile = tile if backward else spread(tile, factor.pattern, batch, demand.pairs)
                best[stop] = cost, (*best[start][1], Step(start, stop, factor, tile))
    cost, steps = best[-1]
    if len(steps) > 1 and not backward and batch >= MANY and choice in (None, by_rule(dtype)):
        _, steps = min([(cost, steps), *_resident(factors, widest, demand)], key=lambda b: b[0])
    return Plan(steps, _chunk(steps, demand) if ring else 0)


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


def _cost(factor: Factor, tile: Tile, demand: Demand, merged: bool) -> float:
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
    if (
        demand.backward
    ):  # input and gradient are read, one more is written, and most products are made a second time
        traffic *= 2.5
        arithmetic *= 3
        # Sums of gradients are read and written once for each tile, in float32.
        weights += 2 * 4 * factor.numel * demand.pairs**2 / (tile.vectors * tile.steps)
    memory = (traffic + weights) / _BYTES_PER_SECOND
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


def _chunk(steps: tuple[Step, ...], demand: Demand) -> int:
    """As many vectors as let all that passes between factors stay in the second cache, in whole tiles.

    Forward, two chunks lie between any two factors. Backward, ``backward.stages`` says how many there are.
    """
    between = [step.factor.pattern.rows for step in steps[:-1]]
    shelves = [2 * (len(between) - k) + 2 if demand.backward else 2 for k in range(len(between))]
    numbers = sum(count * rows for count, rows in zip(shelves, between, strict=True))
    rows = demand.ring // max(numbers * demand.dtype.itemsize, 1)
    tall = max(step.tile.vectors * step.tile.steps for step in steps)
    return max(min(rows, demand.batch) // tall, 1) * tall
