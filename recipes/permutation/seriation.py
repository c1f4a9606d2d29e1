"""Without gradients: order by the eigenvectors of a similarity, then local search on the total variation.

Rows and columns: the angle of the second and third eigenvectors around a ring, then 2-opt and moves of short segments,
a travelling salesman's round trip. Pixels: classical scaling of shortest-path distances puts them on a plane; they are
assigned to the grid; then each assignment is improved against the one before, over neighbourhoods that shrink.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are asked for
import torch
from torch import Tensor

from .sinkhorn import assigned
from .variation import Places

Array = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]


def ring(distances: Tensor) -> Tensor:
    """A short round trip through all lines."""
    table = distances.double().numpy()
    near = np.exp(-((table / (np.median(table) / 2)) ** 2))
    scale = near.sum(1) ** -0.5
    _, vectors = scipy.linalg.eigh(scale[:, None] * near * scale)
    angle = np.arctan2(vectors[:, -2] * scale, vectors[:, -3] * scale)
    order = np.argsort(angle, kind="stable")
    return torch.from_numpy(improved(table, order))


def improved(table: Array, order: Order) -> Order:
    """Reverse segments and move short ones, the best change each time, until none makes the round trip shorter."""
    order = order.copy()
    while True:
        following = np.roll(order, -1)
        here = table[order, following]
        change = table[np.ix_(order, order)] + table[np.ix_(following, following)] - here[:, None] - here
        upper = np.triu(change, 2)
        i, j = np.unravel_index(np.argmin(upper), upper.shape)
        gain, moved = _best_move(table, order)
        if min(upper[i, j], gain) > -1e-9:
            return order
        if upper[i, j] <= gain:
            order[i + 1 : j + 1] = order[i + 1 : j + 1][::-1].copy()
        else:
            order = moved


def _best_move(table: Array, order: Order) -> tuple[float, Order]:
    """The best place for a segment of one to three lines, either way round, and what it changes."""
    best, found = 0.0, order
    for length in (1, 2, 3) if len(order) > 6 else ():
        for start in range(len(order)):
            turned = np.roll(order, -start)
            part, rest = turned[:length], turned[length:]
            freed = table[rest[-1], part[0]] + table[part[-1], rest[0]] - table[rest[-1], rest[0]]
            for segment in (part, part[::-1]):
                added = (
                    table[rest[:-1], segment[0]] + table[segment[-1], rest[1:]] - table[rest[:-1], rest[1:]]
                )
                k = int(np.argmin(added))
                if added[k] - freed < best - 1e-12:
                    best = float(added[k] - freed)
                    found = np.concatenate([rest[: k + 1], segment, rest[k + 1 :]])
    return best, found


def plane(distances: Tensor, places: Places, rounds: int = 12) -> Tensor:
    """An arrangement of pixels on the grid."""
    table = distances.double().numpy()
    count = len(table)
    far = scipy.sparse.csgraph.shortest_path(table**2, directed=False)
    middle = np.eye(count) - 1 / count
    _, vectors = scipy.linalg.eigh(-middle @ far**2 @ middle / 2, subset_by_index=[count - 2, count - 1])
    # Ranks instead of coordinates: the grid is filled evenly, whatever the images' contrast does to distances.
    points = np.argsort(np.argsort(vectors, axis=0), axis=0) / (count - 1)
    rows, columns = (np.arange(s) / max(1, s - 1) for s in places.sizes)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(count, 2)
    order = assigned(torch.from_numpy(((grid[:, None] - points) ** 2).sum(-1)))
    best, value = order, places.value(distances[None], order[None])[0]
    for k in range(rounds):
        width = max(0.0, 0.15 * places.sizes[0] * (1 - (k + 1) / (rounds - 2)))
        around = places.spread(torch.eye(count)[order][None], width)[0]  # (positions, things), weights
        order = assigned(around @ distances)
        now = places.value(distances[None], order[None])[0]
        if now < value:
            best, value = order, now
    return swapped(distances, best, places)


def swapped(distances: Tensor, order: Tensor, places: Places, most: int = 3_000) -> Tensor:
    """Swap the pair of pixels that lowers the total variation most, again and again."""
    order = order.clone()
    count = len(order)
    eye = torch.eye(count)
    neighbours = places.spread(eye[None], 0.0)[0]
    costs = neighbours @ distances[order]  # costs[i, x]: of thing x at position i, all others where they are
    for _ in range(most):
        there = costs[:, order]
        own = torch.diagonal(there)
        # A neighbour's cost counts the pair itself, which a swap of the two does not change.
        change = there + there.T - own[:, None] - own + 2 * neighbours * distances[order][:, order]
        best = int(change.argmin())
        i, j = divmod(best, count)
        if change[i, j] > -1e-6:
            break
        a, b = int(order[i]), int(order[j])
        order[i], order[j] = b, a
        costs += (neighbours[:, i] - neighbours[:, j])[:, None] * (distances[b] - distances[a])
    return order
