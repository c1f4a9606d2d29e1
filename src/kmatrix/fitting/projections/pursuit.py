"""Taking a matrix apart into sparse and low rank: principal component pursuit, then the split polished."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kmatrix.structures import ChainMatrix, LowRank, SparseMatrix, StructuredMatrix, sum_of

PURSUIT_ROUNDS = 60
POLISH_ROUNDS = 200
GROWTH = 1.5
SPLIT = 1e-7


def pursue(dense: Tensor, *, tol: float, check: Callable[[], None] = lambda: None) -> tuple[Tensor, int]:
    """Guess which entries are sparse outliers and what rank the rest has, by minimising ``||L||_* + lambda ||S||_1``.

    The inexact augmented Lagrangian with ``lambda = 1 / sqrt(max(m, n))``; exact for a few large entries on top of a
    low rank that is not itself sparse.

    Args:
        dense: ``(m, n)`` float64 or complex128.
        tol: relative size under which singular values and entries of the split count as zero.
        check: called now and then; what it raises ends the pursuit.

    Returns:
        The mask of the sparse part, and the rank of the other.

    Reference: Candes, Li, Ma, Wright, Robust principal component analysis (0912.3599); Lin, Chen, Ma (1009.5055).
    """
    weight = 1 / math.sqrt(max(dense.shape))
    norm = float(torch.linalg.matrix_norm(dense, 2))
    dual = dense / max(norm, float(dense.abs().max()) / weight)
    penalty = 1.25 / norm
    low = sparse = torch.zeros_like(dense)
    rank = 0
    for _ in range(PURSUIT_ROUNDS):
        check()
        u, s, vh = torch.linalg.svd(dense - sparse + dual / penalty, full_matrices=False)
        shrunk = (s - 1 / penalty).clamp_min(0)
        rank = int((shrunk > tol * norm).sum())
        low = (u * shrunk) @ vh
        sparse = _shrink(dense - low + dual / penalty, weight / penalty)
        gap = dense - low - sparse
        dual = dual + penalty * gap
        penalty *= GROWTH
        if float(torch.linalg.vector_norm(gap)) <= SPLIT * norm:
            break
    return sparse.abs() > tol * norm / math.sqrt(dense.numel()), rank


def _shrink(matrix: Tensor, by: float) -> Tensor:
    """Move every entry towards zero by ``by``."""
    size = matrix.abs()
    return matrix * ((size - by).clamp_min(0) / size.clamp_min(1e-300))


def split(dense: Tensor, mask: Tensor, rank: int, *, tol: float) -> StructuredMatrix:
    """The sparse plus low-rank matrix on a given support and of a given rank near the target, by alternation.

    Args:
        dense: ``(m, n)`` float64 or complex128.
        mask: where the sparse part may be non-zero.
        rank: of the other part, at least 1.
        tol: relative error at which to stop.
    """
    norm = float(torch.linalg.vector_norm(dense))
    sparse = torch.where(mask, dense, 0)
    for _ in range(POLISH_ROUNDS):
        u, s, vh = torch.linalg.svd(dense - sparse, full_matrices=False)
        low = (u[:, :rank] * s[:rank]) @ vh[:rank]
        sparse = torch.where(mask, dense - low, 0)
        if float(torch.linalg.vector_norm(dense - low - sparse)) <= tol / 4 * norm:
            break
    m, n = dense.shape
    root = s[:rank].sqrt()
    weights = [
        (root[:, None] * vh[:rank]).reshape(1, rank, n, 1),
        (u[:, :rank] * root).reshape(1, m, rank, 1),
    ]
    outliers = SparseMatrix.from_dense(sparse, max(1, int(mask.sum())))
    return sum_of(outliers, ChainMatrix.from_weights(LowRank(rank), (m, n), weights))
