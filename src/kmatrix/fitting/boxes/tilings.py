"""Boxes that are tiles of a grid: the strongest singular triplets of all tiles, for many grids."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor, nn

from kmatrix.fitting.boxes.staircase import saved, staircase, step_of
from kmatrix.fitting.boxes.terms import Terms

MOST = 7
"""Halvings of a side that are tried."""


def sides(n: int) -> list[int]:
    """Tile sides to try: ``n``, its halves as far as ``MOST`` allows, and 1.

    Example:
        >>> sides(12)
        [12, 6, 3, 2, 1]
    """
    found: list[int] = []
    side = n
    while side > 1 and len(found) < MOST:
        found.append(side)
        side = -(-side // 2)
    return [*found, 1]


def cut(dense: Tensor, height: int, width: int) -> Tensor:
    """All tiles ``(p, q, height, width)``, the last ones padded with zeros."""
    m, n = dense.shape
    p, q = -(-m // height), -(-n // width)
    padded = nn.functional.pad(dense, (0, q * width - n, 0, p * height - m))
    return padded.reshape(p, height, q, width).transpose(1, 2)


def energies(tiles: Tensor) -> Tensor:
    """Squared singular values of tiles ``(p, q, h, w)``, largest first: ``(p, q, min(h, w))``."""
    h, w = tiles.shape[-2:]
    if min(h, w) == 1:
        return tiles.abs().square().sum((-2, -1)).unsqueeze(-1)
    gram = tiles @ tiles.mH if h <= w else tiles.mH @ tiles
    values: Tensor = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)
    return values


def best_grids(dense: Tensor, nblocks: int, cost: int) -> Iterator[tuple[float, int, int]]:
    """The grids whose strongest triplets within the limits keep most energy: ``(energy, height, width)``."""
    m, n = dense.shape
    found = []
    for height in sides(m):
        for width in sides(n):
            if height + width <= cost:
                squares = energies(cut(dense, height, width)).flatten(0, 1)
                kept = _chosen(squares, height, width, nblocks, cost)
                found.append((float(squares.flatten()[kept].sum()), height, width))
    yield from sorted(found, reverse=True)


def _chosen(squares: Tensor, height: int, width: int, nblocks: int, cost: int) -> Tensor:
    """The largest of the squares ``(tiles, triplets)`` whose boxes keep to the limits, as flat indices."""
    per = squares.shape[1]
    most = min(nblocks, squares.numel(), int((squares > 0).sum()))
    order = squares.flatten().topk(most).indices
    step = step_of(height, width)
    prices = height + width - saved(torch.arange(per), step)
    return order[prices[order % per].cumsum(0) <= cost]


def tiled(dense: Tensor, height: int, width: int, nblocks: int, cost: int) -> Terms:
    """The strongest triplets of the tiles of a grid, as boxes within the limits.

    Several triplets of one tile lose rows and columns to each other (``staircase``).
    """
    m, n = dense.shape
    tiles = cut(dense, height, width)
    q = tiles.shape[1]
    u, s, vh = torch.linalg.svd(tiles.reshape(-1, height, width), full_matrices=False)
    per = s.shape[-1]
    chosen = _chosen(s.square(), height, width, nblocks, cost)
    tile, which = chosen // per, chosen % per
    root = s.flatten()[chosen].sqrt().to(u.dtype).unsqueeze(-1)
    left, right = u[tile, :, which] * root, vh[tile, which] * root
    top, first = (tile // q) * height, (tile % q) * width
    terms = Terms(
        torch.stack([top, (m - top).clamp_max(height)], 1),
        torch.stack([first, (n - first).clamp_max(width)], 1),
        _placed(left, top, m),
        _placed(right, first, n),
    )
    if terms.cost <= cost:  # there is nothing to save
        return terms
    step = step_of(height, width)
    counts = torch.bincount(tile, minlength=len(s))
    several = torch.nonzero(counts > step).squeeze(-1)
    parts = [terms.take(counts[tile] <= step)]
    parts += [staircase(terms.take(tile == k), step) for k in several.tolist()]
    return reduce(Terms.and_also, parts)


def _placed(vectors: Tensor, start: Tensor, size: int) -> Tensor:
    """Cropped vectors ``(K, w)`` in zeros of length ``size``; padding beyond the end is dropped."""
    width = vectors.shape[1]
    places = start.unsqueeze(1) + torch.arange(width)
    made = vectors.new_zeros(len(vectors), size + width)
    return made.scatter_(1, places, vectors)[:, :size].contiguous()


def strongest_tile(rest: Tensor, cost: int) -> Terms | None:
    """The tile triplet of a few grids that takes most energy from a residual at no more than a cost."""
    m, n = rest.shape
    best, most = None, 0.0
    for height in sides(m):
        width = max((w for w in sides(n) if height + w <= cost), default=0)
        for w in {width, 1, min(n, cost - height)}:
            if w < 1 or height + w > cost:
                continue
            energy = energies(cut(rest, height, w))[..., 0]
            if float(energy.max()) > most:
                most = float(energy.max())
                best = (height, w, *divmod(int(energy.argmax()), energy.shape[1]))
    if best is None:
        return None
    h, w, i, j = best
    one = tiled(rest[i * h : (i + 1) * h, j * w : (j + 1) * w], h, w, 1, cost)
    rows, cols = one.rows + torch.tensor([i * h, 0]), one.cols + torch.tensor([j * w, 0])
    return Terms(rows, cols, _placed(one.left, rows[:, 0], m), _placed(one.right, cols[:, 0], n))
