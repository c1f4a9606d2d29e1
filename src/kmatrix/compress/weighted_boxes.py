"""Sums of boxes near a weight in the norm of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix.compress.metric import Metric
from kmatrix.fitting import fit_boxes, low_rank_boxes
from kmatrix.structures import GBLR, GBLRMatrix, StructuredMatrix

ROUNDS = 6
"""Rounds of improvement: many sizes are tried for each layer."""


def blind_boxes(metric: Metric, structure: GBLR) -> StructuredMatrix:
    """Boxes in the Frobenius norm, with less effort than ``km.fit``."""
    m, n = metric.weight.shape
    limits = (structure.count(m, n), structure.num_params(m, n))
    rounds = ROUNDS if metric.second is None else 0  # else it is what ``aware_boxes`` is compared with
    found = fit_boxes(metric.weight, *limits, rounds=rounds, thorough=False)
    return found.matrix(structure).to(metric.weight.device, metric.weight.dtype)


def aware_boxes(metric: Metric, structure: GBLR, start: StructuredMatrix) -> list[StructuredMatrix]:
    """Members made with the inputs in view, to choose from.

    - Low rank in the norm of the inputs, exact, with fewer numbers than two full factors (``low_rank_boxes``).
    - Boxes for ``D W E``, with the roots of the diagonals of ``G`` and ``C`` as ``D`` and ``E``: intervals of rows and
      columns stay intervals under a diagonal scaling, and not under any other.
    """
    m, n = metric.weight.shape
    count, cost = structure.count(m, n), structure.num_params(m, n)
    made = []

    def factors(rank: int) -> tuple[Tensor, Tensor]:
        return metric.low_rank(rank, torch.Generator().manual_seed(0))

    made.append(low_rank_boxes(factors, (m, n), count, cost).matrix(structure))
    rows, cols = _root_of_diagonal(metric.outer, m), _root_of_diagonal(metric.regular, n)
    scaled = rows.unsqueeze(1) * metric.weight.double().cpu() * cols
    found = fit_boxes(scaled, count, cost, rounds=ROUNDS, thorough=False)
    left, right = found.cropped
    on_rows, on_cols = found.boxes.on_rows(m).position, found.boxes.on_cols(n).position
    made.append(
        GBLRMatrix.from_boxes((m, n), found.boxes, left / rows[on_rows], right / cols[on_cols], structure)
    )
    return [start, *(one.to(metric.weight.device, metric.weight.dtype) for one in made)]


def _root_of_diagonal(moments: Tensor | None, size: int) -> Tensor:
    """Roots of the diagonal, no smaller than a thousandth of the largest."""
    if moments is None:
        return torch.ones(size, dtype=torch.float64)
    diagonal = (moments if moments.ndim == 1 else moments.diagonal()).double().cpu().clamp_min(0)
    return diagonal.clamp_min(float(diagonal.max()) * 1e-6).sqrt()
