"""Chains that a hierarchical factorisation solves: nested factors, growing or shrinking strides, orders at the ends.

The chain's permutations are given; only its numbers are computed. Padded sides are filled with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kmatrix._permutations import inverse
from kmatrix.fitting.chains.hierarchical import HierarchicalResult, balance_chain, hierarchical
from kmatrix.fitting.chains.members import as_pairs
from kmatrix.fitting.problem import Declined
from kmatrix.structures import ChainMatrix, StructuredMatrix
from kmatrix.structures.chain import ChainStructure, Factor, Layout, Permute


def renest(matrix: StructuredMatrix, target: Tensor) -> ChainMatrix | None:
    """The chain of this matrix with its numbers computed anew for the target, or ``None`` if its factors do not nest.

    Args:
        matrix: whose structure and permutations to keep.
        target: ``(m, n)`` float64 or complex128.
    """
    if not isinstance(matrix, ChainMatrix) or not isinstance(matrix.structure, ChainStructure):
        return None
    permutes = [stage for stage in matrix.layout.stages if isinstance(stage, Permute)]
    permutations = [matrix.permutation(k) for k in range(len(permutes))]
    if target.is_complex() != matrix.dtype.is_complex:
        return None
    return nest(matrix.structure, target, permutations)


def nest(
    structure: ChainStructure, target: Tensor, permutations: Sequence[Tensor] = ()
) -> ChainMatrix | None:
    """A member of a chain structure near the target by hierarchical factorisation, or ``None`` if it does not nest.

    Factors may be tied over their groups (tile rank one, growing strides) or not at all; permutations may come first
    and last.

    Args:
        structure: the chain.
        target: ``(m, n)`` float64 or complex128.
        permutations: index arrays of its permutation stages; those a new member starts with by default.

    Example:
        >>> import torch
        >>> from kmatrix.structures import FixedBPBP
        >>> F = torch.fft.fft(torch.eye(16, dtype=torch.complex128))
        >>> A = nest(FixedBPBP(depth=1), F)
        >>> float((A.to_dense().detach() - F).abs().max()) < 1e-12
        True
    """
    m, n = target.shape
    layout = structure.layout(m, n)
    orders = _orders(layout, permutations)
    if orders is None or not layout.factors:
        return None
    columns, rows = orders
    framed = nn.functional.pad(target, (0, layout.cols - n, 0, layout.rows - m))
    # y = (B x[columns])[rows], so B[i, j] is the entry at row inverse(rows)[i] and column columns[j].
    inner = framed[torch.from_numpy(inverse(rows.numpy()))][:, columns]
    weights = _weights(layout.factors, inner)
    if weights is None:
        return None
    return ChainMatrix.from_weights(structure, (m, n), balance_chain(weights), permutations)


def _orders(layout: Layout, permutations: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Orders before the first factor and after the last one; ``None`` if there is one in between."""
    given = iter(permutations)
    columns, rows = torch.arange(layout.cols), torch.arange(layout.rows)
    factors = 0
    for stage in layout.stages:
        if isinstance(stage, Factor):
            factors += 1
            continue
        index = next(given, None)
        index = torch.from_numpy(stage.index()) if index is None else index
        if factors == 0:
            columns = columns[index]
        elif factors == len(layout.factors):
            rows = rows[index]
        else:
            return None
    return columns, rows


def _weights(factors: Sequence[Factor], inner: Tensor) -> tuple[Tensor, ...] | None:
    """Numbers of nested factors whose product is near the matrix."""
    if all(f.tie == "a" for f in factors):
        return _tied(factors, inner)
    turned = tuple(Factor(f.a, f.c, f.b, f.d, f.tie) for f in reversed(factors))
    for chain, matrix in ((tuple(factors), inner), (turned, inner.T)):
        try:
            pairs, ranks = as_pairs(chain)
        except Declined:
            continue
        weights = _filled(hierarchical(matrix, pairs, ranks=ranks), pairs, ranks)
        return weights if chain is not turned else tuple(w.transpose(1, 2) for w in reversed(weights))
    return None


def _filled(
    result: HierarchicalResult, pairs: Sequence[tuple[int, int]], ranks: Sequence[int]
) -> tuple[Tensor, ...]:
    """Zeros for the ranks that were asked for but that small tiles do not have."""
    had, wanted = (1, *result.ranks, 1), (1, *ranks, 1)
    weights = []
    for i, ((b, c), w) in enumerate(zip(pairs, result.weights, strict=True)):
        a, d = w.shape[0], w.shape[3]
        grid = w.reshape(a, had[i + 1], b, c, had[i], d)
        missing = (0, 0, 0, wanted[i] - had[i], 0, 0, 0, 0, 0, wanted[i + 1] - had[i + 1])
        grid = nn.functional.pad(grid, missing)
        weights.append(grid.reshape(a, wanted[i + 1] * b, c * wanted[i], d))
    return tuple(weights)


def _tied(factors: Sequence[Factor], inner: Tensor) -> tuple[Tensor, ...] | None:
    """The same for factors whose groups are equal: row ``o`` of every block is a multiple of one vector.

    With ``F (I_c (x) T)`` the outermost factor and the rest, row ``o + d beta`` on block ``gamma`` of the columns is
    ``F[beta, gamma, o] T[o]``: a matrix of rank one for every ``o``, of which the rest is factorised in turn.
    """
    weights: list[Tensor] = []
    rest = inner
    for outer in reversed(factors):
        _, b, c, d = outer.pattern
        if rest.shape[0] != b * d or rest.shape[1] % c:
            return None
        across = rest.shape[1] // c
        stacks = rest.reshape(b, d, c, across).permute(1, 0, 2, 3).reshape(d, b * c, across)
        u, s, vh = torch.linalg.svd(stacks, full_matrices=False)
        weights.append((u[:, :, 0] * s[:, :1]).reshape(d, b, c).permute(1, 2, 0)[None])
        rest = vh[:, 0]
    # What is left is one number per stage-1 input, of modulus one: it belongs to the innermost factor.
    weights[-1] = weights[-1] * rest.reshape(1, 1, 1, -1) if rest.numel() == 1 else weights[-1]
    return tuple(reversed(weights)) if rest.shape == (1, 1) else None
