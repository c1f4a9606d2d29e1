"""Tile-rank butterflies for a tolerance: under which known orders, with which radices and ranks, is a matrix cheap?

This is the approximate counterpart of ``discovery``: orders come from a short list, ranks from the tolerance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kmatrix._permutations import Index, digit_reversal
from kmatrix.fitting.chains.hierarchical import hierarchical
from kmatrix.fitting.chains.members import chain_matrix
from kmatrix.fitting.orders.partitions import Tree, known_trees
from kmatrix.fitting.orders.radices import RadixPlan, least_numbers, plan_radices, tile_rank
from kmatrix.fitting.problem import Declined, Problem, Proposal

TRIED = 3
POWER_STEPS = 8
DOUBT = 0.9  # a few steps see somewhat less than the largest singular value
HOPELESS = 1.5  # plans are estimates: one this far above the cheapest answer is not worth factorising


def tile_butterfly(problem: Problem) -> Proposal:
    """The cheapest tile-rank butterfly within the tolerance, over the known orders of rows and columns."""
    m, n = problem.shape
    if min(m, n) < 4:
        raise Declined("too small for tiles")
    row_trees, column_trees = known_trees(m), known_trees(n)
    if not row_trees or not column_trees:
        raise Declined(f"{m} or {n} has a prime factor over 64: no tiles of equal size")
    limit = problem.max_params()
    least = least_numbers(row_trees[0].radices, column_trees[0].radices[::-1], rank=_rank(problem))
    if least > limit:
        raise Declined(f"chains of full rank hold {least:,} numbers or more, the best so far has fewer")
    plans = _plans(problem, row_trees, column_trees)
    if not plans:
        raise Declined("tiles have full rank, or one that costs too much, under every known order")
    best: Proposal | None = None
    if plans[0][0].num_params > _hopeless(problem):
        raise Declined(
            f"the tolerance needs about {plans[0][0].num_params:,} numbers under the best known order"
        )
    for radices, row_tree, column_tree in plans[:TRIED]:
        if problem.late and best is not None:
            return replace(best, interrupted=True)
        problem.check_time()
        rows, columns = _strided(row_tree), column_tree.order
        permuted = problem.dense[torch.from_numpy(rows)][:, torch.from_numpy(columns)]
        result = hierarchical(permuted, radices.pairs, tol=problem.tol)
        if result.num_params <= limit or best is None:
            limit = min(limit, result.num_params - 1)
            note = (
                f"tiles on {row_tree.how} rows and {column_tree.how} columns, tile ranks {list(result.ranks)}"
            )
            best = Proposal(chain_matrix(result, rows, columns), note)
    if best is None:
        raise Declined("no plan held")
    return best


def _hopeless(problem: Problem) -> float:
    """Numbers above which a plan is not worth factorising."""
    return problem.max_params() * (1.0 if problem.settled else HOPELESS)


def _rank(problem: Problem) -> float:
    """A rank that no matrix within the tolerance falls short of by much, where an answer is settled; else nothing.

    No matrix has less rank than ``(||W||_F / ||W||_2)^2``, and orthogonal ones, such as most transforms, have no more.
    """
    if not problem.settled or problem.norm == 0:
        return 0.0
    dense, largest = problem.dense, 0.0
    x = torch.randn(dense.shape[1], dtype=dense.dtype, generator=problem.generator())
    for _ in range(POWER_STEPS):
        y = dense @ (x / torch.linalg.vector_norm(x))
        largest = max(largest, float(torch.linalg.vector_norm(y)))
        x = dense.mH @ (y / torch.linalg.vector_norm(y))
    return DOUBT * (problem.norm / largest) ** 2


def _strided(tree: Tree) -> Index:
    """The order in which the tree's blocks are residues instead of runs, root first."""
    return tree.order[digit_reversal(tree.radices)]


def _plans(
    problem: Problem, row_trees: Sequence[Tree], column_trees: Sequence[Tree]
) -> list[tuple[RadixPlan, Tree, Tree]]:
    """Radices for the promising pairs of orders, cheapest first."""
    generator = problem.generator()
    scored = []
    for row_tree, column_tree in itertools.product(row_trees, column_trees):
        problem.check_time()
        permuted = problem.dense[torch.from_numpy(_strided(row_tree))][:, torch.from_numpy(column_tree.order)]
        share, least = _middle(permuted, row_tree, column_tree, problem.tol, generator)
        if least <= _hopeless(problem):
            scored.append((share, row_tree, column_tree))
    scored.sort(key=lambda entry: entry[0])
    m, n = problem.shape
    plans = []
    for share, row_tree, column_tree in scored[:TRIED]:
        if share >= 1.0:
            continue
        problem.check_time()
        permuted = problem.dense[torch.from_numpy(_strided(row_tree))][:, torch.from_numpy(column_tree.order)]
        columns = tuple(reversed(column_tree.radices))
        radices = plan_radices(permuted, row_tree.radices, columns, tol=problem.tol, generator=generator)
        if radices.num_params < m * n:
            plans.append((radices, row_tree, column_tree))
    return sorted(plans, key=lambda entry: entry[0].num_params)


def _middle(
    matrix: Tensor, row_tree: Tree, column_tree: Tree, tol: float, generator: torch.Generator
) -> tuple[float, int]:
    """Rank of the squarest tiles as a share of full rank, and the numbers a chain then holds at least: a quick look."""
    m, n = matrix.shape
    written = [math.prod(row_tree.radices[:i]) for i in range(len(row_tree.radices) + 1)]
    read = [math.prod(column_tree.radices[j:]) for j in range(len(column_tree.radices) + 1)]
    classes = min(written, key=lambda s: abs(math.log(s * s / m)))
    block = min(read, key=lambda s: abs(math.log(s * s / n)))
    if min(m // classes, block) < 2:
        return 0.5, 0
    rank = tile_rank(matrix, classes, block, tol=tol, generator=generator)
    at = (written.index(classes), read[::-1].index(block))
    least = least_numbers(row_tree.radices, column_tree.radices[::-1], at=at, tiles=rank)
    return rank / min(m // classes, block), least
