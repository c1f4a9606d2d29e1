"""The families a search without a named structure goes through, from cheap to dear.

Each is a function from the problem to a proposal. It offers its cheapest member that meets the tolerance; if that
would cost more than the cheapest answer so far, the best member just below that cost, so that the history shows how
close the family came; or it declines and says why.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import torch
from torch import Tensor

from kmatrix._permutations import Index, is_identity
from kmatrix.fitting.chains.members import chain_matrix
from kmatrix.fitting.energy import fewest, tails
from kmatrix.fitting.orders.discovery import NotFound, discover
from kmatrix.fitting.orders.tiles import tile_butterfly
from kmatrix.fitting.orders.toeplitz import find_toeplitz_order
from kmatrix.fitting.problem import Declined, Family, Problem, Proposal, counted
from kmatrix.fitting.projections.nearest import project
from kmatrix.fitting.projections.pursuit import pursue, split
from kmatrix.fitting.search import samples
from kmatrix.fitting.search.grids import blast, block_low_rank
from kmatrix.structures import (
    BlockCirculant,
    ChainMatrix,
    Circulant,
    Diagonal,
    Hankel,
    Kronecker,
    LowRank,
    PermutationMatrix,
    Sparse,
    Structure,
    StructuredMatrix,
    Toeplitz,
    product,
)

OVERSAMPLING = 8
SMALL_SHARE = 8
SPLITTINGS = 48
PURSUIT_FLOOR = 1e-6


def sparse(problem: Problem) -> Proposal:
    """Keep the largest entries."""
    energies = problem.dense.abs().square().flatten().sort(descending=True).values
    needed = fewest(tails(energies), (problem.tol * problem.norm) ** 2)
    # Every entry costs its value and its position.
    kept = min(needed, problem.max_params() // 2)
    if kept < 1 or kept > problem.dense.numel() // 4 or (problem.settled and kept < needed):
        raise Declined(f"the tolerance needs {needed:,} of {problem.dense.numel():,} entries")
    note = f"the {counted(kept, 'largest entry', 'largest entries')}"
    note += "" if kept == needed else f"; the tolerance needs {needed:,}"
    return Proposal(project(Sparse(kept), problem.dense), note)


def permutation(problem: Problem) -> Proposal:
    """One entry in every row and column: a permutation, times a diagonal if the entries are not all one."""
    m, n = problem.shape
    index = problem.dense.abs().argmax(1)
    if m != n or len(set(index.tolist())) != n:
        raise Declined("the largest entries of the rows do not stand in different columns")
    entries = problem.dense[torch.arange(n), index]
    matrix: StructuredMatrix = PermutationMatrix.from_index(index, dtype=problem.dense.dtype)
    if torch.equal(entries, torch.ones_like(entries)):
        return Proposal(matrix, "the position of the largest entry of each row")
    diagonal = ChainMatrix.from_weights(Diagonal(), (n, n), [entries.reshape(1, 1, 1, n)])
    return Proposal(product(diagonal, matrix), "the largest entry of each row")


def low_rank(problem: Problem) -> Proposal:
    """Truncate the singular value decomposition."""
    m, n = problem.shape
    most = problem.max_params() // (m + n)
    if most < 1:
        raise Declined("already rank 1 costs more than the best so far")
    if most <= min(m, n) // SMALL_SHARE:
        left = float(torch.linalg.vector_norm(_left_of_rank(problem, most))) / max(problem.norm, 1e-300)
        if left > 2 * problem.tol:
            raise Declined(f"rank {most}, as many numbers as the best so far, leaves about {left:.1e}")
    needed = fewest(tails(problem.svd[1].square()), (problem.tol * problem.norm) ** 2)
    rank = min(needed, most)
    note = f"truncated SVD of rank {rank}" + (
        "" if rank == needed else f"; the tolerance needs rank {needed}"
    )
    return Proposal(project(LowRank(rank), problem.dense), note)


def _left_of_rank(problem: Problem, rank: int) -> Tensor:
    """About what the best matrix of a rank leaves of the target; small ranks by a sketch instead of a decomposition."""
    dense = problem.dense
    if rank > min(problem.shape) // SMALL_SHARE:
        u, s, vh = problem.svd
        return dense - (u[:, :rank] * s[:rank]) @ vh[:rank]
    mix = torch.randn(dense.shape[1], rank + OVERSAMPLING, dtype=dense.dtype, generator=problem.generator())
    basis = torch.linalg.qr(dense @ (dense.mH @ (dense @ mix))).Q
    rest: Tensor = dense - basis @ (basis.mH @ dense)
    return rest


def _averaged(problem: Problem, structure: Structure) -> Proposal:
    m, n = problem.shape
    structure.check(m, n)
    return Proposal(project(structure, problem.dense), "averages along the (wrapped) diagonals")


def circulant(problem: Problem) -> Proposal:
    """Average along the wrapped diagonals."""
    if problem.shape[0] != problem.shape[1]:
        raise Declined("not square")
    return _averaged(problem, Circulant())


def toeplitz(problem: Problem) -> Proposal:
    """Average along the diagonals."""
    return _averaged(problem, Toeplitz())


def hankel(problem: Problem) -> Proposal:
    """Average along the antidiagonals."""
    return _averaged(problem, Hankel())


def shuffled_toeplitz(problem: Problem) -> Proposal:
    """Find the order of rows or columns under which the matrix is circulant, Toeplitz or Hankel."""
    order = find_toeplitz_order(problem.dense, tol=problem.tol)
    if not order.found:
        raise Declined(order.reason)
    if is_identity(order.row_perm) and is_identity(order.col_perm):
        raise Declined("the natural order is the one found")
    permuted = problem.dense[torch.from_numpy(order.row_perm)][:, torch.from_numpy(order.col_perm)]
    kinds: dict[str, Structure] = {"circulant": Circulant(), "toeplitz": Toeplitz(), "hankel": Hankel()}
    inner = project(kinds[order.kind], permuted)
    return Proposal(unpermute(inner, order.row_perm, order.col_perm), f"{order.kind} after {order.reason}")


def unpermute(matrix: StructuredMatrix, rows: Index, columns: Index) -> StructuredMatrix:
    """The matrix ``W`` of which ``W[rows][:, columns]`` is given."""
    parts = [matrix]
    if not is_identity(rows):
        parts.insert(
            0, PermutationMatrix.from_index(torch.argsort(torch.from_numpy(rows)), dtype=matrix.dtype)
        )
    if not is_identity(columns):
        parts.append(PermutationMatrix.from_index(torch.from_numpy(columns), dtype=matrix.dtype))
    return product(*parts)


def block_circulant(problem: Problem) -> Proposal:
    """Average within each block, for the block sizes that divide both sides; the largest that meets the tolerance."""
    m, n = problem.shape
    common = math.gcd(m, n)

    def affordable(k: int) -> bool:
        return m * n // k <= problem.max_params() and BlockCirculant(k).flops(m, n) <= problem.max_flops()

    sizes = [k for k in range(common, 1, -1) if common % k == 0 and affordable(k)]
    if not sizes:
        raise Declined("no block size divides both sides and is cheaper than the best so far")
    if problem.settled:
        sizes = [k for k in sizes if not samples.breaks_wrapped_diagonals(problem, k)]
        if not sizes:
            raise Declined("the wrapped diagonals are not constant in blocks of any size")
    for k in sizes:
        problem.check_time()
        matrix = project(BlockCirculant(k), problem.dense)
        with torch.no_grad():
            gap = float(torch.linalg.vector_norm(problem.dense - matrix.to_dense()))
        if gap <= problem.tol * problem.norm or k == sizes[-1]:
            return Proposal(matrix, f"blocks of {k}, wrapped diagonals averaged")
    raise Declined("no block size was tried")


def kronecker(problem: Problem) -> Proposal:
    """Sums of Kronecker products, for the splittings of the sides that cost least for each product."""
    m, n = problem.shape

    def numbers(left: tuple[int, int]) -> int:
        return left[0] * left[1] + (m // left[0]) * (n // left[1])

    offers: list[tuple[bool, float, int, tuple[int, int], int]] = []
    interrupted = False
    for m1, n1 in sorted(itertools.product(_divisors(m), _divisors(n)), key=numbers)[:SPLITTINGS]:
        size = numbers((m1, n1))
        most = min(problem.max_params() // size, problem.max_flops() // Kronecker((m1, n1)).flops(m, n))
        # With a 1 x 1 factor the splitting is dense in disguise, with a row and a column it is low rank.
        if (m1, n1) in ((1, 1), (m, n), (1, n), (m, 1)) or most < 1:
            continue
        if problem.late and offers:
            interrupted = True
            break
        problem.check_time()
        if problem.settled and samples.kronecker_rank(problem, m1, n1) > most:
            continue
        rank, error = _kronecker_rank(problem, m1, n1, most)
        met = error <= problem.tol
        offers.append((not met, 0.0 if met else error, rank * size, (m1, n1), rank))
    if not offers and problem.settled:
        raise Declined("a sample says that every splitting costs more than the best so far")
    if not offers:
        raise Declined("the sides have no splitting that is cheaper than the best so far")
    _, _, _, left, rank = min(offers)
    right = (m // left[0], n // left[1])
    note = f"{counted(rank, 'product')} of {left} and {right}, by SVD of the rearranged matrix"
    return Proposal(project(Kronecker(left, rank), problem.dense), note, interrupted)


def _kronecker_rank(problem: Problem, m1: int, n1: int, most: int) -> tuple[int, float]:
    """Terms that a splitting needs, at most ``most``, and the relative error it then has, from a random sketch."""
    m, n = problem.shape
    grid = problem.dense.reshape(m1, m // m1, n1, n // n1).transpose(1, 2)
    tall = grid.reshape(m1 * n1, (m // m1) * (n // n1))
    tall = tall if tall.shape[0] >= tall.shape[1] else tall.mT
    width = min(tall.shape[1], min(most, 24) + OVERSAMPLING)
    mix = torch.randn(tall.shape[1], width, dtype=tall.dtype, generator=problem.generator())
    basis = torch.linalg.qr(tall @ mix).Q
    energies = torch.linalg.svdvals(basis.mH @ tall).square()
    missed = max(problem.norm**2 - float(energies.sum()), 0.0)
    # Differences of squares lose half the digits: below that, an exact remainder is worth its product.
    if missed < 1e-12 * problem.norm**2:
        missed = float(torch.linalg.vector_norm(tall - basis @ (basis.mH @ tall))) ** 2
    left = tails(energies) + missed
    rank = min(fewest(left, (problem.tol * problem.norm) ** 2), most, len(energies))
    return rank, math.sqrt(float(left[rank])) / max(problem.norm, 1e-300)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def butterfly(problem: Problem) -> Proposal:
    """Find row and column orders under which the matrix is a butterfly of tile rank one or two."""
    found = discover(problem.dense, problem.tol, seed=problem.seed, check=problem.check_time)
    if isinstance(found, NotFound):
        ways = dict.fromkeys(reason.partition(":")[0] for reason in found.reasons)
        raise Declined(f"no order found in which it is shorter than dense; looked at: {', '.join(ways)}")
    note = f"{found.how}, tile ranks {list(found.ranks)}"
    matrix = chain_matrix(found.factors, found.row_perm, found.col_perm)
    return Proposal(matrix, note, found.interrupted)


def sparse_plus_low_rank(problem: Problem) -> Proposal:
    """Entries that stand out of a low rank: find both by principal component pursuit."""
    m, n = problem.shape
    budget = min(problem.max_params(), m * n // 2)
    rank = budget // 2 // (m + n)
    kept = (budget - rank * (m + n)) // 2
    if rank < 1:
        raise Declined("the budget is too small for both parts")
    rest = _left_of_rank(problem, rank).abs().square().flatten()
    missed = float(rest.sum() - rest.topk(max(1, kept)).values.sum())
    allowed = (problem.tol * problem.norm) ** 2
    if missed > max(0.8 * _left_of_noise(kept / (m * n)) * float(rest.sum()), allowed):
        raise Declined(f"entries do not stand out of what rank {rank} leaves more than they would of noise")
    mask, rank = pursue(problem.dense, tol=max(problem.tol / 10, PURSUIT_FLOOR), check=problem.check_time)
    entries = counted(int(mask.sum()), "entry", "entries")
    needed = 2 * int(mask.sum()) + rank * (m + n)
    if rank < 1 or needed > problem.max_params():
        raise Declined(f"the split found has {entries} and rank {rank}, over the best so far")
    return Proposal(split(problem.dense, mask, rank, tol=problem.tol), f"{entries} plus rank {rank}")


def _left_of_noise(share: float) -> float:
    """Energy that is left of normal noise when this share of its largest entries is taken away."""
    edge = NormalDist().inv_cdf(1 - share / 2)
    return 1 - 2 * edge * NormalDist().pdf(edge) - share


FAMILIES: tuple[tuple[str, Family], ...] = (
    ("permutation", permutation),
    ("circulant", circulant),
    ("Toeplitz", toeplitz),
    ("Hankel", hankel),
    ("shuffled Toeplitz", shuffled_toeplitz),
    ("butterfly", butterfly),
    ("sparse", sparse),
    ("block circulant", block_circulant),
    ("Kronecker", kronecker),
    ("low rank", low_rank),
    ("block low rank", block_low_rank),
    ("BLAST", blast),
    ("tile butterfly", tile_butterfly),
    ("sparse + low rank", sparse_plus_low_rank),
)
"""Every family of the search, from cheap to dear; names as the history shows them."""
