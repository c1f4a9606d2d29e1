"""What a structured matrix is made of, as pictures in the order in which the product is written."""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix.report.pixels import Picture, picture, sparse_picture
from kmatrix.structures import Factor, StructuredMatrix
from kmatrix.structures.chain import AbstractChainMatrix
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, SumMatrix


def terms(matrix: StructuredMatrix) -> list[list[Picture]]:
    """The pictures of a matrix: a list per term of a sum, each the factors of a product from left to right."""
    with torch.no_grad():
        return _terms(matrix)


def _terms(matrix: StructuredMatrix) -> list[list[Picture]]:
    if isinstance(matrix, SumMatrix):
        return [term for part in matrix.members for term in _terms(part)]
    if isinstance(matrix, ProductMatrix):
        inner = [_terms(part) for part in matrix.members]
        # A sum inside a product stays one picture: a row of pictures has no brackets.
        return [
            [
                shown
                for part, found in zip(matrix.members, inner, strict=True)
                for shown in (found[0] if len(found) == 1 else [_whole(part)])
            ]
        ]
    if isinstance(matrix, ScaledMatrix):
        return _terms(matrix.base)
    if isinstance(matrix, AbstractChainMatrix):
        return [_stages(matrix)]
    return [[_whole(matrix)]]


def _whole(matrix: StructuredMatrix) -> Picture:
    name = type(matrix.structure).__name__
    return picture(matrix.to_dense(), name, _numbers(matrix.num_params))


def _stages(chain: AbstractChainMatrix) -> list[Picture]:
    pictures = []
    weights, permutations = iter(chain.weights), 0
    for stage in chain.layout.stages:
        if isinstance(stage, Factor):
            pictures.append(_factor(next(weights), stage))
        else:
            index = chain.permutation(permutations).cpu()
            permutations += 1
            rows, ones = torch.arange(stage.n), torch.ones(stage.n)
            pictures.append(sparse_picture(rows, index, ones, (stage.n, stage.n), "permutation"))
    return pictures[::-1]


def _factor(weight: Tensor, factor: Factor) -> Picture:
    a, b, c, d = (torch.arange(size) for size in factor.pattern)
    group, row, col, place = torch.meshgrid(a, b, c, d, indexing="ij")
    rows = ((group * factor.b + row) * factor.d + place).flatten()
    cols = ((group * factor.c + col) * factor.d + place).flatten()
    values = weight.detach().cpu().expand(*factor.pattern).flatten()
    tied = f", tied over {' and '.join(factor.tie)}" if factor.tie else ""
    caption = f"({factor.a}, {factor.b}, {factor.c}, {factor.d})"
    shape = (factor.rows, factor.cols)
    return sparse_picture(rows, cols, values, shape, caption, _numbers(weight.numel()) + tied)


def _numbers(count: int) -> str:
    return f"{count:,} numbers" if count != 1 else "1 number"
