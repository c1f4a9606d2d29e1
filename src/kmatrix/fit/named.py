"""Fitting one named structure: the best method there is for it, found by its type.

Register your own with ``@fit_into.register(MyStructure)``.
"""

from __future__ import annotations

from functools import singledispatch

import torch

from kmatrix._errors import FitError
from kmatrix.fit.certificate import relative_error
from kmatrix.fit.gradient import learn
from kmatrix.fit.nesting import nest
from kmatrix.fit.problem import Problem, Proposal
from kmatrix.fit.projections import project
from kmatrix.structures import Structure, StructuredMatrix
from kmatrix.structures.chain import ChainStructure

Candidates = list[tuple[StructuredMatrix, str]]


@singledispatch
def fit_into(structure: Structure, problem: Problem) -> Proposal:
    """The member of a structure nearest to the target that the best method for it finds.

    Closed forms where they exist, exact factorisation of what nests or can be taken apart, gradient learning from the
    best starts otherwise.

    Args:
        structure: the family; register a rule for your own with ``@fit_into.register(MyStructure)``.
        problem: the target, the tolerance at which to stop, the seed and the deadline.

    Raises:
        FitError: if no method produces a member.

    Example:
        >>> import torch, kmatrix as km
        >>> from kmatrix.fit.problem import Problem
        >>> W = km.Butterfly().random(12, 12, dtype=torch.float64).to_dense().detach()
        >>> found = fit_into(km.Butterfly(), Problem(W, tol=1e-12))
        >>> found.note, relative_error(W, found.matrix.to_dense().detach()) < 1e-13
        ('hierarchical factorisation', True)
    """
    try:
        return Proposal(project(structure, problem.dense), "nearest member, in closed form")
    except FitError:
        return refined([], structure, problem)


@fit_into.register
def _(structure: ChainStructure, problem: Problem) -> Proposal:
    try:
        return Proposal(project(structure, problem.dense), "nearest member, in closed form")
    except FitError:
        nested = nest(structure, problem.dense)
    return refined([(nested, "hierarchical factorisation")] if nested else [], structure, problem)


def refined(candidates: Candidates, structure: Structure, problem: Problem) -> Proposal:
    """The best candidate if it meets the tolerance, or else what gradient learning makes of the best few."""
    errors = {}
    for matrix, note in candidates:
        with torch.no_grad():
            errors[note] = relative_error(problem.dense, matrix.to_dense())
    candidates = sorted(candidates, key=lambda candidate: errors[candidate[1]])
    if candidates and errors[candidates[0][1]] <= problem.tol:
        return Proposal(*candidates[0])
    starts = [matrix for matrix, note in candidates[:3] if errors[note] < 1]
    learned = learn(
        problem.dense, structure, starts=starts, tol=problem.tol, seed=problem.seed, deadline=problem.deadline
    )
    origin = (
        f" from {', '.join(note for _, note in candidates[: len(starts)])} and random starts"
        if starts
        else ""
    )
    return Proposal(learned.matrix, f"gradient learning{origin}, {learned.steps} steps")
