"""Dense in, nearest member of a structure out, for the families with a direct method: ``project`` and its rules.

Everything is computed in double precision and returned in the number type of the target. Families with tied
diagonals register their rules in ``projections_tied``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Tensor, nn

from kmatrix._checks import DTYPES
from kmatrix._errors import ArgumentError, DtypeError, FitError, complaint
from kmatrix._permutations import Index, inverse, is_identity
from kmatrix.fitting.projections.alternating import alternate_sum, kronecker_factors
from kmatrix.fitting.projections.blast import blast_factors
from kmatrix.fitting.projections.tiles import Tiling, orders_of
from kmatrix.fitting.projections.truncation import truncate
from kmatrix.structures import (
    BLAST,
    ChainMatrix,
    Dense,
    Kronecker,
    Sparse,
    SparseMatrix,
    Structure,
    StructuredMatrix,
    Sum,
    Transpose,
    sum_of,
)
from kmatrix.structures._grids import as_pair
from kmatrix.structures.chain import ChainStructure, Factor
from kmatrix.structures.compose import transpose

Permutations = Sequence[Tensor | Index]
LEAST_SQUARES = "a local solution, by alternating least squares"


@singledispatch
def project(
    structure: Structure, target: Tensor, *, generator: torch.Generator | None = None
) -> StructuredMatrix:
    """The member of a structure nearest to a dense matrix in the Frobenius norm.

    Exact minimisers: chains of one or two untied factors (dense, diagonal, block diagonal, low rank, block
    tensor-train, block low rank, Monarch of order two, group-and-shuffle), sparse, Kronecker sums whose
    factors divide the shape. Local minimisers: other Kronecker sums, BLAST, sums of structures.

    Args:
        structure: the family.
        target: an ``(m, n)`` tensor, real or complex; not changed.
        generator: randomness of the cold starts (BLAST); a fixed seed if not given.

    Returns:
        The member, in the number type and on the device of the target.

    Raises:
        FitError: if the family has neither a closed form nor an alternation.
        ArgumentError: if the target is not a finite matrix of a shape that the structure has.

    Example:
        >>> import torch, kmatrix as km
        >>> from kmatrix.fitting.projections.nearest import project
        >>> W = torch.arange(12.0).reshape(3, 4)
        >>> A = project(km.LowRank(rank=2), W)  # W has rank 2
        >>> bool(torch.allclose(A.to_dense(), W, atol=1e-5))
        True
    """
    raise _refusal(structure, "no closed form")


@singledispatch
def projection_note(structure: Structure, m: int, n: int) -> str:
    """What ``project`` finds for a target of shape ``(m, n)``: the nearest member, or a local solution, and how.

    Example:
        >>> import kmatrix as km
        >>> projection_note(km.LowRank(2), 8, 8), projection_note(km.BLAST(2, 2), 8, 8)
        ('nearest member, in closed form', 'a local solution, by alternating least squares')
    """
    return "nearest member, in closed form"


def _refusal(structure: Structure, reason: str) -> FitError:
    way_out = "use km.fit(W, structure), which has other methods"
    return FitError(complaint("project", "structure", structure, reason, way_out))


def wide(target: Tensor, structure: Structure) -> Tensor:
    """The target in double precision on the CPU, after checking that it is a finite matrix of an admitted shape."""
    dense = finite_matrix(target, f"project onto {type(structure).__name__}")
    structure.check(*target.shape)
    return dense


def finite_matrix(target: Tensor, where: str) -> Tensor:
    """The target in double precision on the CPU, after checking that it is a finite matrix of any shape."""
    if target.ndim != 2 or 0 in target.shape:
        shape = tuple(target.shape)
        raise ArgumentError(complaint(where, "target.shape", shape, "no matrix", "pass (m, n)"))
    if target.dtype not in DTYPES:
        way_out = "convert it first, for example target.double()"
        raise DtypeError(complaint(where, "target.dtype", target.dtype, "not floating or complex", way_out))
    dtype = torch.complex128 if target.is_complex() else torch.float64
    dense = target.detach().resolve_conj().resolve_neg().to("cpu", dtype)
    # A finite sum proves finite entries, at a fraction of the cost of looking at each.
    if not bool(torch.isfinite(dense.sum())) and not bool(torch.isfinite(dense).all()):
        shape, reason = tuple(target.shape), "has NaN or infinite entries"
        raise ArgumentError(complaint(where, "target", f"tensor{shape}", reason, "remove them first"))
    return dense


def like(matrix: StructuredMatrix, target: Tensor) -> StructuredMatrix:
    """The result in the precision and on the device of the target."""
    return matrix.to(target.device, target.dtype.to_real() if target.dtype.is_complex else target.dtype)


@project.register(ChainStructure)
def _(
    structure: ChainStructure, target: Tensor, *, generator: torch.Generator | None = None
) -> StructuredMatrix:
    return project_chain(target, structure)


def project_chain(
    target: Tensor, structure: ChainStructure, permutations: Permutations = ()
) -> StructuredMatrix:
    """The nearest chain of one factor, or of two untied ones; globally optimal in the Frobenius norm.

    One factor: the entries on its support, averaged where weights are tied. Two factors cut the matrix into
    tiles, one for every block of the first and block of the second; the values that run between the two
    blocks are the rank of the tile. Tiles share no numbers, so truncating the SVD of each is optimal. Where
    blocks are padded, the rows and columns outside the matrix are zero in the target and in the minimiser.

    Args:
        target: an ``(m, n)`` tensor.
        structure: the family.
        permutations: index arrays of its permutation stages, in order of application; those that a new member
            starts with if not given.

    Raises:
        FitError: if the chain has more factors, or two of which one is tied.

    Reference: Monarch, arXiv 2204.00595, theorem 1; group-and-shuffle, arXiv 2406.10019, algorithm 1.
    """
    dense = wide(target, structure)
    m, n = dense.shape
    empty = structure.empty(m, n, device="cpu")
    if permutations:
        empty.set_permutations(permutations)
    layout, factors = empty.layout, empty.layout.factors
    if not (len(factors) == 1 or (len(factors) == 2 and not any(f.tie for f in factors))):
        tied = ", some tied" if len(factors) == 2 else ""
        raise _refusal(structure, f"no closed form for {len(factors)} factors{tied}")
    padded = _resized(dense, layout.rows, layout.cols)
    if len(factors) == 1:
        columns, outer = orders_of(empty)
        inside = _resized(torch.ones_like(dense, dtype=torch.float64), layout.rows, layout.cols)
        framed, inside = (_submatrix(t, inverse(outer), columns) for t in (padded, inside))
        weights = [_on_support(framed, inside, factors[0])]
    else:
        weights = _tile_weights(padded, empty)
    return like(ChainMatrix.from_weights(structure, (m, n), weights, permutations), target)


def _on_support(framed: Tensor, inside: Tensor, factor: Factor) -> Tensor:
    """The entries of a matrix on the support of a factor, averaged over ties where they lie inside the matrix."""
    a, b, c, d = factor.pattern
    entries, counts = (
        t.reshape(a, b, d, a, c, d).diagonal(dim1=0, dim2=3).diagonal(dim1=1, dim2=3).permute(2, 0, 1, 3)
        for t in (framed, inside)
    )
    axes = [axis for name, axis in (("a", 0), ("d", 3)) if name in factor.tie]
    if not axes:
        return entries.contiguous()
    return entries.sum(axes, keepdim=True) / counts.sum(axes, keepdim=True).clamp_min(1)


def _resized(matrix: Tensor, rows: int, cols: int) -> Tensor:
    """Zeros added or entries cut off at the bottom and at the right."""
    if matrix.shape == (rows, cols):
        return matrix
    return nn.functional.pad(matrix, (0, cols - matrix.shape[1], 0, rows - matrix.shape[0]))


def _submatrix(matrix: Tensor, rows: Index, columns: Index) -> Tensor:
    for dim, order in enumerate((rows, columns)):
        if not is_identity(order):
            matrix = matrix.index_select(dim, torch.from_numpy(order))
    return matrix


def _tile_weights(padded: Tensor, empty: ChainMatrix) -> list[Tensor]:
    """The weights of two factors whose product is nearest to a matrix of the size of their chain."""
    tiling = Tiling.of(empty)
    (height, width), (b, c) = tiling.grid, (tiling.second.b, tiling.first.c)
    tiles = _submatrix(padded, tiling.rows.ravel(), tiling.columns.ravel())
    tiles = tiles.reshape(height, b, width, c).transpose(1, 2).flatten(0, 1)
    values = tiling.first.rows
    left, right = tiles.new_zeros(values, b), tiles.new_zeros(values, c)
    for rank, used, places in tiling.groups:
        u, v = truncate(tiles[used], rank)
        left[places], right[places] = u.mT, v
    return tiling.weights(left, right)


@project.register(Kronecker)
def _(structure: Kronecker, target: Tensor, *, generator: torch.Generator | None = None) -> StructuredMatrix:
    return project_kronecker(target, structure)


@projection_note.register(Kronecker)
def _(structure: Kronecker, m: int, n: int) -> str:
    (m1, n1), (m2, n2) = structure.shapes(m, n)
    return projection_note(Dense(), m, n) if (m1 * m2, n1 * n2) == (m, n) else LEAST_SQUARES


def project_kronecker(target: Tensor, structure: Kronecker) -> StructuredMatrix:
    """The nearest sum of Kronecker products: an SVD of the matrix with its tiles as rows.

    Globally optimal in the Frobenius norm where the factors divide the shape. Where tiles are padded, the SVD
    starts an alternating least squares over the entries that exist: a local solution, of a problem whose minimum
    need not be attained.

    Args:
        target: an ``(m, n)`` tensor.
        structure: the family.

    Reference: Van Loan and Pitsianis, "Approximation with Kronecker products", 1993.
    """
    dense = wide(target, structure)
    m, n = dense.shape
    (m1, n1), (m2, n2) = structure.shapes(m, n)
    left, right = kronecker_factors(dense, (m1, n1), (m2, n2), structure.rank)
    if structure.right_first(m, n):
        first = right.reshape(1, -1, n2, 1)
        second = left.reshape(1, m1, -1, 1)
    else:
        first = left.transpose(1, 2).reshape(1, -1, n1, 1)
        second = right.transpose(0, 1).reshape(1, m2, -1, 1)
    return like(ChainMatrix.from_weights(structure, (m, n), [first, second]), target)


@project.register(BLAST)
def _(structure: BLAST, target: Tensor, *, generator: torch.Generator | None = None) -> StructuredMatrix:
    return project_blast(target, structure, generator=generator)


@projection_note.register(BLAST)
def _(structure: BLAST, m: int, n: int) -> str:
    return LEAST_SQUARES


def project_blast(
    target: Tensor, structure: BLAST, *, sweeps: int = 100, generator: torch.Generator | None = None
) -> StructuredMatrix:
    """A good BLAST matrix by alternating least squares from several starts; a local minimum, no guarantee.

    Starts: a truncated SVD of the whole (all couplings one), truncated SVDs of the tiles (each coupling
    selects its own share of the rank), and a random one. The result is never worse than low rank of the same
    rank, nor than block low rank of tile rank ``rank / nblocks``.

    Args:
        target: an ``(m, n)`` tensor.
        structure: the family.
        sweeps: most updates of all factors, per start.
        generator: randomness of the cold start; a fixed seed if not given.

    Reference: arXiv 2410.21262 (preconditioned alternating descent).
    """
    dense = wide(target, structure)
    m, n = dense.shape
    p, q = as_pair(structure.nblocks)
    generator = generator or torch.Generator().manual_seed(0)
    u, s, v = blast_factors(dense, (p, q), structure.rank, sweeps=sweeps, generator=generator)
    weights = [v.unsqueeze(-1), s.unsqueeze(0), u.unsqueeze(-1)]
    return like(ChainMatrix.from_weights(structure, (m, n), weights), target)


@project.register(Sparse)
def _(structure: Sparse, target: Tensor, *, generator: torch.Generator | None = None) -> StructuredMatrix:
    return project_sparse(target, structure)


def project_sparse(target: Tensor, structure: Sparse) -> StructuredMatrix:
    """The entries of largest modulus; globally optimal in the Frobenius norm."""
    return like(SparseMatrix.from_dense(wide(target, structure), structure.nnz), target)


@project.register(Transpose)
def _(structure: Transpose, target: Tensor, *, generator: torch.Generator | None = None) -> StructuredMatrix:
    turned = target.mH if structure.conjugate else target.mT
    return transpose(project(structure.of, turned, generator=generator), conjugate=structure.conjugate)


@projection_note.register(Transpose)
def _(structure: Transpose, m: int, n: int) -> str:
    return projection_note(structure.of, n, m)


@project.register(Sum)
def _(structure: Sum, target: Tensor, *, generator: torch.Generator | None = None) -> StructuredMatrix:
    return project_sum(target, structure, generator=generator)


@projection_note.register(Sum)
def _(structure: Sum, m: int, n: int) -> str:
    return "a local solution, by alternating projections"


def project_sum(
    target: Tensor, structure: Sum, *, rounds: int = 100, generator: torch.Generator | None = None
) -> StructuredMatrix:
    """A good sum of members by alternating projections, such as sparse plus low rank; a local minimum.

    Each term in turn is projected from what the others leave, which lowers the error with every step for
    terms with exact projections. Every cyclic order of the terms is started from; the best end is returned.

    Args:
        target: an ``(m, n)`` tensor.
        structure: the family; every term must be one that ``project`` takes.
        rounds: most updates of every term, per start.
        generator: passed on to the terms.

    Raises:
        FitError: if a term is not one that ``project`` takes.
    """
    dense = wide(target, structure)

    def onto(term: Structure, rest: Tensor) -> StructuredMatrix:
        return project(term, rest, generator=generator)

    return like(sum_of(*alternate_sum(dense, structure.terms, onto, rounds=rounds)), target)
