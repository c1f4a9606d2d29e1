"""Sparse and low-rank matrices as K-matrices: any support by sorting between steps, and sums (appendix I)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import Index
from kmatrix._permutations import inverse as inverse_permutation
from kmatrix.constructions._inputs import ArrayLike, joint, take_array
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kform import KForm, padded_size
from kmatrix.constructions.permutations import permutation_halves, permutation_halves_reversed
from kmatrix.constructions.steps import Entries, step_factors, take_entries
from kmatrix.constructions.sums import sum_forms
from kmatrix.structures import ChainMatrix

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix


def sparse(matrix: ArrayLike | sparray | spmatrix) -> ChainMatrix:
    """Write a matrix with s nonzeros as a K-matrix: width 4 max(1, ceil(m/2) - 1), expansion at most 4.

    ``N`` is the power of two that holds both sides and ``m = ceil(s / N)``. Up to N nonzeros are a product
    ``P_1 H P_2 V P_3``: P_1 and P_3 bring the nonzero rows and columns together, H holds the values, one per
    column in row-major order (a horizontal step), V sends every column to its place (a vertical step) and
    P_2 sorts. More nonzeros are cut into m such terms and summed, in expansion 2 (m = 2) or 4. Every number of
    the matrix appears in one factor; all others are 0 or 1, so the values come back exactly.

    Args:
        matrix: ``(m, n)`` numbers: an array or tensor, dense or sparse (torch or scipy).

    Raises:
        ArgumentError: if it is not a matrix, or holds numbers that are not finite.

    Example:
        >>> import numpy as np, kmatrix as km
        >>> S = km.constructions.sparse(np.diag([1.0, 2.0, 3.0], k=1))
        >>> S.structure.width, S.structure.expansion, S.to_dense()[1].tolist()
        (4, 1, [0.0, 0.0, 2.0, 0.0])

    Reference: arXiv 2012.14966, Lemma I.1 and Theorem 3, which states width 4 ceil(s/n) and expansion 4.
    """
    entries, kind = take_entries("sparse", "matrix", matrix)
    size = padded_size(*entries.shape)
    return sum_forms([sparse_form(part, size) for part in entries.split(size)]).matrix(kind)


def low_rank(u: ArrayLike, v: ArrayLike) -> ChainMatrix:
    """Write ``U V`` of rank r as a K-matrix of width max(1, ceil(r/2) - 1) and expansion at most 4.

    A term ``u_k v_k`` is ``diag(u_k) 1 1^T diag(v_k)``, and the all-ones matrix is the butterfly whose
    factors are all ones, so every term has width 1 and expansion 1; the terms are summed.

    Args:
        u: ``(m, r)`` numbers.
        v: ``(r, n)`` numbers.

    Raises:
        ArgumentError: if the shapes do not multiply, or numbers are not finite.

    Example:
        >>> import torch, kmatrix as km
        >>> A = km.constructions.low_rank(torch.ones(5, 2), torch.ones(2, 3))
        >>> A.structure.width, A.structure.expansion, A.to_dense()[0].tolist()
        (1, 2, [2.0, 2.0, 2.0])

    Reference: arXiv 2012.14966, Lemma I.4, which states width 8r and expansion 4 by treating every term as
    a product of two sparse matrices.
    """
    left, of_u = take_array("low_rank", "u", u, 2)
    right, of_v = take_array("low_rank", "v", v, 2)
    if left.shape[1] != right.shape[0]:
        reason = f"cannot multiply v of shape {right.shape}"
        raise ArgumentError(complaint("low_rank", "u.shape", left.shape, reason, "pass (m, r) and (r, n)"))
    shape = (left.shape[0], right.shape[1])
    size = padded_size(*shape)
    ones = ButterflyFactors.identity(size, increasing=True)
    ones = ButterflyFactors(size, tuple(np.ones_like(w) for w in ones.twiddles))
    column = np.pad(left, ((0, size - shape[0]), (0, 0)))
    row = np.pad(right, ((0, 0), (0, size - shape[1])))
    terms = [ones.scaled(left=column[:, k], right=row[k]) for k in range(left.shape[1])]
    return sum_forms([KForm.of(shape, [term]) for term in terms]).matrix(joint([of_u, of_v]))


class SparseCore(NamedTuple):
    """``S = P_out M P_in`` (Lemma I.1): ``P_in x = x[gather]``, ``P_out y = y[scatter]``, M of width 2."""

    gather: Index
    middle: tuple[ButterflyFactors, ...]
    scatter: Index


def sparse_form(entries: Entries, size: int) -> KForm:
    """A matrix of at most ``size`` nonzeros as a form of width 4 on ``size`` points."""
    core = sparse_core(entries, size)
    into, out = permutation_halves(core.gather, size), permutation_halves(core.scatter, size)
    return KForm.of(entries.shape, [*into, *core.middle, *out])


def sparse_core(entries: Entries, size: int) -> SparseCore:
    """The construction of Lemma I.1 on ``size`` points, the two outer permutations still index arrays."""
    count = entries.values.size
    row_order, row = _used_first(entries.rows, size)
    col_order, col = _used_first(entries.cols, size)
    # V lays the columns out in ascending order, one place per nonzero; the sort turns that into row-major
    # order.
    by_column = np.argsort(col, kind="stable")
    sort = np.arange(size)
    sort[by_column] = np.arange(count)
    spread = step_factors("sparse", size, col[by_column], np.ones(count)).transpose()
    collect = step_factors("sparse", size, row, entries.values)
    middle = (spread, *permutation_halves_reversed(sort, size), collect)
    return SparseCore(col_order, middle, inverse_permutation(row_order))


def _used_first(places: Index, size: int) -> tuple[Index, Index]:
    """All of 0 .. size-1 with the ``places`` first, ascending, and the rank of every place in that order."""
    used, rank = np.unique(places, return_inverse=True)
    return np.concatenate([used, np.setdiff1d(np.arange(size), used)]), rank
