"""Sparse matrices in the orthogonal hierarchy: factors orthogonal but for one diagonal per pair."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kmatrix._permutations import Index
from kmatrix.constructions._inputs import Array
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kform import KForm, padded_size
from kmatrix.constructions.permutations import permutation_halves
from kmatrix.constructions.sparse import sparse_core
from kmatrix.constructions.steps import Entries, step_factors, take_entries
from kmatrix.constructions.sums import PASS, SWAP, put_side_by_side
from kmatrix.structures import ChainMatrix

if TYPE_CHECKING:
    from kmatrix.constructions.steps import Sparse

TURN = ((math.sqrt(0.5), math.sqrt(0.5)), (math.sqrt(0.5), -math.sqrt(0.5)))
"""Sum and difference of two slots, orthogonal."""


def sparse_obb(matrix: Sparse) -> ChainMatrix:
    """Write a matrix with s nonzeros in (OBB)^{4 m}_e, ``m = max(1, ceil(s / N))``: e = 1 if m = 1, else 4.

    ``N`` is the power of two that holds both sides. A member of OBB is ``M_1 D M_2*``: all factors
    orthogonal (unitary), D diagonal. The result is a K-matrix of width 4 m in which D is folded into the
    factor after it, the first of every second butterfly: that one is orthogonal times diagonal, all others
    are orthogonal. The construction is that of ``sparse`` with every step matrix split into a diagonal and
    an orthogonal butterfly, ``H = D O``.

    Args:
        matrix: ``(m, n)`` numbers: an array or tensor, dense or sparse (torch or scipy).

    Raises:
        ArgumentError: if it is not a matrix, or holds numbers that are not finite.

    Example:
        >>> import numpy as np, kmatrix as km
        >>> S = km.constructions.sparse_obb(np.array([[0.0, 2.0], [1.0, 0.0]]))
        >>> S.structure.width, S.to_dense().detach().numpy().round(12).tolist()
        (4, [[0.0, 2.0], [1.0, 0.0]])

    Reference: arXiv 2012.14966, Lemmas K.7 to K.9, the sum of Lemma K.10, and K.11.
    """
    entries, kind = take_entries("sparse_obb", "matrix", matrix)
    size = padded_size(*entries.shape)
    terms = [_term(part, size) for part in entries.split(size)]
    if len(terms) == 1:
        return terms[0].matrix(kind)
    rounds = [_added(term, is_first=k == 0) for k, term in enumerate(terms)]
    return KForm(entries.shape, tuple(half for form in rounds for half in form.halves)).matrix(kind)


def orthogonal_step(size: int, rows: Index, values: Array) -> tuple[Array, ButterflyFactors]:
    """A horizontal step matrix as ``diag(d) O`` with O an orthogonal member of B (Lemma K.7)."""
    ones = np.ones(rows.size)
    diagonal = np.zeros(size, dtype=values.dtype)
    diagonal[: values.size] = values
    twiddles = []
    for w in step_factors("sparse_obb", size, rows, ones).twiddles:
        # A block holds at most one number per column, so its rows are orthogonal: normalise them. A row
        # without numbers completes (a, b) by (conj b, -conj a); the conjugates matter for complex blocks.
        block = (w * diagonal.reshape(w.shape[0], 1, 2, w.shape[3])).astype(values.dtype)
        norms = np.sqrt((np.abs(block) ** 2).sum(axis=2))
        unit = block / np.where(norms == 0, 1.0, norms)[:, :, None]
        missing = (norms == 0)[:, :, None]
        across = np.stack([unit[:, ::-1, 1].conj(), -unit[:, ::-1, 0].conj()], axis=2)
        empty = (norms == 0).all(axis=1)[:, None, None]
        unit = np.where(missing, across, unit)
        twiddles.append(np.where(empty, np.eye(2)[None, :, :, None], unit))
        diagonal = norms.reshape(size).astype(values.dtype)
    return diagonal, ButterflyFactors(size, tuple(twiddles))


def _term(entries: Entries, size: int) -> KForm:
    """At most ``size`` nonzeros in (OBB)^4, every diagonal folded into the factor after it (Lemma K.9)."""
    core = sparse_core(entries, size)
    count = entries.values.size
    row_rank, col_rank = core.scatter[entries.rows], np.argsort(core.gather)[entries.cols]
    below, collect = orthogonal_step(size, row_rank, entries.values)
    above, spread = orthogonal_step(size, np.sort(col_rank), np.ones(count))
    first_in, last_in = permutation_halves(core.gather, size)
    first_out, last_out = permutation_halves(core.scatter, size)
    # D P = L (L^T D L) R and P D = L (R D R^T) R move a diagonal between the halves of a permutation P = L R.
    _, sort_first, sort_last, _ = core.middle
    halves = (
        *(first_in, last_in.scaled(right=last_in.transpose().apply(above))),
        *(spread.adjoint(), sort_first, sort_last, collect),
        *(first_out, last_out.scaled(right=first_out.apply(below))),
    )
    return KForm(entries.shape, halves)


def _added(term: KForm, *, is_first: bool) -> KForm:
    """``(y, x, *, x) -> (y + E x, x, y - E x, x)`` on four slots, first from ``(x, 0, 0, 0)`` (K.10)."""
    identity = KForm.of(term.shape, [ButterflyFactors.identity(term.size, increasing=True)])
    one = identity.with_width(term.width)
    ending, rest = one.halves[1].scaled(right=np.zeros(term.size)), one.halves[2:]
    nothing = KForm(term.shape, (one.halves[0], ending, *rest))
    enter = [(TURN, TURN), (SWAP, PASS)] if is_first else [(PASS, PASS), (PASS, SWAP)]
    form = put_side_by_side([one, one, term, nothing], enter=enter, leave=[(PASS, PASS), (TURN, TURN)])
    scale = np.full(form.size, 2.0 if is_first else math.sqrt(2.0))
    first, second, *others = form.halves
    return KForm(term.shape, (first, second.scaled(right=scale), *others))
