"""Boxes: where the rank-one terms of a matrix lie, without their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops.segments_definition import Covered, check_places, covered

_NAMES = ("row_start", "row_width", "col_start", "col_width")


@dataclass(frozen=True, eq=False)
class Boxes:
    """Positions and widths of ``K`` boxes, cyclic in the rows and in the columns.

    Box ``k`` covers the rows ``row_start[k], row_start[k] + 1, ...``, ``row_width[k]`` of them, modulo the number of
    rows; likewise its columns. A box with a width of 0 covers nothing.

    Args:
        row_start: ``(K,)`` whole numbers, as tensors, arrays or lists; copied to int64 tensors.
        row_width: likewise.
        col_start: likewise.
        col_width: likewise.

    Raises:
        ArgumentError: if they are not flat and equally long, or a number is negative.
        DtypeError: if they are not whole numbers.

    Example:
        >>> from kmatrix.structures import Boxes
        >>> boxes = Boxes([1, 0], [2, 3], [3, 0], [2, 1])
        >>> boxes.cost, boxes.row_offsets.tolist()
        (8, [0, 2, 5])
        >>> boxes.mask(3, 4).int().tolist()  # whether a box covers the entry
        [[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]]

    Reference: arXiv 2310.18882, the definition of generalised block low-rank matrices.
    """

    row_start: Tensor
    row_width: Tensor
    col_start: Tensor
    col_width: Tensor

    def __post_init__(self) -> None:
        for name in _NAMES:
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        for name in _NAMES[1:]:
            got, device = getattr(self, name), self.row_start.device
            if len(got) != len(self.row_start) or got.device != device:
                reason = f"row_start has {len(self.row_start)} numbers on {device}"
                shape = f"tensor({len(got)},) on {got.device}"
                raise ArgumentError(complaint("Boxes", name, shape, reason, "pass one number for each box"))

    @classmethod
    def from_places(cls, places: Tensor) -> Boxes:
        """The boxes of a ``(4, K)`` tensor whose rows are the four fields in order."""
        if places.ndim != 2 or places.shape[0] != 4:
            shape = tuple(places.shape)
            raise ArgumentError(complaint("Boxes", "places.shape", shape, "not four rows", "pass (4, K)"))
        return cls(*places.unbind())

    @classmethod
    def from_lists(cls, boxes: Sequence[Sequence[int]]) -> Boxes:
        """The inverse of ``to_lists``."""
        places = torch.tensor([list(box) for box in boxes], dtype=torch.int64).reshape(-1, 4)
        return cls.from_places(places.mT)

    def to_lists(self) -> list[list[int]]:
        """``[row_start, row_width, col_start, col_width]`` of every box."""
        lists: list[list[int]] = self.places.mT.tolist()
        return lists

    @property
    def places(self) -> Tensor:
        """The four fields as the rows of a ``(4, K)`` tensor, as ``km.ops.segments_matmul`` takes them."""
        return torch.stack([self.row_start, self.row_width, self.col_start, self.col_width])

    def __len__(self) -> int:
        return len(self.row_start)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Boxes) and torch.equal(self.places, other.places)

    __hash__ = None  # type: ignore[assignment]  # tensors change

    @property
    def device(self) -> torch.device:
        """Where the numbers live."""
        return self.row_start.device

    @property
    def row_total(self) -> int:
        """Sum of the row widths: how many numbers the boxes hold on the output side."""
        return int(self.row_width.sum())

    @property
    def col_total(self) -> int:
        """Sum of the column widths: how many numbers the boxes hold on the input side."""
        return int(self.col_width.sum())

    @property
    def cost(self) -> int:
        """Sum of all widths: numbers held, and multiplications with one vector."""
        return self.row_total + self.col_total

    @property
    def row_offsets(self) -> Tensor:
        """Where the numbers of each box begin on the output side, ``(K + 1,)``, the last being the end."""
        return _offsets(self.row_width)

    @property
    def col_offsets(self) -> Tensor:
        """Where the numbers of each box begin on the input side, ``(K + 1,)``, the last being the end."""
        return _offsets(self.col_width)

    @property
    def occupied(self) -> Tensor:
        """Which boxes cover anything, ``(K,)`` truth values."""
        return (self.row_width > 0) & (self.col_width > 0)

    def check(self, m: int, n: int, where: str = "Boxes") -> None:
        """Raise ``ArgumentError`` unless every box lies in an ``m x n`` matrix."""
        check_places(where, self.places, m, n)

    def select(self, index: Tensor) -> Boxes:
        """The boxes of an index or of truth values, in that order."""
        return Boxes.from_places(self.places[:, index])

    def without_empty(self) -> Boxes:
        """The boxes that cover anything."""
        return self.select(self.occupied)

    @property
    def transposed(self) -> Boxes:
        """The boxes of the transposed matrix."""
        return Boxes(self.col_start, self.col_width, self.row_start, self.row_width)

    def order(self, side: Literal["rows", "cols"] = "rows") -> Tensor:
        """The order of the boxes by start and then by width, on the ``"rows"`` or the ``"cols"``."""
        if side not in ("rows", "cols"):
            reason, way_out = "no side of a matrix", 'pass "rows" or "cols"'
            raise ArgumentError(complaint("Boxes", "side", repr(side), reason, way_out))
        start, width = (
            (self.row_start, self.row_width) if side == "rows" else (self.col_start, self.col_width)
        )
        by_width = torch.argsort(width, stable=True)
        return by_width[torch.argsort(start[by_width], stable=True)]

    def on_rows(self, m: int) -> Covered:
        """For each number on the output side, box after box: its box and its row."""
        return covered(self.row_start, self.row_width, m, self.row_total)

    def on_cols(self, n: int) -> Covered:
        """For each number on the input side, box after box: its box and its column."""
        return covered(self.col_start, self.col_width, n, self.col_total)

    def row_masks(self, m: int) -> Tensor:
        """Which rows each box covers, ``(m, K)`` truth values."""
        return _masks(self.row_start, self.row_width, m)

    def col_masks(self, n: int) -> Tensor:
        """Which columns each box covers, ``(n, K)`` truth values."""
        return _masks(self.col_start, self.col_width, n)

    def mask(self, m: int, n: int) -> Tensor:
        """Which entries any box covers, ``(m, n)`` truth values."""
        return (self.row_masks(m).float() @ self.col_masks(n).float().mT) > 0

    def to(self, device: torch.device | str) -> Boxes:
        """The same boxes on another device."""
        return Boxes.from_places(self.places.to(device))

    def __repr__(self) -> str:
        return f"Boxes({len(self)} boxes, cost={self.cost})"


def _whole_numbers(name: str, value: object) -> Tensor:
    tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
    if not isinstance(value, Tensor) and tensor.numel() == 0:
        tensor = tensor.to(torch.int64)  # an empty list has no type
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        way_out = "round them and convert with .to(torch.int64)"
        raise DtypeError(complaint("Boxes", f"{name}.dtype", tensor.dtype, "not whole numbers", way_out))
    if tensor.ndim != 1:
        shape = tuple(tensor.shape)
        raise ArgumentError(
            complaint("Boxes", f"{name}.shape", shape, "not flat", "pass one number for each box")
        )
    tensor = tensor.to(torch.int64, copy=True)  # whoever writes into theirs does not move checked boxes
    if not tensor.is_meta and bool((tensor < 0).any()):
        low = int(tensor.min())
        raise ArgumentError(complaint("Boxes", name, low, "negative", "pass numbers of at least 0"))
    return tensor


def _offsets(width: Tensor) -> Tensor:
    return torch.cat([width.new_zeros(1), width.cumsum(0)])


def _masks(start: Tensor, width: Tensor, size: int) -> Tensor:
    position = torch.arange(size, device=start.device).unsqueeze(1)
    return (position - start) % max(size, 1) < width
