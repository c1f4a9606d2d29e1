"""Every family at given budgets: the picture of error against parameters that tells what kind of matrix this is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, KMatrixError, complaint
from kmatrix.fitting.certificate import relative_error, scale_of
from kmatrix.fitting.energy import tails
from kmatrix.fitting.projections.nearest import project, project_sum
from kmatrix.fitting.result import Attempt, Progress, check_progress
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
SAME = 1e-9
"""Errors that differ by less than this share are the same."""
ROUNDING = 1e-13
"""Relative errors below this are rounding, and nothing is closer."""


@dataclass(frozen=True)
class TruncatedSVD:
    """Relative errors of all truncations of a singular value decomposition: what a family has to beat.

    Attributes:
        values: singular values, falling.
        shape: of the matrix.
    """

    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, dense: Tensor) -> TruncatedSVD:
        return cls(torch.linalg.svdvals(dense), (dense.shape[0], dense.shape[1]))

    @cached_property
    def errors(self) -> npt.NDArray[np.float64]:
        """``errors[r]`` is what rank ``r`` leaves, relative to the whole in the Frobenius norm."""
        top = float(self.values[0]) or 1.0  # squares of extreme values would leave the number range
        left = tails((self.values.double() / top).square()).numpy()
        return np.asarray(np.sqrt(left / (left[0] or 1.0)))

    def rank(self, num_params: int) -> int:
        """The largest rank that holds at most ``num_params`` numbers."""
        return min(num_params // sum(self.shape), len(self.values))

    def error(self, num_params: int) -> float:
        """The error of the best truncation with at most ``num_params`` numbers."""
        return float(self.errors[self.rank(num_params)])

    def loses_to(self, attempt: Attempt) -> bool:
        """Whether an attempt is closer than the best truncation with as many numbers, by more than rounding."""
        if attempt.num_params is None or attempt.relative_error is None:
            return False
        error = self.error(attempt.num_params)
        return error > ROUNDING and attempt.relative_error < (1 - SAME) * error


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
        The attempts in order of family and budget; ``beats_svd`` says whether the family is closer than the best
        truncated SVD of as many numbers, and ``met`` is ``None``, there being no tolerance.

    Raises:
        ArgumentError: if a budget is not between 0 and 1, or the target is unusable.
        DtypeError: if ``budgets`` is no sequence, or ``progress`` cannot be called with two arguments.

    Example:
        >>> import torch, kmatrix as km
        >>> W = 1.0 / (1.0 + (torch.arange(32.0)[:, None] - torch.arange(32.0)).abs())
        >>> best = min(km.compare(W, budgets=(0.3,)), key=lambda a: a.relative_error)
        >>> best.family
        'Toeplitz'
    """
    if not isinstance(budgets, Iterable):
        reason, way_out = "not a sequence of shares", f"pass for example ({budgets},)"
        raise DtypeError(complaint("compare", "budgets", repr(budgets), reason, way_out))
    progress = check_progress("compare", progress)
    for budget in budgets:
        if not (isinstance(budget, Real) and 0 < budget < 1):
            raise ArgumentError(
                complaint("compare", "budgets", repr(budget), "not a share of dense", "pass e.g. 0.1")
            )
    dense = as_target(target).dense
    # Relative errors do not depend on it, and squares of the entries stay within the number range.
    dense = dense / scale_of(dense)
    m, n = dense.shape
    svd = TruncatedSVD.of(dense)
    attempts: list[Attempt] = []
    for family, choices in _families(m, n):
        if progress is not None:
            progress(family, None)
        seen: set[Structure] = set()
        for budget in budgets:
            fitting = [s for s in choices(int(budget * m * n)) if _fits(s, m, n, int(budget * m * n))]
            new = [s for s in fitting if s not in seen]
            seen.update(new)
            tried = [_attempt(family, s, dense, svd) for s in new]
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


def _attempt(family: str, structure: Structure, dense: Tensor, svd: TruncatedSVD) -> Attempt:
    start = time.perf_counter()
    try:
        matrix = _nearest(structure, dense)
    except (KMatrixError, RuntimeError) as error:
        return Attempt(family, structure, None, None, None, time.perf_counter() - start, None, str(error))
    with torch.no_grad():
        reached = relative_error(dense, matrix.to_dense())
    attempt = Attempt(
        family=family,
        structure=structure,
        relative_error=reached,
        num_params=matrix.num_params,
        flops=matrix.flops,
        seconds=time.perf_counter() - start,
        met=None,
        note=f"{structure}; SVD of rank {svd.rank(matrix.num_params)}: {svd.error(matrix.num_params):.2e}",
    )
    return replace(attempt, beats_svd=svd.loses_to(attempt))


def _nearest(structure: Structure, dense: Tensor) -> StructuredMatrix:
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
        ("Kronecker", kronecker),
        ("sparse", sparse),
        ("sparse + low rank", sparse_plus_low_rank),
        ("Toeplitz", single(Toeplitz())),
        ("Hankel", single(Hankel())),
        ("block circulant", blocks(BlockCirculant)),
    ]
