"""A dense matrix as a sum of boxes: what ``km.fit(W, km.GBLR(...))`` and learning from a trained model begin with.

Importing this registers ``GBLR`` with ``project``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.fitting.boxes.search import ROUNDS, search
from kmatrix.fitting.boxes.staircase import saved, staircase, step_of
from kmatrix.fitting.boxes.terms import Terms, masks
from kmatrix.fitting.boxes.trim import trim
from kmatrix.fitting.projections.nearest import finite_matrix, like, project, projection_note, wide
from kmatrix.structures import GBLR, Boxes, GBLRMatrix, StructuredMatrix


@dataclass(frozen=True, eq=False)
class BoxFit:
    """Boxes fitted to a dense matrix, their vectors at full length.

    Attributes:
        boxes: where they lie, ``K`` of them, none empty.
        left: ``(K, m)``, zero outside the row segments, float64 or complex128.
        right: ``(K, n)``, zero outside the column segments; ``left.mT @ right`` is the approximation.
        how: what it began with.
    """

    boxes: Boxes
    left: Tensor
    right: Tensor
    how: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(m, n)``."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def cropped(self) -> tuple[Tensor, Tensor]:
        """The numbers on the segments, box after box, as ``GBLRMatrix.from_boxes`` takes them."""
        m, n = self.shape
        rows, cols = self.boxes.on_rows(m), self.boxes.on_cols(n)
        return self.left[rows.owner, rows.position], self.right[cols.owner, cols.position]

    def extended(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors continued outside their segments, by what would be best there, box by box.

        Outside, ``left_k`` is ``<R, right_k> / |right_k|^2`` with ``R = W - A``, what the box would hold there if its
        segment reached so far and the others stayed. Learning that moves segments begins with these.

        Args:
            dense: the matrix that was fitted, ``(m, n)``.

        Returns:
            ``(K, m)`` and ``(K, n)``, equal to ``left`` and ``right`` on the segments.
        """
        rest = dense.detach().to("cpu", self.left.dtype) - self.left.mT @ self.right
        left = _continued(self.left, rest, self.right, self.boxes.row_masks(self.shape[0]).mT)
        right = _continued(self.right, rest.mT, self.left, self.boxes.col_masks(self.shape[1]).mT)
        return left, right

    def matrix(self, structure: GBLR | None = None) -> GBLRMatrix:
        """The boxes as a structured matrix."""
        return GBLRMatrix.from_boxes(self.shape, self.boxes, *self.cropped, structure)


def _continued(vectors: Tensor, rest: Tensor, others: Tensor, inside: Tensor) -> Tensor:
    squared = torch.linalg.vector_norm(others, dim=1, keepdim=True).square()
    beyond = (others.conj() @ rest.mT) / squared.clamp_min(torch.finfo(squared.dtype).tiny)
    return torch.where(inside, vectors, beyond)


def fit_boxes(
    dense: Tensor,
    nblocks: int,
    cost: int,
    *,
    left: int | None = None,
    rounds: int = ROUNDS,
    thorough: bool = True,
    late: Callable[[], bool] = lambda: False,
) -> BoxFit:
    """At most ``nblocks`` boxes whose widths sum to at most ``cost``, near a dense matrix in the Frobenius norm.

    Starts are a truncated singular value decomposition, the strongest singular triplets of the tiles of many grids,
    both together, and boxes grown one after the other from the residual, each where a unit of width takes most
    error. The best are improved by alternation: every box in turn becomes the best rank-one box near it, segments
    included (for a fixed ``v`` that is the cyclic interval with the largest sum of ``|<R_i, v>|^2 / |v|^2 - price``);
    pairs of boxes are taken apart where they hold mixtures; all vectors are solved for by least squares; what exceeds
    the cost is cut off at the edges. A local solution, never worse than the truncated decomposition that the limits
    allow.

    Args:
        dense: ``(m, n)``, real or complex; not changed.
        nblocks: most boxes.
        cost: most that all widths may sum to; with less than 2 there is no box.
        left: most that the row widths among them may sum to, and ``cost - left`` the column widths; split as the
            target wants it if not given.
        rounds: most rounds of improvement.
        thorough: whether all starts are tried, or the few that are quickly made.
        late: asked between rounds; True ends the work with the best so far.

    Raises:
        ArgumentError: if the target is not a finite matrix, or a number is out of range.

    Example:
        >>> import torch
        >>> from kmatrix.fitting import fit_boxes
        >>> W = torch.zeros(12, 12)
        >>> W[2:6, 5:11] = torch.outer(torch.tensor([1.0, -2.0, 1.5, 3.0]), torch.arange(1.0, 7.0))
        >>> found = fit_boxes(W, nblocks=1, cost=10)
        >>> found.boxes.to_lists()
        [[2, 4, 5, 6]]

    Reference: the problem is that of arXiv 2310.18882, appendix A.2; the method is not the one there.
    """
    nblocks = check_size("fit_boxes", "nblocks", nblocks)
    cost = check_size("fit_boxes", "cost", cost, minimum=0)
    rounds = check_size("fit_boxes", "rounds", rounds, minimum=0)
    if left is not None and check_size("fit_boxes", "left", left, minimum=0) > cost:
        way_out = "pass at most the cost, or leave it away"
        raise ArgumentError(complaint("fit_boxes", "left", left, f"more than cost={cost}", way_out))
    work = finite_matrix(dense, "fit_boxes").contiguous()
    scale = float(work.abs().amax())
    work = work / scale if scale > 0 else work
    terms, how = search(work, nblocks, cost, left=left, rounds=rounds, thorough=thorough, late=late)
    return _placed(terms, how, scale**0.5)


