"""Between chains of numbers and the structures they are members of: tile-rank butterflies, and chains in some order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmatrix._permutations import Index, is_identity
from kmatrix.fitting.chains.hierarchical import HierarchicalResult, balance_chain
from kmatrix.fitting.problem import Declined
from kmatrix.structures import Butterfly, Chain, ChainMatrix, Permute
from kmatrix.structures.chain import Factor, Stage


def chain_matrix(result: HierarchicalResult, rows: Index, columns: Index) -> ChainMatrix:
    """The matrix ``W`` of which ``W[rows][:, columns]`` is the given chain: a Butterfly if both orders are natural.

    Args:
        result: the chain.
        rows: which row of ``W`` the chain has where.
        columns: which column of ``W`` the chain has where.
    """
    weights = balance_chain(result.weights)
    shape = (rows.size, columns.size)
    factors = tuple(Factor(*p) for p in result.patterns)
    if is_identity(rows) and is_identity(columns):
        pairs, ranks = as_pairs(factors)
        return ChainMatrix.from_weights(Butterfly(radices=pairs, ranks=ranks), shape, weights)
    # W x = (chain applied to x[columns]), written to the rows: y[rows] = z, that is y = z[inverse of rows].
    stages: list[Stage] = list(factors)
    permutations: list[Tensor] = []
    if not is_identity(columns):
        stages.insert(0, Permute(shape[1]))
        permutations.append(torch.from_numpy(columns))
    if not is_identity(rows):
        stages.append(Permute(shape[0]))
        permutations.append(torch.argsort(torch.from_numpy(rows)))
    return ChainMatrix.from_weights(Chain(tuple(stages)), shape, weights, permutations)


def as_pairs(factors: Sequence[Factor]) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Read radices and tile ranks off the factors of a chain, the inverse of ``tile_chain``.

    Raises:
        Declined: if neighbouring factors do not nest as those of a tile-rank butterfly do.
    """
    heights = [1, *(f.d for f in factors[1:]), factors[-1].d * factors[-1].b]
    widths = [factors[0].a * factors[0].c, *(f.a for f in factors)]
    pairs, ranks, rank = [], [], 1
    for k, f in enumerate(factors):
        b, c = heights[k + 1] // heights[k], widths[k] // widths[k + 1]
        if (
            b * heights[k] != heights[k + 1]
            or c * widths[k + 1] != widths[k]
            or f.c != c * rank
            or f.b % b
            or f.tie
        ):
            raise Declined(f"factor {k} of the chain does not nest with its neighbours")
        rank = f.b // b
        pairs.append((b, c))
        ranks.append(rank)
    if ranks.pop() != 1:
        raise Declined("the last factor of the chain has rows left over")
    return tuple(pairs), tuple(ranks)
