"""Relaxed permutations to fixed ones, wherever in a matrix they are."""

from __future__ import annotations

from functools import singledispatch

from kmatrix.structures import StructuredMatrix
from kmatrix.structures.bp import BPBPMatrix
from kmatrix.structures.compose import (
    ProductMatrix,
    ScaledMatrix,
    SumMatrix,
    TransposedMatrix,
    product,
    sum_of,
    transpose,
)
from kmatrix.structures.grouped import GroupedMatrix
from kmatrix.structures.permutation import BPPermutationMatrix
from kmatrix.structures.real_part import RealPartMatrix


@singledispatch
def harden(matrix: StructuredMatrix) -> StructuredMatrix:
    """The matrix with every relaxed permutation rounded to a fixed one; itself if it holds none.

    Example:
        >>> import torch
        >>> from kmatrix.structures import BPBP
        >>> harden(BPBP(depth=1).random(8, 8)).structure
        FixedBPBP(depth=1, expansion=1, kind='given')
    """
    return matrix


@harden.register
def _(matrix: BPBPMatrix) -> StructuredMatrix:
    return matrix.harden()


@harden.register
def _(matrix: BPPermutationMatrix) -> StructuredMatrix:
    return matrix.harden()


@harden.register
def _(matrix: ProductMatrix) -> StructuredMatrix:
    return product(*map(harden, matrix.members))


@harden.register
def _(matrix: SumMatrix) -> StructuredMatrix:
    return sum_of(*map(harden, matrix.members))


@harden.register
def _(matrix: GroupedMatrix) -> StructuredMatrix:
    return GroupedMatrix(list(map(harden, matrix.members)))


@harden.register
def _(matrix: TransposedMatrix) -> StructuredMatrix:
    return transpose(harden(matrix.base), conjugate=matrix.conjugate)


@harden.register
def _(matrix: ScaledMatrix) -> StructuredMatrix:
    return ScaledMatrix(harden(matrix.base), matrix.structure.scalar)


@harden.register
def _(matrix: RealPartMatrix) -> StructuredMatrix:
    return RealPartMatrix(harden(matrix.of))
