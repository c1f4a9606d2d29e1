"""Step matrices as single butterflies, and the nonzeros of a matrix as arrays (Definition I.1, Lemma I.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import Index
from kmatrix.constructions._inputs import Array, ArrayLike, Like, widen
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kform import KForm, padded_size
from kmatrix.structures import ChainMatrix

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix

    Sparse = ArrayLike | sparray | spmatrix


class Entries(NamedTuple):
    """Nonzeros of a matrix in row-major order, no place twice."""

    shape: tuple[int, int]
    rows: Index
    cols: Index
    values: Array

    @property
    def T(self) -> Entries:
        order = np.lexsort((self.rows, self.cols))
        return Entries(self.shape[::-1], self.cols[order], self.rows[order], self.values[order])

    def split(self, size: int) -> list[Entries]:
        """Consecutive parts of at most ``size`` nonzeros, at least one part."""
        starts = range(0, max(1, self.values.size), size)
        parts = (slice(start, start + size) for start in starts)
        return [Entries(self.shape, self.rows[p], self.cols[p], self.values[p]) for p in parts]


def horizontal_step(matrix: Sparse) -> ChainMatrix:
    """Write a horizontal step matrix as one butterfly of class B: width 1, expansion 1.

    A matrix with at most one nonzero per column, where moving k columns to the right moves the nonzero down
    by between 0 and k rows, counted cyclically modulo the padded size N. What the construction needs is a
    little less, and is what is checked: no two nonzeros meet when the columns are cut into blocks of 2^j
    and rows are counted modulo 2^j.

    Args:
        matrix: ``(m, n)`` numbers.

    Raises:
        ArgumentError: if a column has two nonzeros, two nonzeros meet, or numbers are not finite.

    Example:
        >>> import kmatrix as km
        >>> H = km.constructions.horizontal_step([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]])
        >>> H.structure.width, H.to_dense().tolist()
        (1, [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]])

    Reference: arXiv 2012.14966, Definition I.1 and Lemma I.2.
    """
    entries, kind = take_entries("horizontal_step", "matrix", matrix)
    half = _step("horizontal_step", entries)
    return KForm.of(entries.shape, [half]).matrix(kind)


def vertical_step(matrix: Sparse) -> ChainMatrix:
    """Write a vertical step matrix, the transpose of a horizontal one, as one butterfly of class B*: width 1.

    Args:
        matrix: ``(m, n)`` numbers.

    Raises:
        ArgumentError: if a row has two nonzeros, two nonzeros meet, or numbers are not finite.

    Example:
        >>> import kmatrix as km
        >>> V = km.constructions.vertical_step([[1.0, 0.0], [2.0, 0.0]])
        >>> V.to_dense().tolist()
        [[1.0, 0.0], [2.0, 0.0]]

    Reference: arXiv 2012.14966, Lemma I.2.
    """
    entries, kind = take_entries("vertical_step", "matrix", matrix)
    half = _step("vertical_step", entries.T).transpose()
    return KForm.of(entries.shape, [half]).matrix(kind)


def take_entries(where: str, name: str, matrix: Sparse) -> tuple[Entries, Like]:
    """Read the nonzeros of a matrix: an array or tensor, dense or sparse."""
    import scipy.sparse

    if isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        tensor = matrix.detach().to_sparse().coalesce()
        shape = tuple(tensor.shape)
        places = tensor.indices().cpu().numpy()
        values, kind = widen(where, name, tensor.values())
    elif scipy.sparse.issparse(matrix):
        coo = scipy.sparse.coo_array(matrix, copy=True)
        coo.sum_duplicates()
        shape = tuple(coo.shape)
        places = np.stack(coo.nonzero()) if len(shape) == 2 else np.empty((len(shape), 0))
        values, kind = widen(where, name, coo.data[coo.data != 0])
    else:
        dense, kind = widen(where, name, cast(ArrayLike, matrix))
        shape = dense.shape
        found = np.nonzero(np.atleast_1d(dense))
        places, values = np.stack(found), np.atleast_1d(dense)[found]
    if len(shape) != 2 or 0 in shape:
        raise ArgumentError(complaint(where, f"{name}.shape", shape, "not a matrix", "pass (m, n) numbers"))
    order = np.lexsort(places[::-1])
    order = order[values[order] != 0]
    rows, cols = places[:, order].astype(np.int64)
    return Entries((shape[0], shape[1]), rows, cols, values[order]), kind


def step_factors(
    where: str, size: int, rows: Index, values: Array, cols: Index | None = None
) -> ButterflyFactors:
    """The member of B with ``values[k]`` in row ``rows[k]`` of column ``cols[k]`` (of column k if not given).

    A factor of block k holds a one where its block of k columns, the rows taken modulo k, has a nonzero in
    that quadrant: folding the rows of both halves then gives the two smaller problems. (Lemma I.2 also puts
    ones where both quadrants of a row are empty; leaving them out keeps at most one number per column.)
    """
    cols = np.arange(rows.size) if cols is None else cols
    twiddles = []
    half = size // 2
    while half:
        w = np.zeros((size // (2 * half), 2, 2, half))
        w[cols // (2 * half), rows // half % 2, cols // half % 2, rows % half] = 1.0
        if (w.sum(axis=1) > 1).any():
            way_out = "use sparse(), which takes any support"
            reason = "two nonzeros meet: not a step matrix"
            raise ArgumentError(complaint(where, "matrix", f"{values.size} nonzeros", reason, way_out))
        twiddles.append(w)
        half //= 2
    diagonal = np.zeros(size, dtype=values.dtype)
    diagonal[cols] = values
    return ButterflyFactors(size, tuple(reversed(twiddles))).scaled(right=diagonal)


def _step(where: str, entries: Entries) -> ButterflyFactors:
    if np.unique(entries.cols).size < entries.cols.size:
        line = "column" if where == "horizontal_step" else "row"
        way_out = "use sparse(), which takes any support"
        reason = f"a {line} has two nonzeros"
        raise ArgumentError(complaint(where, "matrix", f"{entries.values.size} nonzeros", reason, way_out))
    return step_factors(where, padded_size(*entries.shape), entries.rows, entries.values, entries.cols)
