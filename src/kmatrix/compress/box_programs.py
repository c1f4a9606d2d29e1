"""Sums of boxes as programs of stock operations: linear layers on slices, few of them.

A box for itself would be two linear layers, and a thousand boxes two thousand. Boxes that lie near each other share
one. On the side of the inputs, a group of boxes takes the slice that holds all their segments, and gives one number for
each box. On the side of the outputs the rows are cut into tiles, and each is a linear layer of the numbers of the boxes
that reach it. Zeros fill the places that a slice holds and a box does not.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix.compress.export import Pieces, Program
from kmatrix.structures import Boxes, GBLRMatrix

Counts = npt.NDArray[np.int64]
OVERHEAD = 8_192
"""What one more linear layer costs, in products: what groups and tiles are weighed against."""
CUTS = 128
"""Most places at which the rows may be cut."""


def box_program(matrix: GBLRMatrix, *, transposed: bool = False) -> Program:
    """The products with a sum of boxes, or with its plain transpose, as two rounds of linear layers.

    Example:
        >>> import kmatrix as km
        >>> program = box_program(km.GBLR(nblocks=12, budget=0.2).random(64, 48))
        >>> len(program.steps), program.products < 64 * 48
        (2, True)
    """
    left, right = (t.detach().to(torch.float64) for t in matrix.factors())
    boxes, (m, n) = matrix.boxes, matrix.shape
    u, v = left.mT, right
    if transposed:
        boxes, (m, n), (u, v) = boxes.transposed, (n, m), (v, u)
    kept = torch.nonzero(boxes.occupied).squeeze(-1)
    if not len(kept):
        nothing = Pieces(n, (torch.zeros(1, dtype=torch.int64, device=u.device),), (u.new_zeros(m, 1),))
        return Program(n, m, (nothing,))
    order, groups = _groups(boxes.select(kept).to("cpu"), n)
    kept = kept[order.to(kept.device)]
    u, v = u[kept], v[kept]
    inputs = Pieces(n, *_on_inputs(v, groups))
    outputs = Pieces(len(kept), *_on_outputs(u, boxes.select(kept).row_masks(m).to("cpu")))
    return Program(n, m, (inputs, outputs))


Group = tuple[int, int, Tensor]
"""The first and the last but one of some boxes, and the columns that hold their segments."""


def _groups(boxes: Boxes, n: int) -> tuple[Tensor, list[Group]]:
    """An order of the boxes, and where to cut it so that few products and few layers are needed."""
    start, width = boxes.col_start.numpy(), boxes.col_width.numpy()
    octave = np.floor(np.log2(n / width)).astype(np.int64)
    order = np.lexsort((width, start, octave))
    start, width = start[order], width[order]
    count = len(order)
    best, came = np.full(count + 1, np.inf), np.zeros(count + 1, dtype=np.int64)
    best[0] = 0
    for i in range(count):
        low = np.minimum.accumulate(start[i:])
        hull = np.minimum(np.maximum.accumulate((start + width)[i:]) - low, n)
        total = best[i] + OVERHEAD + hull * np.arange(1, count - i + 1)
        better = total < best[i + 1 :]
        best[i + 1 :][better] = total[better]
        came[i + 1 :][better] = i
    groups: list[Group] = []
    stop = count
    while stop:
        first = int(came[stop])
        begin = int(start[first:stop].min())
        past = int((start + width)[first:stop].max())
        reach = min(past - begin, n)
        columns = (begin + torch.arange(reach)) % n if reach < n else torch.arange(n)
        groups.append((first, stop, columns))
        stop = first
    return torch.from_numpy(order), groups[::-1]


def _on_inputs(v: Tensor, groups: list[Group]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """For each group of boxes the columns it takes, and its numbers there."""
    indices = tuple(columns.to(v.device) for _, _, columns in groups)
    weights = tuple(v[first:stop][:, index] for (first, stop, _), index in zip(groups, indices, strict=True))
    return indices, weights


def _on_outputs(u: Tensor, masks: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """For each tile of the rows the boxes that reach it, and their numbers there; ``masks`` is ``(m, K)``."""
    indices, weights = [], []
    for top, stop in _tiles(masks.numpy()):
        reach = torch.nonzero(masks[top:stop].any(0)).squeeze(-1).to(u.device)
        if not len(reach):  # rows of zeros still have to be there
            reach = torch.zeros(1, dtype=torch.int64, device=u.device)
        indices.append(reach)
        weights.append(u[reach, top:stop].mT)
    return tuple(indices), tuple(weights)


def _tiles(masks: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where to cut the rows so that few products and few layers are needed."""
    m = len(masks)
    edges = np.flatnonzero((masks[1:] != masks[:-1]).any(1)) + 1
    if len(edges) > CUTS:
        edges = edges[np.linspace(0, len(edges) - 1, CUTS).round().astype(np.int64)]
    places = np.concatenate(([0], np.unique(edges), [m]))
    reached = np.stack([masks[a:b].any(0) for a, b in pairwise(places)])
    count = len(reached)
    best, came = np.full(count + 1, np.inf), np.zeros(count + 1, dtype=np.int64)
    best[0] = 0
    for i in range(count):
        boxes: Counts = np.logical_or.accumulate(reached[i:], 0).sum(1)
        total = best[i] + OVERHEAD + (places[i + 1 :] - places[i]) * boxes
        better = total < best[i + 1 :]
        best[i + 1 :][better] = total[better]
        came[i + 1 :][better] = i
    tiles: list[tuple[int, int]] = []
    stop = count
    while stop:
        tiles.append((int(places[came[stop]]), int(places[stop])))
        stop = int(came[stop])
    return tiles[::-1]
