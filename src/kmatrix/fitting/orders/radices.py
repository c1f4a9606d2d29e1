"""Choosing the radices of a butterfly: which nested tiles to cut at, so that the chain holds the fewest numbers.

A tile-rank butterfly is a path over the grid (digits of the row written, digits of the column read); the rank of
the tiles at each grid point says what every step costs, and dynamic programming finds the cheapest path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kmatrix.fitting.energy import tails

SAMPLES = 8
SKETCH = 48
EXACT = 1e-12


@dataclass(frozen=True)
class RadixPlan:
    """Radices for a hierarchical factorisation.

    Attributes:
        pairs: ``(b_i, c_i)`` in order of application.
        num_params: what the chain is expected to hold.
    """

    pairs: tuple[tuple[int, int], ...]
    num_params: int


def plan_radices(
    matrix: Tensor,
    row_radices: Sequence[int],
    column_radices: Sequence[int],
    *,
    tol: float,
    generator: torch.Generator,
) -> RadixPlan:
    """Find the cheapest radices for a matrix whose row digits and column digits are already in order.

    Tile ranks are estimated from the heaviest and some random tiles, sketched where they are large, so the expected
    count is an estimate; the factorisation that follows measures.

    Args:
        matrix: ``(m, n)`` float64 or complex128; rows with equal low digits and neighbouring columns form tiles.
        row_radices: ``m = prod row_radices``, the digit written first (lowest) first.
        column_radices: ``n = prod column_radices``, the digit read first (lowest) first.
        tol: relative Frobenius error to plan for.
        generator: picks the sampled tiles and sketches.
    """
    written, read = _running(row_radices), _running(column_radices)
    energies = _tile_energies(matrix, written, read)
    ranks = {
        (i, j): tile_rank(matrix, s, block, tol=tol, generator=generator, energies=energies[i, j])
        for i, s in enumerate(written)
        for j, block in enumerate(read)
    }
    return _cheapest(written, read, ranks)


def least_numbers(
    row_radices: Sequence[int],
    column_radices: Sequence[int],
    *,
    rank: float = 0,
    at: tuple[int, int] = (0, 0),
    tiles: int = 1,
) -> int:
    """Numbers that the cheapest chain holds at least, from two ranks.

    What passes from one factor to the next has at least as many components as the matrix has rank. Tiles with more
    rows and columns than others have at least their rank, those with a share of either at least that share of it.

    Args:
        row_radices: as for ``plan_radices``.
        column_radices: as for ``plan_radices``.
        rank: of the matrix.
        at: digits of the row written and of the column read where the rank of tiles is known.
        tiles: that rank.
    """
    written, read = _running(row_radices), _running(column_radices)

    def least(i: int, j: int) -> int:
        passed = written[i] * (read[-1] // read[j])
        shares = max(1, written[i] // written[at[0]]) * max(1, read[at[1]] // read[j])
        return max(1, -(-tiles // shares), math.ceil(rank / passed))

    ranks = {(i, j): least(i, j) for i in range(len(written)) for j in range(len(read))}
    return _cheapest(written, read, ranks).num_params


def _running(radices: Sequence[int]) -> list[int]:
    return [math.prod(radices[:i]) for i in range(len(radices) + 1)]


def _tile_energies(
    matrix: Tensor, written: Sequence[int], read: Sequence[int]
) -> dict[tuple[int, int], Tensor]:
    """Squared norms of all tiles of every grid point, ``(classes, blocks)`` each, from one pass over the matrix."""
    sums = matrix.real.square() + matrix.imag.square() if matrix.is_complex() else matrix.square()
    energies = {}
    for j, block in enumerate(read):
        sums = sums.reshape(len(sums), matrix.shape[1] // block, -1).sum(-1)
        classes = sums
        for i in reversed(range(len(written))):
            classes = classes.reshape(-1, written[i], sums.shape[1]).sum(0)
            energies[i, j] = classes
    return energies


def _cheapest(written: Sequence[int], read: Sequence[int], ranks: Mapping[tuple[int, int], int]) -> RadixPlan:
    """The cheapest path from no digit to all of them, by dynamic programming."""
    n, end = read[-1], (len(written) - 1, len(read) - 1)
    ranks = {**ranks, (0, 0): 1, end: 1}

    def cost(start: tuple[int, int], stop: tuple[int, int]) -> int:
        (i, j), (k, q) = start, stop
        wide = read[q] // read[j] * ranks[start]
        tall = written[k] // written[i] * ranks[stop]
        return n // read[q] * tall * wide * written[i]

    points = sorted(ranks)
    best: dict[tuple[int, int], tuple[int, tuple[tuple[int, int], ...]]] = {(0, 0): (0, ((0, 0),))}
    for stop in points[1:]:
        ways = [
            (best[start][0] + cost(start, stop), (*best[start][1], stop))
            for start in points
            if start < stop and start[1] <= stop[1] and start in best
        ]
        best[stop] = min(ways)
    num_params, path = best[end]
    pairs = tuple((written[k] // written[i], read[q] // read[j]) for (i, j), (k, q) in pairwise(path))
    return RadixPlan(pairs, num_params)


def tile_rank(
    matrix: Tensor,
    classes: int,
    block: int,
    *,
    tol: float,
    generator: torch.Generator,
    energies: Tensor | None = None,
) -> int:
    """Rank that tiles (rows of one residue modulo ``classes``) x (``block`` neighbouring columns) need on average.

    ``energies`` are the squared norms of the tiles, ``(classes, blocks)``, where they are known.
    """
    m, n = matrix.shape
    tall, blocks = m // classes, n // block
    limit = min(tall, block)
    if limit == 1:
        return 1
    grid = matrix.reshape(tall, classes, blocks, block)
    energies = (grid.abs().square().sum((0, 3)) if energies is None else energies).flatten()
    chosen, weights = _sample(energies, generator)
    tiles = torch.stack([grid[:, int(t) // blocks, int(t) % blocks] for t in chosen])
    tiles = _sketch(_sketch(tiles.mT, generator).mT, generator)
    values = torch.linalg.svdvals(tiles).square()
    # Sketches keep norms only on average, so tails are taken relative to the sketch's own energy.
    left = tails(values)[:, :-1]
    share = left / left[:, :1].clamp_min(1e-300) * (energies[chosen] * weights)[:, None]
    width = values.shape[1]
    if width < limit:
        # A sketch spreads what lies beyond it over all of its directions, and the tail has but some of them.
        share = share * (width / (width - torch.arange(width, dtype=share.dtype)))
    allowed = max(tol, EXACT) ** 2 * float(energies.sum()) / 2
    sums = [*share.sum(0).tolist(), 0.0]
    rank = next(r for r in range(len(sums)) if sums[r] <= allowed)
    # A sketch that is full to the brim says nothing of the rank: take the worst.
    return limit if rank > 0.5 * width and width < limit else max(1, rank)


def _sample(energies: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tiles to look at and how many each stands for: the heaviest for themselves, some others for all the rest."""
    order = energies.argsort(descending=True)
    heavy, rest = order[: SAMPLES // 2], order[SAMPLES // 2 :]
    others = rest[torch.randperm(len(rest), generator=generator)[: SAMPLES - len(heavy)]]
    weights = torch.ones(len(heavy) + len(others), dtype=torch.float64)
    weights[len(heavy) :] = len(rest) / max(len(others), 1)
    return torch.cat([heavy, others]), weights


def _sketch(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """Replace the rows of large tiles by a few random combinations of them."""
    tall = tiles.shape[1]
    if tall <= SKETCH:
        return tiles
    return torch.randn(SKETCH, tall, dtype=tiles.dtype, generator=generator) / math.sqrt(tall) @ tiles
