"""Fitting one named structure: the best method there is for it, found by its type.

Register your own with ``@fit_into.register(MyStructure)``.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor

from kmatrix._errors import FitError
from kmatrix.fitting.certificate import relative_error
from kmatrix.fitting.chains.members import as_pairs
from kmatrix.fitting.chains.polish import polish
from kmatrix.fitting.learning.gradient import learn
from kmatrix.fitting.problem import Declined, Problem, Proposal
from kmatrix.fitting.projections.nearest import project
from kmatrix.fitting.starts.by_structure import Start, starts
from kmatrix.structures import ChainMatrix, Scaled, Structure, StructuredMatrix, Transpose
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

    Closed forms where they exist; else exact constructions (hierarchical factorisation, peeling, the theorems), and,
    while these miss the tolerance, gradient learning from the best of them and from random starts.

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
        return Proposal(project(structure, problem.dense), "nearest member, in closed form")
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


def _like(problem: Problem, dense: Tensor) -> Problem:
    return Problem(dense, problem.tol, of=problem.of, seed=problem.seed, deadline=problem.deadline)


def _constructed_or_learned(structure: Structure, problem: Problem) -> Proposal:
    """The first start that meets the tolerance, or what gradient learning makes of the best few."""
    made: list[tuple[float, Start]] = []
    tol = max(problem.tol, _ROUNDING)
    for matrix, how in starts(structure, problem):
        error = _error(problem.dense, matrix)
        if error <= tol:
            return Proposal(matrix, how)
        if error < 1:  # others are worse than the zero matrix
            made.append((error, (matrix, how)))
    made.sort(key=lambda entry: entry[0])
    best = [start for _, start in made[:_TRIED]]
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
    found = Proposal(learned.matrix, f"{learned.steps} gradient steps from {origin}", learned.interrupted)
    return found if learned.interrupted else polished(found, problem)


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
    better = polish(
        problem.dense, weights, [f.pattern for f in factors], sweeps=_SWEEPS, tol=max(problem.tol, _ROUNDING)
    )
    if better.errors[-1] >= better.errors[0]:
        return proposal
    made = ChainMatrix.from_weights(cast(ChainStructure, matrix.structure), matrix.shape, better.weights)
    return Proposal(
        made, f"{proposal.note}, {len(better.errors) - 1} sweeps of least squares", proposal.interrupted
    )


def _error(dense: Tensor, matrix: StructuredMatrix) -> float:
    with torch.no_grad():
        error = relative_error(dense, matrix.to_dense())
    return error if math.isfinite(error) else math.inf
