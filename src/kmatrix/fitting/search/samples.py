"""What a few entries say against a family, in a moment: for searches that have a good answer already."""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix.fitting.energy import fewest, tails
from kmatrix.fitting.problem import Problem

PAIRS = 4096
LINES = 64
DOUBT = 4.0
"""How many times over a sample must exceed what the tolerance allows, in energy, to speak against a family."""


def breaks_wrapped_diagonals(problem: Problem, k: int) -> bool:
    """Whether neighbours on the wrapped diagonals of ``k x k`` blocks differ by more than the tolerance explains.

    With ``a`` and ``b`` on one diagonal, ``|a - b|^2 / 2`` is at most what both of them are off any value for it.
    """
    m, n = problem.shape
    generator = problem.generator()
    i, j = (torch.randint(size, (PAIRS,), generator=generator) for size in (m, n))
    dense = problem.dense
    gaps = dense[i, j] - dense[i // k * k + (i + 1) % k, j // k * k + (j + 1) % k]
    off = float(gaps.abs().square().mean()) / 4
    return off > DOUBT * (problem.tol * problem.norm) ** 2 / (m * n)


def kronecker_rank(problem: Problem, m1: int, n1: int) -> int:
    """Products that a part of the matrix, rearranged, needs at least: all of it needs no fewer.

    The part is some rows and columns of the rearranged matrix; its share of the allowed energy is that of its entries.
    """
    m, n = problem.shape
    grid = problem.dense.reshape(m1, m // m1, n1, n // n1)
    a, b = _some(m1 * n1, problem), _some((m // m1) * (n // n1), problem)
    part = grid[(a // n1)[:, None], b // (n // n1), (a % n1)[:, None], b % (n // n1)]
    allowed = DOUBT * (problem.tol * problem.norm) ** 2 * part.numel() / problem.dense.numel()
    return fewest(tails(torch.linalg.svdvals(part).square()), allowed)


def least_left(blocks: Tensor, rank: int) -> float:
    """Energy that blocks ``(count, rows, columns)`` leave at least when truncated to a rank, from a part of some.

    A part of a matrix has no larger singular values than the matrix has.
    """
    some = blocks[:: max(1, len(blocks) // 4), : 2 * LINES, : 2 * LINES]
    if rank >= min(some.shape[1:]):
        return 0.0
    return float(tails(torch.linalg.svdvals(some).square())[:, rank].sum())


def _some(size: int, problem: Problem) -> Tensor:
    return torch.randperm(size, generator=problem.generator())[:LINES]
