"""Boxes: where they lie, in what order, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import Boxes


@pytest.fixture
def boxes() -> Boxes:
    return Boxes([4, 0, 2], [3, 0, 2], [1, 3, 5], [2, 4, 6])


def test_masks_are_written_out(boxes: Boxes) -> None:
    rows = [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]]
    cols = [[0, 0, 1], [1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 1, 1]]
    assert boxes.row_masks(5).int().tolist() == rows
    assert boxes.col_masks(7).int().tolist() == cols
    covered = boxes.mask(5, 7)
    for i in range(5):
        for j in range(7):
            assert bool(covered[i, j]) == any(rows[i][k] and cols[j][k] for k in range(3))


def test_counts_and_offsets(boxes: Boxes) -> None:
    assert (len(boxes), boxes.row_total, boxes.col_total, boxes.cost) == (3, 5, 12, 17)
    assert boxes.row_offsets.tolist() == [0, 3, 3, 5]
    assert boxes.col_offsets.tolist() == [0, 2, 6, 12]


def test_numbers_on_a_side_know_box_and_position(boxes: Boxes) -> None:
    owner, position = boxes.on_rows(5)
    assert owner.tolist() == [0, 0, 0, 2, 2] and position.tolist() == [4, 0, 1, 2, 3]
    owner, position = boxes.on_cols(7)
    assert owner.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert position.tolist() == [1, 2, 3, 4, 5, 6, 5, 6, 0, 1, 2, 3]


def test_empty_boxes_are_left_out(boxes: Boxes) -> None:
    assert boxes.occupied.tolist() == [True, False, True]
    assert boxes.without_empty() == Boxes([4, 2], [3, 2], [1, 5], [2, 6])


def test_order_and_transpose(boxes: Boxes) -> None:
    assert boxes.order("rows").tolist() == [1, 2, 0]
    assert boxes.order("cols").tolist() == [0, 1, 2]
    tied = Boxes([3, 3, 0], [5, 2, 1], [0, 0, 0], [1, 1, 1])
    assert tied.order().tolist() == [2, 1, 0]
    assert torch.equal(boxes.transposed.mask(7, 5), boxes.mask(5, 7).T)


def test_lists_and_places_come_back(boxes: Boxes) -> None:
    assert Boxes.from_lists(boxes.to_lists()) == boxes
    assert Boxes.from_places(boxes.places) == boxes
    assert Boxes.from_lists([]) == Boxes([], [], [], [])
    assert boxes != Boxes.from_lists(boxes.to_lists()[:2])
    assert Boxes(*(np.array(field) for field in boxes.places.numpy())) == boxes


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (([0], [1], [0], [1, 1]), ArgumentError),
        (([0], [1], [0], [-1]), ArgumentError),
        (([[0]], [1], [0], [1]), ArgumentError),
        (([0.5], [1], [0], [1]), DtypeError),
        (([True], [1], [0], [1]), DtypeError),
    ],
    ids=str,
)
def test_what_are_no_boxes_is_refused(fields: tuple[list[int], ...], error: type[Exception]) -> None:
    with pytest.raises(error, match=";"):
        Boxes(*fields)


@pytest.mark.parametrize("shape", [(4, 7), (5, 5)])
def test_boxes_that_reach_outside_are_refused(boxes: Boxes, shape: tuple[int, int]) -> None:
    boxes.check(5, 7)
    with pytest.raises(ArgumentError, match="of box"):
        boxes.check(*shape)


@pytest.mark.parametrize("side", ["row", "columns", ""])
def test_an_order_of_no_side_is_refused(boxes: Boxes, side: str) -> None:
    with pytest.raises(ArgumentError, match="side"):
        boxes.order(side)


@pytest.mark.parametrize("by_places", [False, True])
def test_boxes_do_not_move_with_the_tensors_they_were_made_of(by_places: bool) -> None:
    places = torch.tensor([[0, 1], [2, 1], [3, 0], [1, 2]])
    made = Boxes.from_places(places) if by_places else Boxes(*places)
    places[0] = -5
    assert made.row_start.tolist() == [0, 1]
