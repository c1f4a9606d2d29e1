"""Approximations with as many parameters as a fast transform has: sparse, low rank, and the sum of both."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import kmatrix as km

from .targets import rmse


def budget(n: int) -> int:
    """Parameters of a butterfly, ``2 n log2 n``, complex ones where the target is complex: what the paper allows."""
    return 2 * n * int(math.log2(n))


def sparse(target: Tensor, parameters: int) -> float:
    """RMSE that the largest entries leave; where they are does not count."""
    return _rmse(km.fit(target, km.Sparse(parameters), batches=()), target)


def low_rank(target: Tensor, parameters: int) -> float:
    """RMSE that the truncated singular value decomposition leaves."""
    return _rmse(km.fit(target, km.LowRank(parameters // sum(target.shape)), batches=()), target)


def _rmse(found: km.Fit, target: Tensor) -> float:
    return found.relative_error * rmse(target, torch.zeros_like(target))


def sparse_plus_low_rank(target: Tensor, parameters: int, alternations: int) -> tuple[float, int]:
    """RMSE of the best sum of a sparse and a low-rank part, and its rank.

    Robust PCA at a fixed size, by turns: the singular subspace of what the sparse part leaves, then the largest entries
    of what the low-rank part leaves. Every rank that leaves room for entries is tried, 0 and all included; subspaces
    begin where they were in the turn before, so one step of subspace iteration a turn is enough.
    """
    best = math.inf, 0
    side = sum(target.shape)
    for rank in range(parameters // side + 1):
        entries = parameters - rank * side
        if rank == 0:
            error = sparse(target, parameters)
        elif entries == 0:
            error = low_rank(target, parameters)
        else:
            error = _alternated(target, rank, entries, alternations)
        best = min(best, (error, rank))
    return best


def _alternated(target: Tensor, rank: int, entries: int, alternations: int) -> float:
    generator = torch.Generator().manual_seed(rank)
    kept = torch.zeros_like(target)
    rows = torch.randn(target.shape[1], rank, dtype=target.dtype, generator=generator)
    best = math.inf
    for turn in range(alternations):
        left = target - kept
        for _ in range(5 if turn == 0 else 1):
            columns = torch.linalg.qr(left @ rows).Q
            rows = torch.linalg.qr(left.mH @ columns).Q
        rest = target - (left @ rows) @ rows.mH
        kept = torch.zeros_like(target)
        places = rest.abs().flatten().topk(entries, sorted=False).indices
        kept.view(-1)[places] = rest.flatten()[places]
        best = min(best, rmse(rest, kept))
    return best
