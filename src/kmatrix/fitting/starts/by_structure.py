"""Where a fit into a named structure begins: members near the target that need no learning, by type of structure.

Register your own with ``@starts.register(MyStructure)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from kmatrix._errors import FitError
from kmatrix._permutations import bit_reversal
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kforms import hadamard_butterfly
from kmatrix.constructions.permutations import permutation_halves_reversed
from kmatrix.fitting.chains.nesting import nest
from kmatrix.fitting.chains.peeling import Peeled
from kmatrix.fitting.problem import Problem
from kmatrix.fitting.projections.nearest import project
from kmatrix.fitting.starts.fastfood import FastfoodParts, recognise_fastfood
from kmatrix.fitting.starts.kaleidoscope import kaleidoscope_starts
from kmatrix.fitting.starts.orthogonal import obb_matrix, obb_starts
from kmatrix.structures import (
    BPBP,
    OBB,
    ChainMatrix,
    Circulant,
    Diagonal,
    Fastfood,
    FixedBPBP,
    Kaleidoscope,
    OBBMatrix,
    Product,
    RealPart,
    Structure,
    StructuredMatrix,
    product,
)
from kmatrix.structures.chain import ChainStructure
from kmatrix.structures.real_part import RealPartMatrix

Start = tuple[StructuredMatrix, str]


@singledispatch
def starts(structure: Structure, problem: Problem) -> Iterator[Start]:
    """Members near the target and how each was made, the cheapest to make first; none for families without a rule.

    Args:
        structure: the family.
        problem: the target and the seed.
    """
    yield from ()


@starts.register
def _(structure: ChainStructure, problem: Problem) -> Iterator[Start]:
    nested = nest(structure, problem.dense)
    if nested is not None:
        yield nested, "hierarchical factorisation"


@starts.register
def _(structure: Kaleidoscope, problem: Problem) -> Iterator[Start]:
    yield from kaleidoscope_starts(
        structure, problem.dense, tol=problem.tol, seed=problem.seed, check=problem.check_time
    )


@starts.register
def _(structure: OBB, problem: Problem) -> Iterator[Start]:
    yield from obb_starts(structure, problem.dense)


@starts.register
def _(structure: Fastfood, problem: Problem) -> Iterator[Start]:
    parts = _fastfood(problem.dense)
    if parts is not None:
        yield parts.matrix(), "recognised from its entries"


@starts.register
def _(structure: Product, problem: Problem) -> Iterator[Start]:
    """A Fastfood matrix is a member of (OBB)^2 between two diagonals: ``S (H G P1) (P2 H) B``."""
    shapes = structure.shapes(*problem.shape)
    if len(set(shapes)) > 1 or len(structure.factors) != 3:
        return
    first, inner, last = structure.factors
    outer_are_diagonal = isinstance(first, Diagonal) and isinstance(last, Diagonal)
    if outer_are_diagonal and isinstance(inner, OBB) and inner.width >= 2 and not inner.unitary:
        parts = _fastfood(problem.dense)
        if parts is not None and set(inner.radices_for(*problem.shape)) == {2}:
            yield (
                product(_diagonal(parts.s), _between_diagonals(inner, parts), _diagonal(parts.b)),
                "a Fastfood matrix",
            )


def _fastfood(dense: Tensor) -> FastfoodParts | None:
    try:
        return recognise_fastfood(dense)
    except FitError:
        return None


def _diagonal(numbers: np.ndarray) -> ChainMatrix:
    n = len(numbers)
    return ChainMatrix.from_weights(Diagonal(), (n, n), [torch.from_numpy(numbers).reshape(1, 1, 1, n)])


def _between_diagonals(structure: OBB, parts: FastfoodParts) -> OBBMatrix:
    """``H G P H`` with orthonormal ``H``; ``P`` is a member of B* after one of B (Lemma K.5 of arXiv 2012.14966)."""
    n = len(parts.p)
    transform = hadamard_butterfly(n, 0.5**0.5)
    first, last = permutation_halves_reversed(parts.p, n)
    one = torch.ones(n, dtype=torch.float64)
    terms = [
        Peeled(_tensors(transform.transpose()), one, _tensors(first)),
        Peeled(_tensors(last), torch.from_numpy(parts.g), _tensors(transform)),
    ]
    return obb_matrix(structure, (n, n), terms)


def _tensors(factors: ButterflyFactors) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.array(w, dtype=np.float64)) for w in factors.twiddles)


@starts.register
def _(structure: FixedBPBP, problem: Problem) -> Iterator[Start]:
    if structure.depth == 1:
        nested = nest(structure, problem.dense)
        if nested is not None:
            yield nested, "rank-one tiles"
    elif structure.kind in ("bit_reversal", "given"):
        yield from _circulant(structure, problem)


@starts.register
def _(structure: BPBP, problem: Problem) -> Iterator[Start]:
    fixed = FixedBPBP(structure.depth, structure.expansion, kind="given")
    if structure.depth > 1:
        yield from _circulant(fixed, problem)
        return
    size = structure.size(*problem.shape)
    for index, order in ((bit_reversal(size), "bit reversal"), (np.arange(size), "the natural order")):
        nested = nest(fixed, problem.dense, [torch.from_numpy(index)])
        if nested is not None:
            yield nested, f"rank-one tiles under {order}"


def _circulant(structure: FixedBPBP, problem: Problem) -> Iterator[Start]:
    """The nearest circulant matrix, ``F^-1 D F`` with both transforms as butterflies after bit reversals."""
    m, n = problem.shape
    size = structure.size(m, n)
    if not (m == n == size and problem.dense.is_complex() and structure.depth == 2):
        return
    nearest = project(Circulant(), problem.dense)
    index = torch.from_numpy(bit_reversal(n))
    column = nearest.to_dense().detach()[:, 0]
    into = fourier_weights(n, -1.0)
    into[-1] = into[-1] * (torch.fft.fft(column) / n).reshape(1, 2, 1, n // 2)
    weights = [*into, *fourier_weights(n, 1.0)]
    yield ChainMatrix.from_weights(structure, (n, n), weights, [index, index]), "the nearest circulant matrix"


def fourier_weights(n: int, sign: float) -> list[Tensor]:
    """Tied factors ``(1, 2, 2, d)`` of the Fourier butterfly after bit reversal, in order of application."""
    weights = []
    for d in (1 << i for i in range(n.bit_length() - 1)):
        turn = torch.polar(
            torch.ones(d, dtype=torch.float64), sign * torch.pi * torch.arange(d, dtype=torch.float64) / d
        )
        one = torch.ones_like(turn)
        weights.append(torch.stack([torch.stack([one, turn]), torch.stack([one, -turn])])[None])
    return weights


@starts.register
def _(structure: RealPart, problem: Problem) -> Iterator[Start]:
    if problem.dense.is_complex():
        return
    lifted = Problem(
        problem.dense.to(torch.complex128), problem.tol, seed=problem.seed, deadline=problem.deadline
    )
    for matrix, how in starts(structure.of, lifted):
        yield RealPartMatrix(matrix), how
