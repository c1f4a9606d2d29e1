"""The search without a named structure: every family from cheap to dear, the cheapest that meets the tolerance wins."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kmatrix._errors import KMatrixError
from kmatrix._permutations import prime_factors
from kmatrix.fitting.certificate import relative_error
from kmatrix.fitting.problem import TIME_IS_UP, Declined, Family, Problem, Proposal, TimeUp
from kmatrix.fitting.result import Attempt, Progress
from kmatrix.fitting.search.families import FAMILIES
from kmatrix.structures import (
    BlockCirculantMatrix,
    CirculantMatrix,
    Dense,
    StructuredMatrix,
    ToeplitzMatrix,
    scaled,
)
from kmatrix.structures.chain import ChainMatrix

EXACT = 100
"""Roundings within which a member counts as exact."""
SMALL = 3
"""Primes up to this one are radices like others."""
FEW = 4
"""Numbers of a fast transform of size ``n``, over ``n log2 n``."""


@dataclass
class Search:
    """The state of a search: what was tried, and the cheapest answer so far.

    Attributes:
        problem: the question.
        scale: what the target was divided by to keep its squares within the number range; 1 for ordinary targets.
        dtype: number type of the answer; errors are judged after rounding to it.
        progress: told what is being done.
    """

    problem: Problem
    dtype: torch.dtype
    progress: Progress
    scale: float = 1.0
    history: list[Attempt] = field(default_factory=list)
    winner: StructuredMatrix | None = None
    winning: Attempt | None = None
    interrupted: bool = False
    too_slow: list[Attempt] = field(default_factory=list)

    def run(self, families: Iterable[tuple[str, Family]] = FAMILIES) -> None:
        """Try the families in order; Ctrl-C ends the search and keeps what it has."""
        try:
            for name, family in families:
                self.progress(name, None)
                self._try(name, family)
                # A family that caught Ctrl-C itself ends the search too; those that are late are still listed.
                if self.interrupted and not self.problem.late:
                    break
        except KeyboardInterrupt:
            self.interrupted = True

    def _try(self, name: str, family: Family) -> None:
        start = time.perf_counter()
        try:
            self.problem.check_time()
            proposal = family(self.problem)
            self.interrupted |= proposal.interrupted
            attempt, matrix = self.judge(name, proposal, start)
        except Declined as declined:
            self.interrupted |= isinstance(declined, TimeUp)
            seconds = time.perf_counter() - start
            attempt, matrix = Attempt(name, None, None, None, None, seconds, False, str(declined)), None
        except (KMatrixError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - start
            note = f"not available: {error}"
            attempt, matrix = Attempt(name, None, None, None, None, seconds, False, note), None
        if matrix is not None and attempt.met:
            attempt = self._weigh(attempt, matrix)
        self.history.append(attempt)
        self.progress(name, attempt)

    def _weigh(self, attempt: Attempt, matrix: StructuredMatrix) -> Attempt:
        """Make a member within the tolerance the winner if it is cheaper.

        Factors whose product takes longer than dense win nothing. A matrix with tied diagonals does: its few
        numbers are what was asked for, and at small sizes no Fourier transform keeps up with dense.
        """
        problem = self.problem
        if problem.operations(matrix) > problem.dense_flops and not _by_fft(matrix):
            self.too_slow.append(attempt)
            return replace(attempt, note=f"{attempt.note}; {_slowness(attempt, problem)}: not chosen")
        if problem.cost(matrix) < problem.cheapest:
            problem.cheapest = problem.cost(matrix)
            self.winner, self.winning = matrix, attempt
            problem.settled = _is_transform(attempt, matrix, self.dtype)
        return attempt

    def judge(self, name: str, proposal: Proposal, start: float) -> tuple[Attempt, StructuredMatrix]:
        """Round a proposal to the answer's dtype and measure what it then reaches."""
        matrix = in_dtype(
            scaled(proposal.matrix, self.scale) if self.scale != 1.0 else proposal.matrix, self.dtype
        )
        with torch.no_grad():
            error = relative_error(
                self.problem.dense * self.scale if self.scale != 1.0 else self.problem.dense,
                matrix.to_dense(),
            )
        attempt = Attempt(
            family=name,
            structure=matrix.structure,
            relative_error=error,
            num_params=matrix.num_params,
            flops=matrix.flops,
            seconds=time.perf_counter() - start,
            met=error <= self.problem.tol,
            note=proposal.note,
        )
        return attempt, matrix


def in_dtype(matrix: StructuredMatrix, dtype: torch.dtype) -> StructuredMatrix:
    """Round a double precision matrix to the precision of ``dtype`` (complex stays complex)."""
    return matrix.to(dtype.to_real() if dtype.is_complex else dtype)


def dense_matrix(target: Tensor) -> StructuredMatrix:
    """The target itself as a matrix: the answer when nothing cheaper will do."""
    m, n = target.shape
    return ChainMatrix.from_weights(Dense(), (m, n), [target.reshape(1, m, n, 1)])


def _is_transform(attempt: Attempt, matrix: StructuredMatrix, dtype: torch.dtype) -> bool:
    """Whether a member is exact to rounding and holds about as few numbers as fast transforms do."""
    longest = max(matrix.shape)
    exact = attempt.relative_error is not None and attempt.relative_error <= EXACT * torch.finfo(dtype).eps
    return exact and matrix.num_params <= FEW * longest * math.log2(longest)


def _by_fft(matrix: StructuredMatrix) -> bool:
    kinds = (CirculantMatrix, BlockCirculantMatrix, ToeplitzMatrix)
    return any(isinstance(part, kinds) for part in matrix.modules())


def _slowness(attempt: Attempt, problem: Problem) -> str:
    return f"takes {attempt.flops:,} operations a vector, dense takes {problem.dense_flops:,}"


def why_dense(search: Search) -> str:
    """The reason for answering ``Dense``: how close the affordable families came."""
    problem = search.problem
    m, n = problem.shape
    reached = [a for a in search.history if a.relative_error is not None and a.num_params is not None]
    # Families stop just under the cost of dense, so the best error is what can be had below that cost.
    cheaper = [a for a in reached if a.num_params is not None and a.num_params < m * n]
    text = f"no structure cheaper than dense ({m * n:,} numbers) reaches a relative error of {problem.tol:g}"
    primes = [side for side in dict.fromkeys((m, n)) if side > SMALL and len(prime_factors(side)) == 1]
    if search.interrupted:
        untried = sum(a.note == TIME_IS_UP for a in search.history)
        text = "cut short before any structure reached the tolerance"
        text += f", {untried} of {len(search.history)} families untried" if untried else ""
    if search.too_slow:
        fewest = min(search.too_slow, key=lambda a: a.num_params or 0)
        text = f"{fewest.family} reaches {problem.tol:g} with {fewest.num_params:,} of {m * n:,} numbers, "
        text += f"but {_slowness(fewest, problem)}"
    elif cheaper:
        best = min(cheaper, key=lambda a: a.relative_error or 0.0)
        text += (
            f"; the closest is {best.family} with {best.relative_error:.2g} at {best.num_params:,} numbers"
        )
    if primes and not search.interrupted:
        text += f"; a side is prime ({primes[0]}), which tiles of equal size do not divide"
    return text
