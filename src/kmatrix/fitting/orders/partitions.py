"""Trees of rows and columns: how a family of nested set partitions becomes an order, a list of radices and a price.

Tile ranks depend only on which rows and which columns are together, level by level, so a split is a pair of
labellings; the permutations are read off at the end, when it is known which levels are worth keeping.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kmatrix._permutations import Index, digit_reversal, even_odd_reversed, prime_factors


@dataclass(frozen=True)
class Level:
    """One level: row classes against column blocks, such that every tile has at most the given rank.

    Attributes:
        rows: for each row the number of its class; all classes have the same size.
        cols: for each column the number of its block; all blocks have the same size.
        rank: largest rank of a tile (class x block).
    """

    rows: Index
    cols: Index
    rank: int

    @property
    def classes(self) -> int:
        """Number of row classes, ``b_1 ... b_i``."""
        return int(self.rows.max()) + 1

    @property
    def width(self) -> int:
        """Columns per block, ``c_1 ... c_i``."""
        return self.cols.size // (int(self.cols.max()) + 1)

    @property
    def T(self) -> Level:
        """The same tiles of the transposed matrix."""
        return Level(self.cols, self.rows, self.rank)


@dataclass(frozen=True)
class Ordering:
    """Orders and radices under which a matrix is a tile-rank butterfly.

    ``W[row_perm][:, col_perm]`` has the tiles of ``pairs`` and ``ranks``.

    Attributes:
        row_perm: which row of ``W`` comes where.
        col_perm: which column of ``W`` comes where.
        pairs: ``(b_i, c_i)`` in order of application.
        ranks: tile rank after each factor but the last.
        num_params: numbers that the chain holds.
    """

    row_perm: Index
    col_perm: Index
    pairs: tuple[tuple[int, int], ...]
    ranks: tuple[int, ...]
    num_params: int


def plan(levels: Sequence[Level], shape: tuple[int, int]) -> Ordering:
    """Choose the levels that make the cheapest chain, and write out its orders.

    A factor between two kept levels ``i < j`` holds ``n / C_i * rank_i * rank_j * B_j`` numbers (``B`` row classes,
    ``C`` columns per block); a shortest path over the levels finds the best subset, with fewest factors among equals.

    Args:
        levels: nested levels, row classes from coarse to fine, column blocks from fine to coarse.
        shape: ``(m, n)``.
    """
    m, n = shape
    chosen, num_params = _cheapest([(s.classes, s.width, s.rank) for s in levels], m, n)
    kept = [levels[i] for i in chosen]
    heights = [(1, 1), *((s.classes, s.width) for s in kept), (m, n)]
    pairs = tuple((b1 // b0, c1 // c0) for (b0, c0), (b1, c1) in itertools.pairwise(heights))
    return Ordering(
        row_perm=strided_order([s.rows for s in levels], m),
        col_perm=contiguous_order([s.cols for s in reversed(levels)], n),
        pairs=pairs,
        ranks=tuple(s.rank for s in kept),
        num_params=num_params,
    )


def _cheapest(levels: Sequence[tuple[int, int, int]], m: int, n: int) -> tuple[list[int], int]:
    """Indices of the levels ``(B, C, rank)`` on the cheapest path from ``(1, 1, 1)`` to ``(m, n, 1)``, and its cost."""
    stops = [(1, 1, 1), *levels, (m, n, 1)]
    best: list[tuple[int, int, int]] = [(0, 0, -1)]  # numbers, factors, stop before
    for j in range(1, len(stops)):
        b, c, rank = stops[j]
        ways = [
            (best[i][0] + n // ci * ri * rank * b, best[i][1] + 1, i)
            for i, (bi, ci, ri) in enumerate(stops[:j])
            if b % bi == 0 and c % ci == 0 and (bi, ci) != (b, c)
        ]
        best.append(min(ways, default=(math.inf, 0, 0)))  # type: ignore[arg-type]
    path, at = [], best[-1][2]
    while at > 0:
        path.append(at - 1)
        at = best[at][2]
    return path[::-1], best[-1][0]


def transpose_levels(levels: Sequence[Level]) -> list[Level]:
    """The levels of the transposed matrix, again with row classes from coarse to fine."""
    return [s.T for s in reversed(levels)]


def strided_order(labels: Sequence[Index], size: int) -> Index:
    """An order in which every class of every labelling is one residue: ``o_1 + b_1 * (o_2 + b_2 * ...)``.

    Args:
        labels: nested labellings from coarse to fine, each with classes of one size.
        size: number of items.
    """
    return _invert(_digits(labels, size), fastest_first=True)


def contiguous_order(labels: Sequence[Index], size: int) -> Index:
    """An order in which every class of every labelling is a run of neighbours.

    Args:
        labels: nested labellings from coarse to fine, each with classes of one size.
        size: number of items.
    """
    return _invert(_digits(labels, size), fastest_first=False)


def _digits(labels: Sequence[Index], size: int) -> list[tuple[Index, int]]:
    """The item's number within its parent class at each level (by smallest member), and how many there are."""
    digits = []
    parent: Index = np.zeros(size, dtype=np.int64)
    for fine in [*labels, np.arange(size, dtype=np.int64)]:
        _, first, fine = np.unique(fine, return_index=True, return_inverse=True)  # noqa: PLW2901
        radix = first.size // (int(parent.max()) + 1)
        by_parent = np.lexsort((first, parent[first]))
        number = np.empty(first.size, dtype=np.int64)
        number[by_parent] = np.arange(first.size) % radix
        digits.append((number[fine], radix))
        parent = fine
    return digits


def _invert(digits: Sequence[tuple[Index, int]], *, fastest_first: bool) -> Index:
    position: Index = np.zeros(digits[0][0].size, dtype=np.int64)
    scale = 1
    for digit, radix in digits if fastest_first else reversed(digits):
        position += digit * scale
        scale *= radix
    order = np.empty_like(position)
    order[position] = np.arange(position.size)
    return order


@dataclass(frozen=True)
class Tree:
    """A list of leaves whose runs of neighbours, level by level, are the blocks of a tree.

    Attributes:
        how: its name, for reports.
        order: the leaves; a permutation.
        radices: children per node from the root down; their product is the number of leaves.
    """

    how: str
    order: Index
    radices: tuple[int, ...]


def known_trees(n: int, largest_prime: int = 64) -> list[Tree]:
    """The trees under which fast transforms are usually written, on ``n`` items.

    *interleaved*: residues modulo ``n/C`` (both sides of the DFT, the rows of every trigonometric transform);
    *folded*: the same on even positions ascending, then odd ones descending (columns of DCT-II and DST-II);
    *halves*: neighbouring items together (Hadamard in natural order, smooth kernels).

    Args:
        n: number of items.
        largest_prime: an ``n`` with a larger prime factor has no tree here.
    """
    radices = tuple(reversed(prime_factors(n)))
    if not radices or radices[0] > largest_prime:
        return []
    apart = digit_reversal(radices[::-1])
    return [
        Tree("interleaved", apart, radices),
        Tree("folded", even_odd_reversed(n)[apart], radices),
        Tree("halves", np.arange(n, dtype=np.int64), radices),
    ]


def tree_of_columns(levels: Sequence[Level], n: int, how: str) -> Tree:
    """The tree whose blocks are the column blocks of some nested levels on ``n`` columns."""
    order = contiguous_order([s.cols for s in reversed(levels)], n)
    widths = list(dict.fromkeys([n, *(s.width for s in reversed(levels)), 1]))
    return Tree(how, order, tuple(wide // narrow for wide, narrow in itertools.pairwise(widths)))
