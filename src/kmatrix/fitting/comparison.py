"""Every family at given budgets: the picture of error against parameters that tells what kind of matrix this is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from kmatrix._errors import ArgumentError, KMatrixError, complaint
from kmatrix.fitting.certificate import relative_error
from kmatrix.fitting.projections.nearest import project, project_sum
from kmatrix.fitting.result import Attempt, Progress
from kmatrix.fitting.targets import as_target
from kmatrix.structures import (
    BLAST,
    BlockCirculant,
    BlockDiagonal,
    BlockLowRank,
    BlockTensorTrain,
    Hankel,
    Kronecker,
    LowRank,
    Monarch,
    Sparse,
    Structure,
    StructuredMatrix,
    Sum,
    Toeplitz,
)

GRIDS = (2, 4, 8, 16, 32, 64)
ALTERNATIONS = 6


def compare(
    target: object,
    *,
    budgets: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.4),
    progress: Progress | None = None,
) -> tuple[Attempt, ...]:
    """Fit every family that has a closed-form or alternating projection at each budget.

    Of each family, the member class with the most numbers within the budget is taken (for grids, the best of those);
    families without a size to choose appear once.

    Args:
        target: what ``fit`` takes.
        budgets: numbers allowed, as shares of dense.
        progress: called with each family, and with its ``Attempt`` when it ends.

    Returns:
        The attempts in order of family and budget; ``met`` says whether the family beats a truncated SVD of as many
        numbers.

    Raises:
        ArgumentError: if a budget is not between 0 and 1, or the target is unusable.

    Example:
        >>> import torch, kmatrix as km
        >>> W = 1.0 / (1.0 + (torch.arange(32.0)[:, None] - torch.arange(32.0)).abs())
        >>> best = min(km.compare(W, budgets=(0.3,)), key=lambda a: a.relative_error)
        >>> best.family
        'Toeplitz'
    """
    for budget in budgets:
        if not 0 < budget < 1:
            raise ArgumentError(
                complaint("compare", "budgets", budget, "not a share of dense", "pass e.g. 0.1")
            )
    dense = as_target(target).dense
    m, n = dense.shape
    energy = torch.linalg.svdvals(dense).square()
    tails = [*(energy.flip(0).cumsum(0).flip(0) / energy.sum()).clamp_min(0).sqrt().tolist(), 0.0]
    attempts: list[Attempt] = []
    for family, choices in _families(m, n):
        if progress is not None:
            progress(family, None)
        seen: set[Structure] = set()
        for budget in budgets:
            fitting = [s for s in choices(int(budget * m * n)) if _fits(s, m, n, int(budget * m * n))]
            new = [s for s in fitting if s not in seen]
            seen.update(new)
            tried = [_attempt(family, s, dense, tails) for s in new]
            done = [a for a in tried if a.relative_error is not None]
            if done:
                attempts.append(min(done, key=lambda a: a.relative_error or 0.0))
                if progress is not None:
                    progress(family, attempts[-1])
    return tuple(attempts)


def _fits(structure: Structure, m: int, n: int, numbers: int) -> bool:
    try:
        return structure.num_params(m, n) <= numbers
    except KMatrixError:
        return False


def _attempt(family: str, structure: Structure, dense: torch.Tensor, tails: Sequence[float]) -> Attempt:
    m, n = dense.shape
    start = time.perf_counter()
    try:
        matrix = _nearest(structure, dense)
    except (KMatrixError, RuntimeError) as error:
        return Attempt(family, structure, None, None, None, time.perf_counter() - start, False, str(error))
    with torch.no_grad():
        reached = relative_error(dense, matrix.to_dense())
    rank = min(matrix.num_params // (m + n), len(tails) - 1)
    return Attempt(
        family=family,
        structure=structure,
        relative_error=reached,
        num_params=matrix.num_params,
        flops=matrix.flops,
        seconds=time.perf_counter() - start,
        met=reached < tails[rank],
        note=f"{structure}; SVD of rank {rank}: {tails[rank]:.2e}",
    )


def _nearest(structure: Structure, dense: torch.Tensor) -> StructuredMatrix:
    # A comparison is a look, not an answer: sums alternate a few times instead of to the end.
    return (
        project_sum(dense, structure, rounds=ALTERNATIONS)
        if isinstance(structure, Sum)
        else project(structure, dense)
    )


Choices = Callable[[int], Iterator[Structure]]


def _families(m: int, n: int) -> list[tuple[str, Choices]]:
    """Name of each family, and the members worth trying for a number of parameters."""

    def low_rank(numbers: int) -> Iterator[Structure]:
        if numbers >= m + n:
            yield LowRank(numbers // (m + n))

    def sparse(numbers: int) -> Iterator[Structure]:
        yield Sparse(max(1, numbers))

    def sparse_plus_low_rank(numbers: int) -> Iterator[Structure]:
        rank = numbers // 2 // (m + n)
        if rank:
            yield Sum((Sparse(numbers - rank * (m + n)), LowRank(rank)))

    def grids(structure: type[BlockLowRank] | type[BlockTensorTrain]) -> Choices:
        def choices(numbers: int) -> Iterator[Structure]:
            for p in GRIDS:
                unit = structure(p, 1).num_params(m, n) if p < min(m, n) else numbers + 1
                if unit <= numbers:
                    yield structure(p, numbers // unit)

        return choices

    def blocks(structure: Callable[[int], Structure]) -> Choices:
        def choices(numbers: int) -> Iterator[Structure]:
            sizes = [p for p in GRIDS if p < min(m, n) and _fits(structure(p), m, n, numbers)]
            yield from (structure(p) for p in sizes[:2])

        return choices

    def kronecker(numbers: int) -> Iterator[Structure]:
        unit = Kronecker().num_params(m, n)
        if numbers >= unit:
            yield Kronecker(rank=numbers // unit)

    def blast(numbers: int) -> Iterator[Structure]:
        for p in (4, 8):
            rank = numbers // (m + n + p * p)
            if rank:
                yield BLAST(p, rank)

    def single(structure: Structure) -> Choices:
        return lambda numbers: iter((structure,))

    return [
        ("low rank", low_rank),
        ("block low rank", grids(BlockLowRank)),
        ("block tensor-train", grids(BlockTensorTrain)),
        ("Monarch", blocks(Monarch)),
        ("block diagonal", blocks(BlockDiagonal)),
        ("BLAST", blast),
        ("Kronecker sum", kronecker),
        ("sparse", sparse),
        ("sparse + low rank", sparse_plus_low_rank),
        ("Toeplitz", single(Toeplitz())),
        ("Hankel", single(Hankel())),
        ("block circulant", blocks(BlockCirculant)),
    ]
