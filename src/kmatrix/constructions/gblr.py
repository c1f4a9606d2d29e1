"""What sums of rank-one boxes contain, at the cost of the theorem: low rank, low-rank tiles, dense blocks, Monarch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.constructions._inputs import ArrayLike
from kmatrix.constructions._inputs import like as number_type
from kmatrix.ops.definition import Pattern
from kmatrix.structures import Boxes, GBLRMatrix, Permutation, StructuredMatrix
from kmatrix.structures.permutation import PermutationMatrix


def gblr_low_rank(u: ArrayLike, v: ArrayLike) -> GBLRMatrix:
    """Write ``U V`` of rank r as r boxes of full width: cost ``r (m + n)``, that of low rank itself.

    Args:
        u: ``(m, r)`` numbers.
        v: ``(r, n)`` numbers.

    Raises:
        ArgumentError: if the shapes do not multiply.

    Example:
        >>> import torch, kmatrix as km
        >>> A = km.constructions.gblr_low_rank(torch.ones(5, 2), torch.ones(2, 3))
        >>> A.num_params, A.to_dense()[0].tolist()
        (16, [2.0, 2.0, 2.0])

    Reference: arXiv 2310.18882, Theorem 1.
    """
    left, right = _numbers("gblr_low_rank", u=u, v=v)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        reason = f"cannot multiply v of shape {tuple(right.shape)}"
        way_out = "pass (m, r) and (r, n)"
        raise ArgumentError(complaint("gblr_low_rank", "u.shape", tuple(left.shape), reason, way_out))
    (m, rank), n = left.shape, right.shape[1]
    zero = torch.zeros(rank, dtype=torch.int64)
    boxes = Boxes(zero, zero + m, zero, zero + n)
    return GBLRMatrix.from_boxes((m, n), boxes, left.mT.reshape(-1), right.reshape(-1))


def gblr_block_low_rank(left: ArrayLike, right: ArrayLike) -> GBLRMatrix:
    """Write a ``p x q`` grid of tiles ``left[i, j] @ right[i, j]`` of rank r as boxes: cost ``p q r (h + w)``.

    Args:
        left: ``(p, q, h, r)`` numbers, tiles of height ``h``.
        right: ``(p, q, r, w)`` numbers, tiles of width ``w``.

    Raises:
        ArgumentError: if the shapes do not multiply.

    Example:
        >>> import torch, kmatrix as km
        >>> A = km.constructions.gblr_block_low_rank(torch.randn(2, 3, 4, 1), torch.randn(2, 3, 1, 5))
        >>> A.shape, A.num_params  # 6 tiles of rank one, 4 + 5 numbers each
        ((8, 15), 54)

    Reference: arXiv 2310.18882, Theorem 1.
    """
    u, v = _numbers("gblr_block_low_rank", left=left, right=right)
    if u.ndim != 4 or v.ndim != 4 or u.shape[:2] != v.shape[:2] or u.shape[3] != v.shape[2]:
        reason = f"does not fit right of shape {tuple(v.shape)}"
        way_out = "pass (p, q, h, r) and (p, q, r, w)"
        raise ArgumentError(complaint("gblr_block_low_rank", "left.shape", tuple(u.shape), reason, way_out))
    (p, q, height, rank), width = u.shape, v.shape[3]
    i, j = (index.flatten() for index in torch.meshgrid(torch.arange(p), torch.arange(q), indexing="ij"))
    rows, cols = (index.repeat_interleave(rank) for index in (i * height, j * width))
    boxes = Boxes(rows, torch.full_like(rows, height), cols, torch.full_like(cols, width))
    flat = u.transpose(2, 3).reshape(-1), v.reshape(-1)
    return GBLRMatrix.from_boxes((p * height, q * width), boxes, *flat)


def gblr_block_sparse(
    blocks: ArrayLike, row_start: Sequence[int], col_start: Sequence[int], shape: tuple[int, int]
) -> GBLRMatrix:
    """Write dense ``b x c`` blocks as strips of one row (or column) each: cost ``b c + min(b, c)`` a block.

    Blocks may overlap and add up there, and may reach around the ends of the matrix.

    Args:
        blocks: ``(count, b, c)`` numbers.
        row_start: the first row of every block, in ``0 .. m-1``.
        col_start: the first column of every block, in ``0 .. n-1``.
        shape: ``(m, n)`` of the matrix.

    Raises:
        ArgumentError: if there is not one start for each block, one lies outside of the matrix, or a block is larger
            than the matrix.
        DtypeError: if starts or sides are no whole numbers.

    Example:
        >>> import torch, kmatrix as km
        >>> A = km.constructions.gblr_block_sparse(torch.ones(1, 2, 3), [1], [0], (4, 4))
        >>> A.num_params, A.to_dense().sum(1).tolist()
        (8, [0.0, 3.0, 3.0, 0.0])

    Reference: arXiv 2310.18882, Theorem 1; its rule for strips needs no multiplication by one.
    """
    where = "gblr_block_sparse"
    (values,) = _numbers(where, blocks=blocks)
    if values.ndim != 3 or not values.numel():
        got = tuple(values.shape)
        raise ArgumentError(complaint(where, "blocks.shape", got, "not blocks", "pass (count, b, c)"))
    count, height, width = values.shape
    m, n = (check_size(where, name, side) for name, side in zip("mn", shape, strict=True))
    if height > m or width > n:
        got, reason = tuple(values.shape), f"blocks of {height} x {width} in a matrix of {m} x {n}"
        raise ArgumentError(
            complaint(where, "blocks.shape", got, reason, "pass blocks that fit into the shape")
        )
    starts = (
        _starts(where, "row_start", row_start, count, m),
        _starts(where, "col_start", col_start, count, n),
    )
    # Strips along the longer side: one number a strip is a one.
    by_rows = height <= width
    strips, length = (height, width) if by_rows else (width, height)
    numbers = (values if by_rows else values.mT).reshape(-1)
    size = m if by_rows else n
    across, along = starts if by_rows else starts[::-1]
    first = ((across.unsqueeze(1) + torch.arange(strips)) % size).reshape(-1)
    begin = along.repeat_interleave(strips)
    one, full = torch.ones_like(first), torch.full_like(first, length)
    ones = torch.ones(len(first), dtype=values.dtype, device=values.device)
    if by_rows:
        return GBLRMatrix.from_boxes((m, n), Boxes(first, one, begin, full), ones, numbers)
    return GBLRMatrix.from_boxes((m, n), Boxes(begin, full, first, one), numbers, ones)


def _starts(where: str, name: str, given: Sequence[int], count: int, size: int) -> Tensor:
    """The first rows or columns of blocks as int64."""
    start = torch.as_tensor(given)
    if start.is_floating_point() or start.is_complex() or start.dtype == torch.bool:
        way_out = "round them and convert with .to(torch.int64)"
        raise DtypeError(complaint(where, f"{name}.dtype", start.dtype, "not whole numbers", way_out))
    if start.shape != (count,):
        reason, way_out = f"there are {count} blocks", "pass one number for each"
        raise ArgumentError(complaint(where, f"{name}.shape", tuple(start.shape), reason, way_out))
    bad = start[(start < 0) | (start >= size)]
    if len(bad):
        reason, way_out = f"the matrix has {size} of them", f"pass numbers in 0..{size - 1}"
        raise ArgumentError(complaint(where, name, int(bad[0]), reason, way_out))
    return start.to(torch.int64)


def gblr_of(matrix: StructuredMatrix) -> StructuredMatrix:
    """Write a chain of one or two factors as a sum of boxes, with a permutation before or behind where it needs one.

    Every number between the two factors is the middle of a rank-one term on evenly spaced rows and columns, which a
    fixed permutation brings together: none for low rank and tiles of contiguous rows, one of the rows for Monarch. The
    sum of all widths is the number of weights of the chain that matter, as the theorem says. One factor is a grid of
    dense blocks, cut into strips.

    Args:
        matrix: a chain of at most two factors: ``LowRank``, ``BlockLowRank``, ``Monarch`` of order 2,
            ``BlockTensorTrain``, ``BlockDiagonal``, and their transposes.

    Returns:
        A ``GBLRMatrix``, or the product of one with permutations.

    Raises:
        ArgumentError: if the matrix is no such chain.

    Example:
        >>> import kmatrix as km
        >>> M = km.Monarch(nblocks=4).random(16, 16)
        >>> A = km.constructions.gblr_of(M)
        >>> [type(part.structure).__name__ for part in A.members], A.num_params == M.num_params
        (['Permutation', 'GBLR'], True)

    Reference: arXiv 2310.18882, Theorem 1.
    """
    chain = matrix.single_chain("gblr_of")
    patterns = [Pattern(*pattern) for pattern in chain.patterns or ()]
    if len(patterns) > 2:
        reason = f"a chain of {len(patterns)} factors"
        name = type(matrix.structure).__name__
        raise ArgumentError(complaint("gblr_of", "matrix", name, reason, "multiply factors out to two first"))
    weights = [w.detach().expand(p) for w, p in zip(chain.weights, patterns, strict=True)]
    taken = torch.arange(patterns[-1].rows) if chain.take is None else torch.as_tensor(chain.take)
    fed = torch.arange(patterns[0].cols) if chain.gather is None else torch.as_tensor(chain.gather)
    if len(patterns) == 1:
        (p,) = patterns  # dense blocks: strips along their longer side, one number a strip is a one
        size, at = (p.cols, 0) if p.c <= p.b else (p.rows, 1)
        weights.insert(at, torch.ones(1, 1, 1, size, dtype=weights[0].dtype, device=weights[0].device))
        patterns.insert(at, Pattern(1, 1, 1, size))
    source = torch.full((matrix.shape[1],), -1)
    source[fed[fed >= 0]] = torch.arange(len(fed))[fed >= 0]
    rows = _groups(patterns[1].b, patterns[1].d, taken.cpu())
    cols = _groups(patterns[0].c, patterns[0].d, source.cpu())
    made = _boxes_between(matrix.shape, weights, patterns, rows, cols)
    return _with_permutations(made, rows.order, cols.order)


class _Groups(NamedTuple):
    """Positions brought together by the group of a factor that they belong to.

    Attributes:
        order: which position comes where.
        start: where each group begins; groups that are nowhere begin at 0.
        width: how many positions each group has.
        member: which row (or column) of its block each position is, in that order.
    """

    order: Tensor
    start: Tensor
    width: Tensor
    member: Tensor


def _groups(block: int, stride: int, index: Tensor) -> _Groups:
    """The groups of ``(a, block, stride)`` positions of a factor; ``index`` says which of them each place is, or -1."""
    group = torch.where(index < 0, -1, index // (block * stride) * stride + index % stride)
    member = index // stride % block
    count = int(group.max()) + 1
    # Groups in the order of their first place: where they lie together already, nothing is permuted.
    first = torch.full((count + 1,), len(index)).scatter_reduce(
        0, group + 1, torch.arange(len(index)), "amin"
    )
    key = first[group + 1] * (len(index) + 1) + torch.arange(len(index))
    order = key.argsort()
    width = torch.bincount(group[group >= 0], minlength=count)
    start = torch.zeros(count, dtype=torch.int64)
    placed = group[order]
    at = torch.arange(len(index))
    start.scatter_reduce_(0, placed[placed >= 0], at[placed >= 0], "amin", include_self=False)
    return _Groups(order, start, width, member[order])


def _boxes_between(
    shape: tuple[int, int],
    weights: Sequence[Tensor],
    patterns: Sequence[Pattern],
    rows: _Groups,
    cols: _Groups,
) -> GBLRMatrix:
    """One box for each number between two factors, on the groups of rows and columns that it belongs to."""
    first, second = patterns
    middle = torch.arange(first.rows)
    a1, b1, d1 = middle // (first.b * first.d), middle // first.d % first.b, middle % first.d
    a2, c2, d2 = middle // (second.c * second.d), middle // second.d % second.c, middle % second.d
    row_group, col_group = a2 * second.d + d2, a1 * first.d + d1
    boxes = Boxes(*_segments(rows, row_group), *_segments(cols, col_group))
    keep = boxes.occupied
    boxes = boxes.select(keep)
    box, row = boxes.on_rows(shape[0])
    left = weights[1][a2[keep][box], rows.member[row], c2[keep][box], d2[keep][box]]
    box, col = boxes.on_cols(shape[1])
    right = weights[0][a1[keep][box], b1[keep][box], cols.member[col], d1[keep][box]]
    return GBLRMatrix.from_boxes(shape, boxes, left, right)


def _segments(groups: _Groups, of: Tensor) -> tuple[Tensor, Tensor]:
    """Start and width of the given groups, those beyond the last one being empty."""
    known = of < len(groups.width)
    of = of.clamp(max=len(groups.width) - 1)
    return torch.where(known, groups.start[of], 0), torch.where(known, groups.width[of], 0)


def _with_permutations(made: GBLRMatrix, rows: Tensor, cols: Tensor) -> StructuredMatrix:
    """``P made Q`` with the rows and columns where they were; permutations that move nothing are left away."""
    whole: StructuredMatrix = made
    if not torch.equal(rows, torch.arange(len(rows))):
        whole = _permutation(rows.argsort(), made) @ whole
    if not torch.equal(cols, torch.arange(len(cols))):
        whole = whole @ _permutation(cols, made)
    return whole


def _permutation(index: Tensor, like: GBLRMatrix) -> PermutationMatrix:
    matrix = Permutation().empty(len(index), len(index), dtype=like.dtype, device=like.device)
    matrix.set_permutations([index])
    return matrix


def _numbers(where: str, **given: ArrayLike) -> tuple[Tensor, ...]:
    """Arrays as tensors of one number type, plain numbers and integers in torch's default."""
    made = {name: torch.as_tensor(value).detach() for name, value in given.items()}
    for name, tensor in made.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            made[name] = tensor.to(number_type(where, None).dtype)
    dtypes = {tensor.dtype for tensor in made.values()}
    if len(dtypes) > 1:
        name, last = list(made.items())[-1]
        reason = "the other array has another number type"
        raise DtypeError(complaint(where, f"{name}.dtype", last.dtype, reason, "convert one of them"))
    return tuple(made.values())