def low_rank_boxes(
    factors: Callable[[int], tuple[Tensor, Tensor]], shape: tuple[int, int], nblocks: int, cost: int
) -> BoxFit:
    """Boxes whose sum is a product of two factors, of the largest rank that the limits allow.

    A matrix of rank ``r`` has ``r (m + n - r)`` degrees of freedom, fewer than the ``r (m + n)`` numbers of two full
    factors, and segments can show it: the first terms agree with the matrix on a few rows and columns, which the next
    terms then need not reach. So boxes hold a higher rank than low rank of the same cost.

    Args:
        factors: called with a rank ``r`` for ``L (m, r)`` and ``B (r, n)``.
        shape: ``(m, n)``.
        nblocks: most boxes.
        cost: most that all widths may sum to.

    Raises:
        ArgumentError: if a number is out of range, or ``factors`` returns other shapes.
        DtypeError: if a number is not whole.

    Example:
        >>> import torch
        >>> from kmatrix.fitting import low_rank_boxes
        >>> u, v = torch.randn(40, 40).double(), torch.randn(40, 40).double()
        >>> found = low_rank_boxes(lambda r: (u[:, :r], v[:r]), (40, 40), 40, 1200)
        >>> len(found.boxes), 1200 // 80, found.boxes.cost
        (19, 15, 1196)
    """
    where = "low_rank_boxes"
    m, n = (check_size(where, name, side) for name, side in zip("mn", shape, strict=True))
    nblocks = check_size(where, "nblocks", nblocks)
    cost = check_size(where, "cost", cost, minimum=0)
    step = step_of(m, n)
    prices = m + n - saved(torch.arange(min(m, n, nblocks)), step)
    rank = int((prices.cumsum(0) <= cost).sum())
    made = tuple(factors(rank))
    shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in made]
    if shapes != [(m, rank), (rank, n)]:
        reason, way_out = f"for rank {rank} they are {shapes}", f"return {(m, rank)} and {(rank, n)}"
        raise ArgumentError(complaint(where, "factors", "shapes", reason, way_out))
    left, right = (t.detach().to("cpu", _wide_type(t)) for t in made)
    terms = Terms.full(left.mT.contiguous(), right.contiguous())
    terms = trim(staircase(terms, step), cost) if rank else terms
    return _placed(terms, "low rank", 1.0)


def _wide_type(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64


def _placed(terms: Terms, how: str, root: float) -> BoxFit:
    boxes = Boxes(terms.rows[:, 0], terms.rows[:, 1], terms.cols[:, 0], terms.cols[:, 1])
    m, n = terms.left.shape[1], terms.right.shape[1]
    left, right = terms.left * masks(terms.rows, m), terms.right * masks(terms.cols, n)
    return BoxFit(boxes, left * root, right * root, how)


@project.register(GBLR)
def _(structure: GBLR, target: Tensor, *, generator: torch.Generator | None = None) -> StructuredMatrix:
    return project_boxes(target, structure)


@projection_note.register(GBLR)
def _(structure: GBLR, m: int, n: int) -> str:
    return "a local solution, by alternating least squares and moving segments"


def project_boxes(target: Tensor, structure: GBLR) -> StructuredMatrix:
    """A good sum of boxes, as ``fit_boxes``; a local solution.

    Args:
        target: an ``(m, n)`` tensor.
        structure: how many boxes, and what they may cost.
    """
    wide(target, structure)
    m, n = target.shape
    found = fit_boxes(target, structure.count(m, n), structure.num_params(m, n), left=structure.left)
    return like(found.matrix(structure), target)
