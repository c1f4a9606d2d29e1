"""Discovery: orders of rows and columns under which a dense matrix is a tile-rank butterfly, from its entries alone.

No transform is known by name here. One tree is guessed (or found), the other follows from the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, FitError, complaint
from kmatrix._permutations import Index, prime_factors
from kmatrix.fit.hierarchical import HierarchicalResult, hierarchical
from kmatrix.fit.orders import Plan, Split, known_trees, plan, transpose_splits, tree_of_columns
from kmatrix.fit.trees import FLOOR, column_tree, row_splits

_ATTEMPTS = 3  # draws of a path through an unknown tree, for the matrix and for its transpose
_GOOD = (
    2.1  # numbers per n * (sum of prime factors): 1 is a butterfly of tile rank 1, 2 a folded one of rank 2
)


@dataclass(frozen=True)
class Discovery:
    """A matrix recognised as a tile-rank butterfly in some order of its rows and columns.

    ``W[row_perm][:, col_perm]`` is the product of the chain, up to its error.

    Attributes:
        row_perm: which row of ``W`` comes where.
        col_perm: which column of ``W`` comes where.
        pairs: radices ``(b_i, c_i)`` in order of application.
        factors: the chain, and its error.
        how: the tree that led there, for reports.
    """

    row_perm: Index
    col_perm: Index
    pairs: tuple[tuple[int, int], ...]
    factors: HierarchicalResult
    how: str

    @property
    def ranks(self) -> tuple[int, ...]:
        """Tile rank after each factor but the last."""
        return self.factors.ranks

    @property
    def num_params(self) -> int:
        """Numbers held by the chain."""
        return self.factors.num_params


@dataclass(frozen=True)
class NotFound:
    """No order makes the matrix a chain smaller than itself, as far as was looked.

    Attributes:
        reasons: what was tried, and how each attempt ended.
    """

    reasons: tuple[str, ...]


def discover(matrix: Tensor, tol: float = 1e-12, *, seed: int = 0) -> Discovery | NotFound:
    r"""Find orders of rows and columns, radices and tile ranks that make ``W`` a short chain.

    A tile-rank butterfly is a tree of columns and a tree of rows such that classes at depth ``i`` of the one have low
    rank on the blocks at height ``i`` of the other. Given a tree of columns, rows in *any* order fall into place:
    on every block, those that belong together span one line or one plane. So the few trees under which fast
    transforms are written are tried on the columns, then on the rows; and when both orders are unknown a tree is
    found from scratch. What is found is factorised, so the error is measured, never assumed.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        tol: relative Frobenius error of an acceptable chain.
        seed: of the random sketches and draws.

    Raises:
        DtypeError: if the matrix has another dtype.
        ArgumentError: if it is not a matrix of finite numbers, or the tolerance is negative.

    Example:
        >>> k = torch.arange(16, dtype=torch.float64)
        >>> dft = torch.polar(torch.ones(16, 16, dtype=torch.float64), -torch.pi / 8 * torch.outer(k, k))
        >>> found = discover(dft[torch.randperm(16)][:, torch.randperm(16)])
        >>> found.pairs, found.ranks, found.factors.relative_error < 1e-14
        (((4, 4), (4, 4)), (1,), True)

    Reference:
        Zheng, Riccietti, Gribonval, "Efficient identification of butterfly sparse matrix factorizations" (2110.01230)
        for the factorisation once the orders are known.
    """
    search = _Search(_checked(matrix, tol), tol, torch.Generator().manual_seed(seed))
    for how, splits in search.candidates():
        search.offer(how, splits)
        if search.price() <= _GOOD:
            break
    search.regroup()
    return search.conclude()


@dataclass
class _Search:
    """The best plan so far, and what was tried."""

    matrix: Tensor
    tol: float
    generator: torch.Generator
    best: Plan | None = None
    how: str = ""
    splits: list[Split] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def candidates(self) -> Iterator[tuple[str, list[Split]]]:
        """Levels from known trees of the columns, of the rows, and from trees that are found."""
        m, n = self.matrix.shape
        yield from self._both_from_scratch()
        for tree in known_trees(n):
            yield f"{tree.how} columns", row_splits(self.matrix, tree, self.tol, self.generator)
        for tree in known_trees(m):
            splits = row_splits(self.matrix.T, tree, self.tol, self.generator)
            yield f"{tree.how} rows", transpose_splits(splits)
        for _ in range(_ATTEMPTS):
            yield from self._both_from_scratch()

    def _both_from_scratch(self) -> Iterator[tuple[str, list[Split]]]:
        yield "columns from scratch", self._from_scratch(self.matrix)
        yield "rows from scratch", transpose_splits(self._from_scratch(self.matrix.T))

    def _from_scratch(self, matrix: Tensor) -> list[Split]:
        tree = column_tree(matrix, self.tol, self.generator)
        return [] if tree is None else row_splits(matrix, tree, self.tol, self.generator)

    def offer(self, how: str, splits: list[Split]) -> None:
        """Keep the levels if they make a shorter chain than the best ones so far."""
        m, n = self.matrix.shape
        candidate = plan(splits, (m, n))
        limit = m * n if self.best is None else self.best.num_params
        if candidate.num_params < limit:
            self.best, self.how, self.splits = candidate, how, splits
        self.reasons.append(f"{how}: {candidate.num_params} numbers, dense has {m * n}")

    def price(self) -> float:
        """Numbers of the best plan over those of a butterfly of tile rank 1, roughly."""
        if self.best is None:
            return math.inf
        m, n = self.matrix.shape
        return self.best.num_params / (max(m, n) * sum(prime_factors(max(m, n))))

    def regroup(self) -> None:
        """Let columns and rows fall into place again, now that a tree of the other side is known."""
        m, n = self.matrix.shape
        for _ in range(_ATTEMPTS):
            before = self.price()
            if self.best is None or before <= _GOOD or max(self.best.ranks, default=1) == 1:
                return
            tree = tree_of_columns(self.splits, n, self.how)
            self.offer(f"{tree.how}, rows again", row_splits(self.matrix, tree, self.tol, self.generator))
            tree = tree_of_columns(transpose_splits(self.splits), m, self.how)
            splits = row_splits(self.matrix.T, tree, self.tol, self.generator)
            self.offer(f"{tree.how}, columns again", transpose_splits(splits))
            if self.price() == before:
                return

    def conclude(self) -> Discovery | NotFound:
        """Factorise under the best plan; the error measured there decides."""
        m, n = self.matrix.shape
        if self.best is None:
            return NotFound(tuple(self.reasons))
        rows, cols = torch.from_numpy(self.best.row_perm), torch.from_numpy(self.best.col_perm)
        try:
            factors = hierarchical(
                self.matrix[rows][:, cols], self.best.pairs, tol=max(self.tol, FLOOR), max_params=m * n - 1
            )
        except FitError as error:
            return NotFound((*self.reasons, str(error)))
        return Discovery(self.best.row_perm, self.best.col_perm, self.best.pairs, factors, self.how)


def _checked(matrix: Tensor, tol: float) -> Tensor:
    """Complain about what cannot be searched."""
    if matrix.dtype not in (torch.float64, torch.complex128):
        raise DtypeError(
            complaint("discover", "matrix.dtype", matrix.dtype, "too narrow", "use .double() or .cdouble()")
        )
    if matrix.ndim != 2 or 0 in matrix.shape:
        shape = tuple(matrix.shape)
        raise ArgumentError(
            complaint("discover", "matrix.shape", shape, "not a matrix", "pass rows and columns")
        )
    if not 0 <= tol < math.inf:
        raise ArgumentError(
            complaint("discover", "tol", tol, "must be a finite number >= 0", "pass tol=0 for exact")
        )
    if not bool(torch.isfinite(matrix.abs()).all()):
        raise ArgumentError(complaint("discover", "matrix", "...", "holds NaN or infinity", "clean it first"))
    return matrix
