"""Discovery: orders of rows and columns under which a dense matrix is a tile-rank butterfly, from its entries alone.

No transform is known by name here. One tree is guessed (or found), the other follows from the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, FitError, complaint
from kmatrix._permutations import Index, prime_factors
from kmatrix.fitting.chains.hierarchical import HierarchicalResult, hierarchical
from kmatrix.fitting.orders.partitions import (
    Level,
    Ordering,
    Tree,
    known_trees,
    plan,
    transpose_levels,
    tree_of_columns,
)
from kmatrix.fitting.orders.trees import FLOOR, Check, cluster_tolerances, column_tree, row_levels
from kmatrix.fitting.problem import TimeUp

# Prices are numbers per n * (sum of prime factors): 1 is a butterfly of tile rank 1, 2 a folded one of rank 2.
_GOOD = 2.1
_FAIR = 4.2  # an unfolded one of rank 2, the best there is for odd sizes
_EFFORT = 1 << 20  # entries looked at again in search of a better price


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
        interrupted: whether the search was cut short; this is then the best so far.
    """

    row_perm: Index
    col_perm: Index
    pairs: tuple[tuple[int, int], ...]
    factors: HierarchicalResult
    how: str
    interrupted: bool = False

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


def discover(
    matrix: Tensor, tol: float = 1e-12, *, seed: int = 0, check: Check = lambda: None
) -> Discovery | NotFound:
    r"""Find orders of rows and columns, radices and tile ranks that make ``W`` a short chain.

    A tile-rank butterfly is a tree of columns and a tree of rows such that classes at depth ``i`` of the one have low
    rank on the blocks at height ``i`` of the other. Given a tree of columns, rows in *any* order fall into place:
    on every block, those that belong together span one line or one plane (tile rank 1 or 2). A tree of columns
    is found from scratch, along one shrinking class of rows; then the few trees under which fast transforms are
    written are tried, on the columns and on the rows. The cheapest plan is factorised, so the error is measured,
    never assumed.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        tol: relative Frobenius error of an acceptable chain; below 1e-12 it is taken as that.
        seed: of the random sketches and draws.
        check: called now and then; with ``TimeUp`` it ends the search, as Ctrl-C does. What was found by then is
            the answer, marked ``interrupted``; if nothing was, the exception goes on.

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
    search = _Search(_checked(matrix, tol), tol, torch.Generator().manual_seed(seed), check)
    try:
        for how, levels in search.candidates():
            search.offer(how, levels)
            if search.price() <= _GOOD:
                break
            check()
    except (TimeUp, KeyboardInterrupt):
        found = search.conclude()
        if isinstance(found, NotFound):
            raise
        return replace(found, interrupted=True)
    return search.conclude()


@dataclass
class _Search:
    """The plans so far, from cheap to dear, what was tried, and whether any columns ever came together."""

    matrix: Tensor
    tol: float
    generator: torch.Generator
    check: Check
    promising: bool = False
    offers: list[_Offer] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def candidates(self) -> Iterator[tuple[str, list[Level]]]:
        """Levels from trees found from scratch, from known trees, and from what these have shown."""
        distances = cluster_tolerances(self.tol)
        for delta in distances:
            yield from self._both_from_scratch(delta)
            yield from self._known(delta)
        yield from self._regrouped(distances[0])
        m, n = self.matrix.shape
        enough = _GOOD if (m * n) % 2 == 0 else _FAIR
        least, most = (2, 4) if self.offers else (0, 2)
        for delta in distances * min(most, max(least, _EFFORT // (m * n))):
            if self.price() > enough and self.promising:
                yield from self._both_from_scratch(delta)

    def _both_from_scratch(self, delta: float) -> Iterator[tuple[str, list[Level]]]:
        yield "columns from scratch", self._from_scratch(self.matrix, delta)
        yield "rows from scratch", transpose_levels(self._from_scratch(self.matrix.T, delta))

    def _from_scratch(self, matrix: Tensor, delta: float) -> list[Level]:
        tree = column_tree(matrix, delta, self.generator, self.check)
        if tree is None:
            return []
        self.promising = True
        return self._row_levels(matrix, tree, delta)

    def _known(self, delta: float) -> Iterator[tuple[str, list[Level]]]:
        m, n = self.matrix.shape
        for tree in known_trees(n):
            yield f"{tree.how} columns", self._row_levels(self.matrix, tree, delta)
        for tree in known_trees(m):
            yield f"{tree.how} rows", transpose_levels(self._row_levels(self.matrix.T, tree, delta))

    def _regrouped(self, delta: float) -> Iterator[tuple[str, list[Level]]]:
        """Let columns and rows fall into place again, now that a tree of the other side is known."""
        m, n = self.matrix.shape
        price = math.inf
        while self.offers and self.price() < price:
            price, best = self.price(), self.offers[0]
            tree = tree_of_columns(best.levels, n, best.how)
            yield f"{tree.how}, rows again", self._row_levels(self.matrix, tree, delta)
            best = self.offers[0]
            tree = tree_of_columns(transpose_levels(best.levels), m, best.how)
            levels = self._row_levels(self.matrix.T, tree, delta)
            yield f"{tree.how}, columns again", transpose_levels(levels)

    def _row_levels(self, matrix: Tensor, tree: Tree, delta: float) -> list[Level]:
        return row_levels(matrix, tree, (self.tol, delta), self.generator, self.check)

    def offer(self, how: str, levels: list[Level]) -> None:
        """Keep the levels if they make a chain shorter than dense."""
        m, n = self.matrix.shape
        found = plan(levels, (m, n))
        self.reasons.append(f"{how}: {found.num_params} numbers, dense has {m * n}")
        if found.num_params < m * n:
            self.offers.append(_Offer(how, found, levels))
            self.offers.sort(key=lambda offer: offer.ordering.num_params)

    def price(self) -> float:
        """Numbers of the best plan over those of a butterfly of tile rank 1, roughly."""
        longest = max(self.matrix.shape)
        return (
            self.offers[0].ordering.num_params / (longest * sum(prime_factors(longest)))
            if self.offers
            else math.inf
        )

    def conclude(self) -> Discovery | NotFound:
        """Factorise under the best plan that holds; the error measured there decides."""
        tol = max(self.tol, FLOOR)
        for offer in self.offers:
            rows, cols = torch.from_numpy(offer.ordering.row_perm), torch.from_numpy(offer.ordering.col_perm)
            permuted = self.matrix[rows][:, cols]
            try:
                factors = hierarchical(
                    permuted, offer.ordering.pairs, tol=tol, max_params=permuted.numel() - 1
                )
            except FitError as error:
                self.reasons.append(f"{offer.how}: {error}")
            else:
                return Discovery(
                    offer.ordering.row_perm, offer.ordering.col_perm, offer.ordering.pairs, factors, offer.how
                )
        return NotFound(tuple(self.reasons))


@dataclass(frozen=True)
class _Offer:
    """A plan, the levels it was made from, and where they came from."""

    how: str
    ordering: Ordering
    levels: list[Level]


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
