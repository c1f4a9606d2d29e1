"""Families of tiles on a grid in the search: block low rank, whose tiles decide alone, and BLAST, whose tiles share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kmatrix.fitting.energy import fewest, tails
from kmatrix.fitting.problem import Declined, Problem, Proposal
from kmatrix.fitting.projections.nearest import project, project_blast
from kmatrix.fitting.search import samples
from kmatrix.structures import BLAST, BlockLowRank, StructuredMatrix

GRIDS = (2, 4, 8, 16, 32)
SHARED = (4, 8, 10, 16)
SWEEPS, TRIAL_SWEEPS = 40, 16
NOTE = "alternating least squares on {0} x {0} tiles, rank {1}"
LOCAL = 1e-6
"""Below this tolerance alternation, which closes in slowly, is left to the least rank, where it ends at members."""
FAR = 2.0
AFFORDABLE = 3 * 10**7
"""Entries times rank of a BLAST matrix whose alternation takes a few seconds at most."""


def block_low_rank(problem: Problem) -> Proposal:
    """Truncate the singular value decomposition of every tile of a square grid, all at one rank."""
    m, n = problem.shape
    allowed = (problem.tol * problem.norm) ** 2
    offers = []
    for p in GRIDS:
        most = problem.max_params() // BlockLowRank(p, 1).num_params(m, n)
        if 2 * p > min(m, n) or most < 1:
            continue
        problem.check_time()
        tiles = _tiles(problem.dense, p)
        if problem.settled and samples.least_left(tiles.flatten(0, 1), most) > allowed:
            continue
        left = tails(torch.linalg.svdvals(tiles).square()).sum((0, 1))
        needed = fewest(left, allowed)
        rank = min(needed, most)
        cost = rank * BlockLowRank(p, 1).num_params(m, n)
        missed = float(left[rank]) if needed > most else 0.0
        offers.append((needed > most, missed, cost, p, rank, needed))
    if not offers:
        raise Declined("no grid has tiles of a rank that is cheaper than the best so far")
    _, _, _, p, rank, needed = min(offers)
    note = f"truncated SVDs of {p} x {p} tiles, rank {rank}"
    note += "" if rank == needed else f"; the tolerance needs rank {needed}"
    return Proposal(project(BlockLowRank(p, rank), problem.dense), note)


def blast(problem: Problem) -> Proposal:
    """Tiles that share their bases along rows and columns: alternating least squares, the rank by bisection.

    A block row and a block column have at most the rank of the couplings, so their singular values say at once which
    ranks are too low. The rest is a local search, which may miss a member that there is.
    """
    candidates = _promising(problem)
    # Generic members have the least rank there can be, and are found at that rank and hardly above it.
    for p, least, _ in candidates:
        problem.check_time()
        error, matrix = _fitted(problem, p, least, TRIAL_SWEEPS)
        if error <= problem.tol:
            return Proposal(matrix, NOTE.format(p, least))
    if problem.tol < LOCAL:
        raise Declined("not found at the least rank that block rows and columns allow")
    tried: list[tuple[float, int, int, int]] = []
    for p, least, most in candidates:
        problem.check_time()
        error, matrix = _fitted(problem, p, most, TRIAL_SWEEPS)
        tried.append((error, p, least, most))
    error, p, least, most = min(tried)
    problem.check_time()
    # What is far off after a trial does not get there.
    sweeps = SWEEPS if error <= FAR * problem.tol else TRIAL_SWEEPS
    error, matrix = _fitted(problem, p, most, sweeps)
    if error > problem.tol:
        return Proposal(matrix, f"{NOTE.format(p, most)}; the tolerance needs more")
    while least < most and not problem.late:
        rank = (least + most) // 2
        error, smaller = _fitted(problem, p, rank, SWEEPS)
        if error <= problem.tol:
            most, matrix = rank, smaller
        else:
            least = rank + 1
    return Proposal(matrix, NOTE.format(p, most), least < most)


def _promising(problem: Problem) -> list[tuple[int, int, int]]:
    """Grids with the least rank that they need and the most that is worth it, the cheapest first."""
    m, n = problem.shape
    found = []
    for p in SHARED:
        unit = BLAST(p, 1)
        most = min(problem.max_params() // unit.num_params(m, n), problem.max_flops() // unit.flops(m, n))
        if 2 * p > min(m, n) or most < 1:
            continue
        if m * n * most > AFFORDABLE:
            raise Declined("too large for an alternation of a few seconds; name it, as in BLAST(8, rank)")
        least = _least_coupling(problem, p, most)
        if least <= most:
            found.append((least * unit.num_params(m, n), (p, least, most)))
    if not found:
        raise Declined("block rows or columns need a rank that costs more than the best so far")
    return [grid for _, grid in sorted(found)]


def _fitted(problem: Problem, p: int, rank: int, sweeps: int) -> tuple[float, StructuredMatrix]:
    matrix = project_blast(problem.dense, BLAST(p, rank), sweeps=sweeps, generator=problem.generator())
    with torch.no_grad():
        gap = float(torch.linalg.vector_norm(problem.dense - matrix.to_dense()))
    return gap / max(problem.norm, 1e-300), matrix


def _least_coupling(problem: Problem, p: int, most: int) -> int:
    """The least rank that block rows and block columns allow; beyond ``most`` only a part of them is looked at."""
    allowed = (problem.tol * problem.norm) ** 2
    tiles = _tiles(problem.dense, p)
    least = 1
    for blocks in (tiles.transpose(1, 2).flatten(2, 3), tiles.permute(1, 3, 0, 2).flatten(2, 3)):
        if samples.least_left(blocks, most) > allowed:
            return most + 1
        left = tails(torch.linalg.svdvals(blocks).square()).sum(0)
        least = max(least, fewest(left, allowed))
    return least


def _tiles(dense: Tensor, p: int) -> Tensor:
    """The tiles ``(p, p, height, width)``, the last ones padded with zeros."""
    m, n = dense.shape
    height, width = -(-m // p), -(-n // p)
    padded = nn.functional.pad(dense, (0, p * width - n, 0, p * height - m))
    return padded.reshape(p, height, p, width).transpose(1, 2)
