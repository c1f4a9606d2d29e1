"""What a sum of rank-one boxes is and what multiplying by it means, in plain torch.

A box ``k`` lies on cyclic segments of the outputs and of the inputs. ``places`` is an int64 tensor ``(4, K)`` with the
rows ``row_start, row_width, col_start, col_width``; the numbers of all boxes lie one after the other, cropped to their
segments, in ``left`` (output side) and ``right`` (input side). Nothing here knows about backends, operators or speed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops.definition import check_alike, check_numbers


class Covered(NamedTuple):
    """For each number of one side: the box that it belongs to, and the position that it multiplies."""

    owner: Tensor
    position: Tensor


def covered(start: Tensor, width: Tensor, size: int, total: int) -> Covered:
    """The owners and positions of ``total`` numbers on cyclic segments of ``0 .. size-1``.

    Example:
        >>> covered(torch.tensor([3, 1]), torch.tensor([3, 1]), 4, 4).position
        tensor([3, 0, 1, 1])
    """
    first = width.cumsum(0) - width
    # How many boxes have begun; torch.repeat_interleave has no batching rule, and boxes may differ from copy to copy.
    begun = width.new_zeros(total + 1).index_add(0, first, torch.ones_like(first))
    owner = begun.cumsum(0)[:total] - 1
    offset = torch.arange(total, device=width.device) - first[owner]
    return Covered(owner, (start[owner] + offset) % size)


def side_factor(numbers: Tensor, where: Covered, size: int, boxes: int) -> Tensor:
    """One side of all boxes as a ``(*, size, boxes)`` matrix: column ``k`` is box ``k``, zero outside its segment."""
    empty = numbers.new_zeros(*numbers.shape[:-1], size * boxes)
    filled = empty.index_copy(-1, where.position * boxes + where.owner, numbers)
    return filled.reshape(*numbers.shape[:-1], size, boxes)


def is_empty(x: Tensor, left: Tensor, right: Tensor, rows: int) -> bool:
    """Whether a product has nothing to multiply: no vector, no number of a box, or no row."""
    return not (x.numel() and left.numel() and right.numel() and rows)


def reference_segments_matmul(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """Multiply by the masked dense factors: the definition, differentiable in every way.

    Arguments as in ``segments_matmul``, unchecked.

    Example:
        >>> places = torch.tensor([[1], [2], [3], [2]])  # rows 1 and 2, columns 3 and (cyclically) 0
        >>> reference_segments_matmul(torch.arange(4.0), torch.tensor([1.0, 10.0]), torch.ones(2), places, 3)
        tensor([ 0.,  3., 30.])
    """
    cols, boxes = x.shape[-1], places.shape[1]
    onto = side_factor(right, covered(places[2], places[3], cols, right.shape[0]), cols, boxes)
    back = side_factor(left, covered(places[0], places[1], rows, left.shape[0]), rows, boxes)
    return x @ onto @ back.mT


def check_segments(where: str, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> None:
    """Raise unless shapes, number types and devices fit each other; looks at no value of ``places``."""
    for name, tensor in (("x", x), ("left", left), ("right", right), ("places", places)):
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise DtypeError(complaint(where, name, kind, "not a tensor", "pass a torch.Tensor"))
    if x.ndim == 0:
        raise ArgumentError(
            complaint(where, "x.shape", (), "there is no last dimension", "pass x of shape (*, n)")
        )
    for name, numbers in (("left", left), ("right", right)):
        if numbers.ndim != 1:
            way_out = "pass the numbers of all boxes one after the other"
            raise ArgumentError(complaint(where, f"{name}.shape", tuple(numbers.shape), "not flat", way_out))
    if places.ndim != 2 or places.shape[0] != 4:
        way_out = "pass (4, K): row_start, row_width, col_start, col_width"
        raise ArgumentError(
            complaint(where, "places.shape", tuple(places.shape), "not four rows of integers", way_out)
        )
    if places.dtype != torch.int64:
        way_out = "pass places.to(torch.int64)"
        raise DtypeError(complaint(where, "places.dtype", places.dtype, "not int64", way_out))
    if places.device != x.device:
        reason = f"x is on {x.device}"
        raise ArgumentError(complaint(where, "places.device", places.device, reason, "move one to the other"))
    check_size(where, "rows", rows, minimum=0)
    for name, numbers in (("left", left), ("right", right)):
        if numbers.dtype != x.dtype or numbers.device != x.device:
            check_alike(where, name, numbers, x)
    check_numbers(where, x, ())


def check_places(
    where: str, places: Tensor, rows: int, cols: int, left: int | None = None, right: int | None = None
) -> None:
    """Raise unless every box lies in ``rows x cols`` and the widths add up to the counts of numbers (if given)."""
    row_start, row_width, col_start, col_width = places
    for side, start, width, size, total in (
        ("row", row_start, row_width, rows, left),
        ("col", col_start, col_width, cols, right),
    ):
        bad = (start < 0) | (start >= max(size, 1)) | (width < 0) | (width > size)
        if bool(bad.any()):
            k = int(bad.nonzero()[0, 0])
            got = f"{int(start[k])}, {int(width[k])}"
            reason = f"no cyclic segment of 0..{size - 1}"
            way_out = f"pass starts in 0..{size - 1} and widths in 0..{size}"
            raise ArgumentError(
                complaint(where, f"{side}_start, {side}_width of box {k}", got, reason, way_out)
            )
        if total is not None and int(width.sum()) != total:
            name = "left" if side == "row" else "right"
            reason = f"the {side}_width of all boxes add up to {int(width.sum())}"
            way_out = "pass the numbers of all boxes, cropped to their segments, one after the other"
            raise ArgumentError(complaint(where, f"{name}.shape", (total,), reason, way_out))
