"""Generalised block low-rank matrices: sums of rank-one boxes of any position and width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import cast

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops.segments import repeated_segments, segments_affine, segments_matmul
from kmatrix.ops.segments_autograd import swapped
from kmatrix.ops.segments_definition import check_places, side_factor
from kmatrix.structures._box_draws import draw_widths
from kmatrix.structures._safetensors import short
from kmatrix.structures.base import (
    Structure,
    StructuredMatrix,
    empty_parameter,
    fill_normal,
    from_pairs,
    stored_dtype,
    to_pairs,
)
from kmatrix.structures.boxes import Boxes

_SLACK = 1e-12  # a budget such as 0.3 is the double next to it


@dataclass(frozen=True)
class GBLR(Structure):
    """Sums of ``nblocks`` rank-one boxes of any position and width, cyclic in rows and columns.

    ``A = sum_k (left_k on the rows of box k) (right_k on the columns of box k)^T``. The boxes may overlap anywhere.
    Their widths add up to ``min(budget * m * n, nblocks * (m + n))``, rounded down, which is the number of parameters
    and of multiplications with one vector; where the boxes lie belongs to the matrix and does not count.

    Args:
        nblocks: how many boxes there may be; ``min(m, n)`` if not given, as in every published experiment.
        budget: the sum of all widths as a fraction of ``m * n``, the multiplications of the dense matrix.
        left: how much of that sum are row widths, the numbers on the output side; in proportion to the sides if not
            given.

    Raises:
        ArgumentError: if ``nblocks`` is not positive, ``budget`` not a finite number of at least 0, or the budget too
            small for a single box.

    Example:
        >>> import kmatrix as km
        >>> A = km.GBLR(nblocks=40, budget=0.3).random(60, 80)
        >>> A.num_params, A.boxes.cost, A.flops  # 0.3 * 60 * 80; a multiply and an add are two
        (1440, 1440, 2880)

    Reference: Lee and Kim, arXiv 2310.18882 (ICLR 2024), there for square matrices with ``nblocks = n``.
    """

    nblocks: int | None = None
    budget: float = 0.5
    left: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nblocks is not None:
            check_size("GBLR", "nblocks", self.nblocks)
        if self.left is not None:
            check_size("GBLR", "left", self.left, minimum=0)
        object.__setattr__(self, "budget", _budget(self.budget))

    def __repr__(self) -> str:
        # Budgets of fitted boxes are fractions such as 80 / 384, and few ask how they are split between the sides.
        split = "" if self.left is None else f", left={self.left}"
        return f"GBLR(nblocks={self.nblocks}, budget={self.budget:.4g}{split})"

    def count(self, m: int, n: int) -> int:
        """How many boxes an ``m x n`` member stores, empty ones included."""
        return min(m, n) if self.nblocks is None else self.nblocks

    def totals(self, m: int, n: int) -> tuple[int, int]:
        """The sums of the row widths and of the column widths of an ``m x n`` member."""
        count = self.count(m, n)
        allowed, cost = self.budget * m * n * (1 + _SLACK), count * (m + n)
        if allowed < cost:  # it may be infinite
            cost = math.floor(allowed)
        if m == n == 1:
            cost -= cost % 2  # only boxes of widths 1 and 1
        if self.left is not None:
            return self.left, cost - self.left
        # No side may be so short that there are too few boxes for the other one.
        most, least = cost - -(-cost // (m + 1)), -(-cost // (n + 1))
        rows = min(max(cost * m // (m + n), least), most)
        return rows, cost - rows

    def check(self, m: int, n: int) -> None:
        rows, cols = self.totals(m, n)
        count = self.count(m, n)
        if self.budget > 0 and rows + cols < 2:
            reason = f"budget * m * n = {self.budget * m * n:g} is too little for a box of widths 1 and 1"
            raise ArgumentError(complaint("GBLR", "budget", self.budget, reason, "use a larger budget"))
        used = min(count, rows, cols)
        if not 0 <= rows <= used * m or not 0 <= cols <= used * n:
            reason = f"{count} boxes in a {m} x {n} matrix cannot have {rows} rows and {cols} columns in all"
            way_out = "leave it away, or pass one nearer to m / (m + n) of all"
            raise ArgumentError(complaint("GBLR", "left", self.left, reason, way_out))

    def num_params(self, m: int, n: int) -> int:
        return sum(self.totals(m, n))

    def flops(self, m: int, n: int) -> int:
        return 2 * self.num_params(m, n)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> GBLRMatrix:
        dtype = self._admit(m, n, dtype)
        return GBLRMatrix(self, (m, n), dtype=dtype, device=device)


class GBLRMatrix(StructuredMatrix):
    """A sum of rank-one boxes; only what lies on the segments is stored.

    Attributes:
        places: where the boxes lie, int64 ``(4, K)``: ``row_start, row_width, col_start, col_width``.
        left: the numbers on the rows, box after box, real pairs if complex.
        right: the numbers on the columns, likewise.
    """

    structure: GBLR
    places: Tensor

    def __init__(
        self,
        structure: GBLR,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape)
        self._is_complex = dtype.is_complex
        rows, cols = structure.totals(*shape)
        self._sizes = (shape[1], shape[0], structure.count(*shape), rows, cols)
        self.left = empty_parameter((rows,), dtype, device)
        self.right = empty_parameter((cols,), dtype, device)
        places = torch.zeros(4, structure.count(*shape), dtype=torch.int64, device=device)
        # What `empty` makes must be multiplied by, too: full boxes as far as the numbers reach.
        places[1], places[3] = _packed_widths(places.shape[1], shape, (rows, cols), device)
        self.register_buffer("places", places)

    @classmethod
    def from_boxes(
        cls,
        shape: tuple[int, int],
        boxes: Boxes,
        left: Tensor,
        right: Tensor,
        structure: GBLR | None = None,
    ) -> GBLRMatrix:
        """The matrix with given boxes and numbers; boxes that are empty on a side are left out.

        Args:
            shape: ``(m, n)``.
            boxes: where the boxes lie.
            left: the numbers on the rows, cropped to the segments, box after box: ``(sum of row widths,)``, real or
                complex; copied.
            right: the numbers on the columns, likewise, of the same dtype.
            structure: what the boxes must be a member of. The matrix names the smallest structure that holds it: the
                same one if it uses up its boxes and its budget.

        Raises:
            ArgumentError: if boxes, numbers and shape do not fit each other, or the structure does not admit them.
            DtypeError: if ``left`` and ``right`` are no numbers that a matrix can hold.

        Example:
            >>> import torch
            >>> from kmatrix.structures import Boxes, GBLRMatrix
            >>> boxes = Boxes([1], [2], [3], [2])  # rows 1 and 2, columns 3 and (cyclically) 0
            >>> A = GBLRMatrix.from_boxes((3, 4), boxes, torch.tensor([1.0, 10.0]), torch.tensor([1.0, 2.0]))
            >>> A.to_dense().tolist()
            [[0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 1.0], [20.0, 0.0, 0.0, 10.0]]
        """
        m, n = (check_size("from_boxes", name, side) for name, side in zip("mn", shape, strict=True))
        _check_numbers(left, right)
        left, right = left.detach(), right.detach()
        check_places("from_boxes", boxes.places, m, n, len(left), len(right))
        occupied = boxes.occupied
        if not bool(occupied.all()):
            left = left[torch.repeat_interleave(occupied, boxes.row_width)]
            right = right[torch.repeat_interleave(occupied, boxes.col_width)]
            boxes = boxes.select(occupied)
        named = _tightest((m, n), boxes, structure)
        matrix = named.empty(m, n, dtype=left.dtype, device=left.device)
        with torch.no_grad():
            matrix.places.zero_()
            matrix.places[:, : len(boxes)] = boxes.places.to(left.device)
            matrix.left.copy_(to_pairs(left))
            matrix.right.copy_(to_pairs(right))
        return matrix

    @property
    def boxes(self) -> Boxes:
        """Where the boxes lie (a copy)."""
        return Boxes.from_places(self.places)

    @property
    def left_numbers(self) -> Tensor:
        """The numbers on the rows, box after box, complex if the matrix is."""
        return from_pairs(self.left, self._is_complex)

    @property
    def right_numbers(self) -> Tensor:
        """The numbers on the columns, box after box, complex if the matrix is."""
        return from_pairs(self.right, self._is_complex)

    def factors(self) -> tuple[Tensor, Tensor]:
        """``U`` ``(m, K)`` and ``V`` ``(K, n)`` with ``A = U V``, zero outside of the boxes; differentiable."""
        boxes, (m, n) = self.boxes, self.shape
        u = side_factor(self.left_numbers, boxes.on_rows(m), m, len(boxes))
        v = side_factor(self.right_numbers, boxes.on_cols(n), n, len(boxes))
        return u, v.mT

    @property
    def dtype(self) -> torch.dtype:
        return stored_dtype("GBLR", self.left, self._is_complex)

    @property
    def device(self) -> torch.device:
        return self.left.device

    def check_state(self) -> None:
        check_places("GBLR", self.places, *self.shape, self.left.shape[0], self.right.shape[0])

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        # A few rows take less time than the questions on the way to them: a product like one before asks none.
        if not self._is_complex and not torch.compiler.is_dynamo_compiling():
            held = self._parameters
            left, right = (
                held.get("left"),
                held.get("right"),
            )  # past the slow search for attributes of modules
            if left is not None and right is not None:
                places = cast(Tensor, self._buffers["places"])
                y = repeated_segments(x, left, right, places, self.shape[0], self._sizes, bias)
                if y is not None:
                    return y
        return super().forward(x, bias)

    def _affine(self, x: Tensor, bias: Tensor) -> Tensor:
        parts = self.left_numbers, self.right_numbers, self.places, self.shape[0]
        y = segments_affine(x, *parts, bias)
        return super()._affine(x, bias) if y is None else y

    def _matmul(self, x: Tensor) -> Tensor:
        return segments_matmul(x, self.left_numbers, self.right_numbers, self.places, self.shape[0])

    def _rmatmul(self, x: Tensor) -> Tensor:
        return segments_matmul(x, self.right_numbers, self.left_numbers, swapped(self.places), self.shape[1])

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw boxes anywhere, of widths between 0 and twice their mean, and normal numbers at the spectral scale.

        All widths together are what the structure allows; no box is empty as long as there are numbers for all.
        """
        (m, n), count = self.shape, self.places.shape[1]
        rows, cols = self.left.shape[0], self.right.shape[0]
        used = min(count, rows, cols)
        if self.device.type != "meta":
            device = torch.device("cpu") if generator is None else generator.device
            places = torch.zeros(4, count, dtype=torch.int64, device=device)
            for k, (size, total) in enumerate(((m, rows), (n, cols))):
                places[2 * k, :used] = torch.randint(size, (used,), generator=generator, device=device)
                places[2 * k + 1, :used] = draw_widths(used, size, total, generator)
            with torch.no_grad():
                self.places.copy_(places)
        stds = box_scales(self.shape, (rows, cols), used)
        for stored, std in zip((self.left, self.right), stds, strict=True):
            fill_normal(stored, std, self._is_complex, generator)


