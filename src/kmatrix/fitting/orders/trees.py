"""Finding the trees: the row classes that fit a given tree of columns, and a tree of columns from nothing.

Both walk down from whole rows (or columns) to small tiles, merging what spans a line or a plane together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from kmatrix._permutations import Index
from kmatrix.fitting.orders.grouping import Merge, compress, lengths, merge, near, plane_through, random
from kmatrix.fitting.orders.partitions import Level, Tree, contiguous_order

Check = Callable[[], None]
"""Called now and then during long work, which ends with whatever it raises."""
FLOOR = 1e-12
"""Relative errors below this are rounding in the numbers that were handed in."""
_DRAWN = 4  # rows drawn at a time: three always lie in a plane with one column's multiples
_FINEST = 1e-7  # distances between spaces, taken from squares, are not seen below the root of rounding
_HOPELESS = 32  # blocks on which some rows must have merged
_TRIES = 3
_SAMPLE = 256  # rows on which companions of a column are counted
_SIZES = 8  # sizes of classes that are tried before giving up
_DRAWS = 400  # four rows are in one class of eight at the first attempt with chance 1/512


def cluster_tolerances(tol: float) -> list[float]:
    """Distances up to which two directions may count as one, to be tried in turn, if ``W`` may be off by ``tol``.

    Noise as large as the tolerance moves directions by many times it; noise far smaller is better told from
    structure with a finer distance.
    """
    coarse = min(max(_FINEST, 30 * tol), 0.05)
    return [coarse] if coarse == _FINEST else [coarse, max(_FINEST, coarse / 20)]


def row_levels(
    matrix: Tensor,
    tree: Tree,
    slack: tuple[float, float],
    generator: torch.Generator,
    check: Check = lambda: None,
) -> list[Level]:
    """The levels at which the rows, in any order, fall into classes with lines or planes on the blocks of a tree.

    From the top: rows that span a line or a plane on each of the few largest blocks form small groups; on smaller
    blocks groups have equal spaces, and merge; and so on until all rows are one.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        tree: of the columns.
        slack: relative Frobenius error that may be lost at a level, and the distance up to which directions are one.
        generator: source of the random sketches.
        check: called now and then; what it raises ends the search.
    """
    tol, delta = slack
    m, n = matrix.shape
    allowed = max(tol, FLOOR) ** 2 * float(matrix.abs().square().sum())
    blocks_of = np.empty(n, dtype=np.int64)
    blocks_of[tree.order] = np.arange(n)
    bases = matrix[:, torch.from_numpy(tree.order)].reshape(m, 1, 1, n)
    labels = torch.arange(m)
    levels: list[Level] = []
    for radix in tree.radices[:-1]:
        check()
        bases = _refine(bases, radix)
        width = bases.shape[3]
        thinner, lost = compress(bases, 1)
        if bases.shape[2] > 1 and lost <= allowed:
            bases = thinner
            levels.append(Level(labels.numpy(), blocks_of // width, 1))
        found = merge(bases, delta, generator)
        if found is None and not levels and bases.shape[1] > _HOPELESS:
            break
        if found is None:
            continue
        merged, lost = compress(_join(bases, found), found.rank)
        if lost > allowed:
            continue
        bases = merged
        labels = _group_of(found)[labels]
        levels.append(Level(labels.numpy(), blocks_of // width, found.rank))
        if len(bases) == 1:
            break
    return levels[::-1]


def column_tree(
    matrix: Tensor, delta: float, generator: torch.Generator, check: Check = lambda: None
) -> Tree | None:
    """A tree of the columns when neither order is known, or ``None`` if no two columns belong together.

    It is enough to follow one shrinking class of rows: a few rows drawn at random are in one class often enough, and
    then a column meets its companions in the line or the plane that they span on these rows. These tell the whole
    class, and on the class all columns fall into groups. Then on, inside the class.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        delta: distance up to which two directions are one.
        generator: source of the draws.
        check: called now and then; what it raises ends the search.
    """
    bases = matrix.T.reshape(matrix.shape[1], 1, 1, matrix.shape[0])
    labels = torch.arange(matrix.shape[1])
    chain: list[Index] = []
    radices: list[int] = []
    while len(bases) > 1:
        found, rows = _next_level(bases, delta, generator, check)
        if found is None:
            break
        bases, _ = compress(_join(bases[..., rows], found), found.rank)
        labels = _group_of(found)[labels]
        chain.append(labels.numpy())
        radices.append(found.groups.shape[1])
    if not chain:
        return None
    if len(bases) > 1:
        radices.append(len(bases))
    else:
        chain.pop()
    return Tree("discovered", contiguous_order(chain[::-1], len(labels)), tuple(reversed(radices)))


def _next_level(
    bases: Tensor, delta: float, generator: torch.Generator, check: Check
) -> tuple[Merge | None, Tensor]:
    """Groups of columns that merge on a smaller class of rows, and that class."""
    columns = bases[:, 0]
    for rows in itertools.chain(
        _line_seeds(columns, delta, generator), _plane_seeds(columns, delta, generator, check)
    ):
        check()
        found = merge(bases[..., rows], delta, generator)
        if found is not None:
            return found, rows
    return None, torch.arange(bases.shape[3])


def _line_seeds(columns: Tensor, delta: float, generator: torch.Generator) -> Iterator[Tensor]:
    """Classes of rows seen from some columns: the first one, then random ones."""
    if columns.shape[1] > 1:
        return
    for start in (0, *torch.randint(len(columns), (_TRIES - 1,), generator=generator).tolist()):
        rows = _line_seed(columns[:, 0].roll(-start, 0), delta, generator)
        if rows is not None:
            yield rows


def _line_seed(vectors: Tensor, delta: float, generator: torch.Generator) -> Tensor | None:
    """Rows on which some column is as large a multiple of the first one as on a row drawn at random.

    Of all companions the one with the most such rows is taken.
    """
    order = torch.randperm(vectors.shape[1], generator=generator)
    row, sample = order[:1], order[:_SAMPLE]
    counts = _same_ratio(vectors[:1], vectors[1:], row, sample, delta).sum(1)
    other = 1 + int(counts.argmax())
    same = _same_ratio(vectors[:1], vectors[other : other + 1], row, order.sort().values, delta)[0]
    return same.nonzero()[:, 0] if int(same.sum()) > 1 else None


def _same_ratio(first: Tensor, others: Tensor, row: Tensor, rows: Tensor, delta: float) -> Tensor:
    """Whether ``(first, other)`` on each of some rows points where it does on one row: ``(others, rows)``."""
    cross = others[:, rows] * first[:, row] - others[:, row] * first[:, rows]
    lengths = others.abs().square() + first.abs().square()
    limit = 9 * delta * delta * lengths[:, rows] * lengths[:, row] + (delta * delta * lengths.mean()) ** 2
    same: Tensor = cross.abs().square() <= limit
    return same


def _plane_seeds(columns: Tensor, delta: float, generator: torch.Generator, check: Check) -> Iterator[Tensor]:
    """Classes of rows on which columns meet in planes, one of each size, from four rows drawn again and again.

    Rows that lie in the plane of some columns by accident do not in the plane of others.
    """
    count, dim, height = columns.shape
    if count < 4 - dim or height <= _DRAWN:
        return
    probes = random(columns, (_DRAWN, 2), generator)
    sizes: set[int] = set()
    for _ in range(min(_DRAWS, 8 * height)):
        check()
        drawn = torch.randperm(height, generator=generator)[:_DRAWN]
        starts = torch.randint(count, (4,), generator=generator).tolist()
        rows = _rows_of_class(columns, starts[0], drawn, (probes, delta))
        if rows is None:
            continue
        for start in starts[1:]:
            others = _rows_of_class(columns, start, drawn, (probes, delta))
            rows = rows if others is None else rows & others
        size = int(rows.sum())
        if size not in sizes:
            sizes.add(size)
            yield rows.nonzero()[:, 0]
        if len(sizes) == _SIZES:
            return


def _rows_of_class(columns: Tensor, start: int, drawn: Tensor, sight: tuple[Tensor, float]) -> Tensor | None:
    """Mask of the rows on which column ``start`` and its companions on the drawn rows lie in one plane."""
    members = _companions(columns[..., drawn].roll(-start, 0), *sight)
    if members is None:
        return None
    rows = columns[members.roll(start)].flatten(0, 1).mT
    return _within(rows, _row_basis(rows[drawn], sight[1]), sight[1])


def _companions(seen: Tensor, probes: Tensor, delta: float) -> Tensor | None:
    """Mask of the columns in one plane with the first one, on the few rows seen."""
    if seen.shape[1] == 1:
        size = lengths(seen).unsqueeze(-1)
        return plane_through(seen / torch.where(size > 0, size, 1.0), probes, delta)
    plane = _row_basis(seen[0], delta)
    members = _within(seen.flatten(0, 1), plane, delta).reshape(len(seen), -1).all(1)
    return members if len(plane) == 2 and int(members.sum()) > 1 else None


def _row_basis(rows: Tensor, delta: float) -> Tensor:
    """Orthonormal rows spanning the given ones, two at most."""
    _, s, vh = torch.linalg.svd(rows, full_matrices=False)
    basis: Tensor = vh[: min(2, int((s > near(delta) * s[0]).sum()))]
    return basis


def _within(rows: Tensor, plane: Tensor, delta: float) -> Tensor:
    """Mask of the rows that lie in the span of an orthonormal basis."""
    outside = lengths(rows - rows @ plane.mH @ plane)
    inside: Tensor = outside <= near(delta) * lengths(rows)
    return inside


def _refine(bases: Tensor, radix: int) -> Tensor:
    """Cut every block into ``radix`` blocks: ``(elements, blocks * radix, dim, width / radix)``."""
    count, blocks, dim, width = bases.shape
    cut = bases.reshape(count, blocks, dim, radix, width // radix).transpose(2, 3)
    return cut.reshape(count, blocks * radix, dim, width // radix)


def _join(bases: Tensor, found: Merge) -> Tensor:
    """Bases of the groups, not yet reduced: ``(groups, blocks, size * dim, width)``."""
    return bases[found.groups].transpose(1, 2).flatten(2, 3)


def _group_of(found: Merge) -> Tensor:
    """For each element the number of its group."""
    number = torch.empty(found.groups.numel(), dtype=torch.int64)
    number[found.groups.flatten()] = torch.arange(len(found.groups)).repeat_interleave(found.groups.shape[1])
    return number
