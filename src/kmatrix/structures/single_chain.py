"""Matrices as one chain with a selection before it and one behind: what prepared and tuned products take.

Chains with permutations, padding and cropping, their transposes, products and multiples are sequences of selections
and factors. Selections that meet make one selection, and factors that meet make one chain; what is left must be a
selection, factors and a selection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops.definition import Pattern, Patterns
from kmatrix.ops.ends import SingleChain
from kmatrix.structures.base import StructuredMatrix
from kmatrix.structures.blocks import DiagonalMatrix
from kmatrix.structures.chain import AbstractChainMatrix
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, TransposedMatrix
from kmatrix.structures.layout import transposed_chain


class Selection(NamedTuple):
    """``y[i] = x[source[i]]``, zero where the source is -1; no entry of ``x`` is taken twice."""

    source: Tensor
    size: int  # of x


class Run(NamedTuple):
    """Factors in order of application."""

    weights: tuple[Tensor, ...]
    patterns: Patterns


Step = Selection | Run


def single_chain(where: str, matrix: StructuredMatrix) -> SingleChain:
    """A matrix as ``y = (F_k ... F_1 x[gather])[take]``; the weights are its own where nothing multiplies them.

    Raises:
        ArgumentError: if it has no such form.
    """
    steps = list(_joined(_steps(where, matrix, matrix)))
    if not any(isinstance(step, Run) for step in steps):  # permutations alone
        steps.append(_multiple(1.0, matrix))
    gather = steps.pop(0) if isinstance(steps[0], Selection) else None
    take = steps.pop() if isinstance(steps[-1], Selection) else None
    if len(steps) > 1:
        raise _refusal(where, matrix, "something is permuted, padded or cropped between its factors")
    if isinstance(take, Selection) and bool((take.source < 0).any()):
        raise _refusal(where, matrix, "some entries of its products are zero whatever its numbers are")
    (run,) = steps
    assert isinstance(run, Run)
    weights = tuple([w.to(matrix.dtype) for w in run.weights])
    indices = [None if one is None else one[0] for one in (gather, take)]
    return SingleChain(weights, run.patterns, matrix.shape[1], *indices)  # type: ignore[arg-type]


def _refusal(where: str, matrix: StructuredMatrix, reason: str) -> ArgumentError:
    way_out = "call the matrix itself, which is as fast as it goes, or pass a part of it that is one chain"
    return ArgumentError(complaint(where, "matrix", type(matrix.structure).__name__, reason, way_out))


def _steps(where: str, matrix: StructuredMatrix, whole: StructuredMatrix) -> list[Step]:
    """What happens to a vector, in order."""
    match matrix:
        case ProductMatrix():
            return [step for part in reversed(matrix.members) for step in _steps(where, part, whole)]
        case TransposedMatrix():
            steps = _steps(where, matrix.base, whole)
            return [_transposed(step, matrix.conjugate) for step in reversed(steps)]
        case ScaledMatrix():
            return _scaled(_steps(where, matrix.base, whole), matrix)
        case AbstractChainMatrix() if _is_usual(matrix):
            return list(_stages(matrix))
    reason = f"{type(matrix.structure).__name__} is not multiplied as a chain"
    raise _refusal(where, whole, reason)


def _is_usual(matrix: AbstractChainMatrix) -> bool:
    return isinstance(matrix, DiagonalMatrix) or type(matrix)._matmul is AbstractChainMatrix._matmul


def _stages(matrix: AbstractChainMatrix) -> Iterator[Step]:
    layout, weights = matrix.layout, matrix.weights
    (m, n), permutations = matrix.shape, 0
    yield _resized(n, layout.cols)
    for run in layout.runs:
        if isinstance(run, int):
            index = matrix.permutation(permutations).cpu()
            yield Selection(index, len(index))
            permutations += 1
        else:
            yield Run(weights[slice(*run)], layout.patterns[slice(*run)])
    yield _resized(layout.rows, m)


def _resized(size: int, wanted: int) -> Selection:
    """The first entries, filled up with zeros."""
    index = torch.arange(wanted, device="cpu")
    return Selection(torch.where(index < size, index, -1), size)


def _scaled(steps: list[Step], matrix: ScaledMatrix) -> list[Step]:
    """The multiple is multiplied into a factor, the smallest of one run; where there is none it becomes one."""
    scalar = matrix.structure.scalar
    for i, step in enumerate(steps):
        if isinstance(step, Run):
            weights = list(step.weights)
            k = min(range(len(weights)), key=lambda k: weights[k].numel())
            weights[k] = weights[k] * scalar
            return [*steps[:i], Run(tuple(weights), step.patterns), *steps[i + 1 :]]
    return [*steps, _multiple(scalar, matrix)]


def _multiple(scalar: complex, matrix: StructuredMatrix) -> Run:
    """A multiple of the identity as the last factor of a matrix."""
    weight = torch.full((1, 1, 1, 1), scalar, dtype=matrix.dtype, device=matrix.device)
    return Run((weight,), (Pattern(matrix.shape[0], 1, 1, 1),))


def _transposed(step: Step, conjugate: bool) -> Step:
    if isinstance(step, Run):
        weights, patterns = transposed_chain(step.weights, step.patterns)
        return Run(tuple([w.conj() for w in weights]) if conjugate else weights, patterns)
    inverse = torch.full((step.size,), -1, device="cpu")
    taken = step.source >= 0
    inverse[step.source[taken]] = torch.arange(len(taken), device="cpu")[taken]
    return Selection(inverse, len(taken))


def _joined(steps: Iterable[Step]) -> list[Step]:
    """The same with neighbours of a kind joined, and without selections that change nothing."""
    done: list[Step] = []
    for step in steps:
        joined, last = step, done[-1] if done else None
        if isinstance(step, Run) and isinstance(last, Run):
            done.pop()
            joined = Run((*last.weights, *step.weights), (*last.patterns, *step.patterns))
        if isinstance(step, Selection) and isinstance(last, Selection):
            done.pop()
            joined = Selection(torch.where(step.source < 0, -1, last.source[step.source]), last.size)
        if isinstance(joined, Run) or not _changes_nothing(joined):
            done.append(joined)
    return done


def _changes_nothing(selection: Selection) -> bool:
    return torch.equal(selection.source, torch.arange(selection.size, device="cpu"))
