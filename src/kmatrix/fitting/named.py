"""Fitting one named structure: the best method there is for it, found by its type.

Register your own with ``@fit_into.register(MyStructure)``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor

from kmatrix._errors import FitError
from kmatrix.fitting.boxes.fit import fit_boxes
from kmatrix.fitting.certificate import relative_error
from kmatrix.fitting.chains.members import as_pairs
from kmatrix.fitting.chains.polish import polish
from kmatrix.fitting.learning.gradient import learn
from kmatrix.fitting.learning.harden import harden
from kmatrix.fitting.learning.race import field_of
from kmatrix.fitting.problem import Declined, Problem, Proposal, TimeUp, counted
from kmatrix.fitting.projections.nearest import project, projection_note
from kmatrix.fitting.starts.by_structure import Start, starts
from kmatrix.structures import (
    GBLR,
    ChainMatrix,
    Gaudi,
    GaudiMatrix,
    Scaled,
    Structure,
    StructuredMatrix,
    Transpose,
)
from kmatrix.structures.chain import ChainStructure
from kmatrix.structures.compose import ScaledMatrix, transpose

_RESTARTS, _FEW_RESTARTS = 8, 4
_MANY = 1 << 14  # entries from which a few random starts have to do: larger ones end up alike
_TRIED = 3  # starts that go on to gradient learning
_ROUNDING = 1e-13  # relative errors below are rounding, whatever the tolerance
_SWEEPS = 3  # of exact least squares over the factors of a learnt butterfly
_NEARLY = 1e-2  # a start as near as this needs no rivals


@singledispatch
def fit_into(structure: Structure, problem: Problem) -> Proposal:
    """The member of a structure nearest to the target that the best method for it finds.

    Projections where they exist, in closed form or by alternation; else exact constructions (hierarchical
    factorisation, peeling, the theorems), and, while these miss the tolerance, gradient learning from the best of
    them and from random starts.

    Args:
        structure: the family; register a rule for your own with ``@fit_into.register(MyStructure)``.
        problem: the target, the tolerance at which to stop, the seed and the deadline.

    Raises:
        FitError: if no method produces a member.

    Example:
        >>> import torch, kmatrix as km
        >>> from kmatrix.fitting.problem import Problem
        >>> W = km.Kaleidoscope().random(16, 16, dtype=torch.float64).to_dense().detach()
        >>> found = fit_into(km.Kaleidoscope(), Problem(W, tol=1e-10))
        >>> found.note, relative_error(W, found.matrix.to_dense().detach()) < 1e-10
        ('peeling', True)
    """
    try:
        return Proposal(project(structure, problem.dense), projection_note(structure, *problem.shape))
    except FitError:
        return _constructed_or_learned(structure, problem)


@fit_into.register
def _(structure: Transpose, problem: Problem) -> Proposal:
    turned = problem.dense.mH if structure.conjugate else problem.dense.mT
    found = fit_into(structure.of, _like(problem, turned.resolve_conj()))
    return Proposal(transpose(found.matrix, conjugate=structure.conjugate), found.note, found.interrupted)


@fit_into.register
def _(structure: Scaled, problem: Problem) -> Proposal:
    if structure.scalar == 0:
        raise FitError("fit: every member of Scaled(..., 0) is zero; scale by another number")
    found = fit_into(structure.of, _like(problem, problem.dense / structure.scalar))
    return Proposal(ScaledMatrix(found.matrix, structure.scalar), found.note, found.interrupted)


@fit_into.register
def _(structure: GBLR, problem: Problem) -> Proposal:
    limits = (structure.count(*problem.shape), structure.num_params(*problem.shape))
    found = fit_boxes(problem.dense, *limits, left=structure.left, late=lambda: problem.late)
    return Proposal(found.matrix(structure), f"moving and solving boxes, from {found.how}", problem.late)


@fit_into.register
def _(structure: Gaudi, problem: Problem) -> Proposal:
    # The boxes of a GBLR: more, as a fresh member may have, would promise an error that hardening does not keep.
    limits = (structure.count(*problem.shape), structure.hardened.num_params(*problem.shape))
    found = fit_boxes(problem.dense, *limits, late=lambda: problem.late)
    numbers = found.extended(problem.dense)
    made = GaudiMatrix.from_boxes(
        problem.shape, found.boxes, *numbers, structure, generator=problem.generator()
    )
    return Proposal(made, f"boxes within the budget, moved and solved, from {found.how}", problem.late)


def _like(problem: Problem, dense: Tensor) -> Problem:
    return Problem(dense, problem.tol, of=problem.of, seed=problem.seed, deadline=problem.deadline)


def _constructed_or_learned(structure: Structure, problem: Problem) -> Proposal:
    """The first start that meets the tolerance, or what gradient learning makes of the best few."""
    tol = max(problem.tol, _ROUNDING)
    zero = _zero_member(structure, problem) if problem.norm == 0 else None
    if zero is not None:
        return Proposal(zero, "all numbers zero")
    made, interrupted = _made(structure, problem, tol)
    best = [start for _, start in made[:_TRIED]]
    if made and (made[0][0] <= tol or interrupted):
        return Proposal(*best[0], interrupted)
    near = bool(made) and made[0][0] <= _NEARLY
    learned = learn(
        problem.dense,
        structure,
        restarts=0 if near else _RESTARTS if problem.dense.numel() < _MANY else _FEW_RESTARTS,
        starts=[matrix for matrix, _ in best],
        tol=tol,
        seed=problem.seed,
        deadline=problem.deadline,
    )
    origin = " and ".join([how for _, how in best] + ["random starts"] * (not near))
    steps = counted(learned.steps, "gradient step")
    found = Proposal(learned.matrix, f"{steps} from {origin}", learned.interrupted)
    return found if learned.interrupted else polished(found, problem)


def _zero_member(structure: Structure, problem: Problem) -> StructuredMatrix | None:
    """The zero matrix as the member whose numbers are all zero; ``None`` where that is another matrix."""
    dtype = field_of(structure, problem.dense)
    drawn = structure.random(*problem.shape, dtype=dtype, generator=problem.generator())
    matrix = harden(drawn).double()
    with torch.no_grad():
        for parameter in matrix.parameters():
            parameter.zero_()
        return None if bool(matrix.to_dense().any()) else matrix


def _made(structure: Structure, problem: Problem, tol: float) -> tuple[list[tuple[float, Start]], bool]:
    """Starts with their errors, best first, and whether making them was cut short; the last made if it is near."""
    made: list[tuple[float, Start]] = []
    interrupted = False
    try:
        for matrix, how in starts(structure, problem):
            error = _error(problem.dense, matrix)
            if error < 1:  # others are worse than the zero matrix
                made.append((error, (matrix, how)))
            if error <= tol:
                break
            problem.check_time()
    except (TimeUp, KeyboardInterrupt) as error:
        # Ctrl-C, which may arrive as TimeUp, has nothing to keep; time that is up leaves one step of learning.
        if not made and not problem.late:
            raise KeyboardInterrupt from error
        interrupted = True
    made.sort(key=lambda entry: entry[0])
    return made, interrupted


def polished(proposal: Proposal, problem: Problem) -> Proposal:
    """Improve a tile-rank butterfly by a few sweeps of exact alternating least squares; others are left as they are."""
    matrix = proposal.matrix
    if not isinstance(matrix, ChainMatrix) or matrix.dtype != problem.dense.dtype:
        return proposal
    factors = matrix.layout.factors
    if len(factors) != len(matrix.layout.stages) or (matrix.layout.rows, matrix.layout.cols) != matrix.shape:
        return proposal
    try:
        # Only nested chains fall apart into small least squares; in the others one factor is one large problem.
        as_pairs(factors)
    except Declined:
        return proposal
    weights = [w.detach() for w in matrix.weights]
    tol = max(problem.tol, _ROUNDING)
    patterns = [f.pattern for f in factors]
    try:
        better = polish(problem.dense, weights, patterns, sweeps=_SWEEPS, tol=tol, deadline=problem.deadline)
    except KeyboardInterrupt:
        return replace(proposal, interrupted=True)
    if better.errors[-1] >= better.errors[0]:
        return proposal
    made = ChainMatrix.from_weights(cast(ChainStructure, matrix.structure), matrix.shape, better.weights)
    return Proposal(
        made,
        f"{proposal.note}, {counted(len(better.errors) - 1, 'sweep')} of least squares",
        proposal.interrupted,
    )


def _error(dense: Tensor, matrix: StructuredMatrix) -> float:
    with torch.no_grad():
        error = relative_error(dense, matrix.to_dense())
    return error if math.isfinite(error) else math.inf