def box_scales(shape: tuple[int, int], totals: tuple[int, int], boxes: int) -> tuple[float, float]:
    """Standard deviations of the numbers on both sides of random boxes at which products keep the size of vectors.

    Args:
        shape: ``(m, n)``.
        totals: widths of all boxes together, in rows and in columns.
        boxes: how many there are.
    """
    (m, n), (rows, cols), each = shape, totals, max(boxes, 1)

    def scale(fan_in: float, fan_out: float) -> float:
        fan_in, fan_out = max(1.0, fan_in), max(1.0, fan_out)
        return min(1.0, math.sqrt(fan_out / fan_in)) / math.sqrt(fan_in)

    # How many numbers meet in one sum, and how many sums one number goes to, on average.
    return scale(rows / m, rows / each), scale(cols / each, cols / n)


def _budget(value: object) -> float:
    try:
        budget = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        budget = math.inf
    if not 0 <= budget < math.inf:
        reason, way_out = (
            "not a finite number of at least 0",
            "pass a fraction of the dense count, such as 0.3",
        )
        raise ArgumentError(complaint("GBLR", "budget", short(value), reason, way_out))
    return budget


def _packed_widths(
    count: int, shape: tuple[int, int], totals: tuple[int, int], device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Widths that add up to the totals, full boxes first."""
    full = torch.arange(count, device=device)
    rows, cols = ((total - full * size).clamp(0, size) for size, total in zip(shape, totals, strict=True))
    return rows, cols


def _check_numbers(left: Tensor, right: Tensor) -> None:
    for name, numbers in (("left", left), ("right", right)):
        if not isinstance(numbers, Tensor) or numbers.ndim != 1:
            shape = tuple(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
            way_out = "pass the numbers of all boxes one after the other"
            raise ArgumentError(complaint("from_boxes", name, shape, "not a flat tensor", way_out))
    if left.dtype != right.dtype or left.device != right.device:
        reason, way_out = f"left has {left.dtype} on {left.device}", "convert one of them"
        got = f"{right.dtype} on {right.device}"
        raise ArgumentError(complaint("from_boxes", "right", got, reason, way_out))


def _tightest(shape: tuple[int, int], boxes: Boxes, structure: GBLR | None) -> GBLR:
    """The structure that these boxes, none empty, use up; the given one if they do so already.

    Raises:
        ArgumentError: if the given one does not admit them.
    """
    m, n = shape
    rows, cols = boxes.row_total, boxes.col_total
    if structure is not None:
        structure.check(m, n)
        most = sum(structure.totals(m, n))
        if len(boxes) > structure.count(m, n) or rows + cols > most:
            got = f"{len(boxes)} boxes of cost {rows + cols}"
            reason = f"{structure} admits {structure.count(m, n)} of cost {most}"
            raise ArgumentError(complaint("from_boxes", "boxes", got, reason, "drop or shorten boxes"))
        if len(boxes) == structure.count(m, n) and (rows, cols) == structure.totals(m, n):
            return structure
    budget = (rows + cols) / (m * n)
    if structure is not None and rows + cols == most:
        budget = structure.budget
    count = max(1, len(boxes))
    plain = GBLR(count, budget)
    return plain if plain.totals(m, n) == (rows, cols) else GBLR(count, budget, rows)
