"""Block-diagonal factors and shuffles: Monarch of any order, group-and-shuffle, deformable butterfly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures._grids import Grid, as_pair, balanced_factors, ceil_div, check_grid
from kmatrix.structures.butterfly import tile_chain
from kmatrix.structures.chain import Chain, ChainStructure, Factor, Layout, Permute, Stage

Shuffle = Literal["identity", "stride", "given"]


@dataclass(frozen=True)
class Monarch(ChainStructure):
    """Products of block-diagonal matrices with stride permutations between them.

    Order 2 is ``M = P L P^T R`` with ``nblocks`` blocks in ``L`` and in ``R``; the permutations are absorbed
    in the strides of the second factor. The smaller side, padded to blocks, is how many values run between
    the two. The rows ``i = o (mod nblocks)`` and one block of columns form a tile; its rank is the number of
    values that connect them, ``n / nblocks**2`` in square matrices where that divides.

    A higher order is a product of more factors, with blocks near ``n**(1/order)``: a short butterfly.

    Args:
        nblocks: blocks per factor of order 2; near ``sqrt(min(m, n))`` if not given (tiles of rank one).
        order: how many block-diagonal factors.

    Raises:
        ArgumentError: if a number is out of range, or ``nblocks`` is given for a higher order.

    Example:
        >>> import kmatrix as km
        >>> km.Monarch(nblocks=4).num_params(1024, 1024)  # 2 n**2 / nblocks
        524288
        >>> km.Monarch(order=3).num_params(1000, 1000)  # order * n**(1 + 1/order)
        30000

    Reference: arXiv 2204.00595; any order: arXiv 2310.12109.
    """

    nblocks: int | None = None
    order: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("Monarch", "order", self.order, minimum=2)
        if self.nblocks is None:
            return
        check_size("Monarch", "nblocks", self.nblocks)
        if self.order > 2:
            reason = f"the blocks of order {self.order} follow from the shape"
            way_out = "leave nblocks out, or use order=2"
            raise ArgumentError(complaint("Monarch", "nblocks", self.nblocks, reason, way_out))

    def layout(self, m: int, n: int) -> Layout:
        if self.order > 2:
            pairs = zip(balanced_factors(m, self.order), balanced_factors(n, self.order), strict=True)
            return Layout(tile_chain(tuple(pairs), (1,) * (self.order - 1)))
        nblocks = self.nblocks or balanced_factors(min(m, n), 2)[0]
        height, width = ceil_div(m, nblocks), ceil_div(n, nblocks)
        inner = min(height, width)
        return Layout((Factor(nblocks, inner, width, 1), Factor(1, height, inner, nblocks)))


@dataclass(frozen=True)
class GroupShuffle(ChainStructure):
    """Group-and-shuffle matrices ``P_L (L P R) P_R``: block-diagonal ``L`` and ``R``, three permutations.

    The submatrix of one block of ``L`` and one of ``R`` has as its rank the number of values that ``P`` sends
    from the second to the first. A ``"stride"`` deals its values round robin: to the blocks of ``R``
    (``P_R``), from the blocks of ``R`` (``P``), from the blocks of ``L`` (``P_L``).

    Args:
        nblocks: blocks of ``L`` and of ``R``, or one number for both.
        hidden: how many values run between them, a multiple of both block counts; the smallest multiple
            of at least ``min(m, n)`` if not given.
        shuffles: ``(P_L, P, P_R)``, each ``"identity"``, ``"stride"``, or ``"given"``: an index array
            supplied to ``ChainMatrix.from_weights`` or ``set_permutations``, in order of application (the
            identity until then).

    Raises:
        ArgumentError: if the sizes do not fit each other.

    Example:
        >>> import kmatrix as km
        >>> km.GroupShuffle(nblocks=4).num_params(64, 64)
        2048

    Reference: arXiv 2406.10019.
    """

    nblocks: Grid
    hidden: int | None = None
    shuffles: tuple[Shuffle, Shuffle, Shuffle] = ("identity", "stride", "identity")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid("GroupShuffle", "nblocks", self.nblocks)
        if len(self.shuffles) != 3 or not set(self.shuffles) <= {"identity", "stride", "given"}:
            way_out = 'pass three of "identity", "stride" and "given", for P_L, P and P_R'
            raise ArgumentError(
                complaint("GroupShuffle", "shuffles", self.shuffles, "not three known kinds", way_out)
            )
        if self.hidden is not None:
            hidden = check_size("GroupShuffle", "hidden", self.hidden)
            least = math.lcm(*as_pair(self.nblocks))
            if hidden % least:
                reason = f"cannot be cut into the blocks {self.nblocks}"
                way_out = f"use a multiple of {least}"
                raise ArgumentError(complaint("GroupShuffle", "hidden", hidden, reason, way_out))

    def layout(self, m: int, n: int) -> Layout:
        left, right = as_pair(self.nblocks)
        height, width = ceil_div(m, left), ceil_div(n, right)
        least = math.lcm(left, right)
        hidden = self.hidden or least * ceil_div(min(m, n), least)
        outer, middle, inner = self.shuffles
        return Layout(
            (
                *_shuffle(inner, right * width, width),
                Factor(right, hidden // right, width, 1),
                *_shuffle(middle, hidden, right),
                Factor(left, height, hidden // left, 1),
                *_shuffle(outer, left * height, left),
            )
        )


def _shuffle(kind: Shuffle, n: int, k: int) -> tuple[Stage, ...]:
    return () if kind == "identity" else (Permute(n, kind, k),)


def deformable_butterfly(n: int, steps: Sequence[tuple[int, int, int]]) -> Chain:
    """The chain of a deformable butterfly, from the ``(r, s, t)`` triples of its factors.

    A factor with ``(r, s, t)`` is block diagonal; each block is an ``r x s`` grid of ``t x t`` diagonal
    matrices.

    Args:
        n: size of the vector that the first factor takes.
        steps: one triple per factor, in order of application.

    Returns:
        The structure; its only shape is ``n`` columns and as many rows as the last factor gives.

    Raises:
        ArgumentError: if a factor does not divide the size it meets.

    Example:
        >>> import kmatrix as km
        >>> s = km.deformable_butterfly(12, [(2, 3, 1), (5, 4, 2)])
        >>> s.num_params(10, 12)
        64

    Reference: arXiv 2203.13556.
    """
    size = check_size("deformable_butterfly", "n", n)
    stages = []
    for r, s, t in steps:
        for value in (r, s, t):
            check_size("deformable_butterfly", "steps", value)
        if size % (s * t):
            reason = f"s * t = {s * t} does not divide the size {size} it meets"
            way_out = "choose s and t so that s * t divides the size"
            raise ArgumentError(complaint("deformable_butterfly", "steps", (r, s, t), reason, way_out))
        stages.append(Factor(size // (s * t), r, s, t))
        size = stages[-1].rows
    return Chain(tuple(stages))
