"""Boxes that were put into a matrix are found again: where they lie, and up to the noise what they hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.fitting import BoxFit, fit_boxes
from kmatrix.structures import Boxes

NOISE = 0.01


def _vectors(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of either sign between 0.5 and 1.5 inside the masks: no edge is lost in the noise."""
    sizes = 0.5 + torch.rand(masks.shape, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(masks.shape, generator=generator) < 0.5, -sizes, sizes) * masks


def _planted(boxes: Boxes, m: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """The sum of boxes, and the same with noise of 1 % of its norm."""
    generator = torch.Generator().manual_seed(seed)
    left = _vectors(boxes.row_masks(m), generator)
    right = _vectors(boxes.col_masks(n), generator)
    clean = left @ right.mT
    noise = torch.randn(m, n, generator=generator, dtype=torch.float64)
    return clean, clean + NOISE * noise * clean.norm() / noise.norm()


def _check(found: BoxFit, clean: Tensor, noisy: Tensor, cost: int) -> None:
    """At the noise floor: nearer to what was planted than the noise is, at no more than its cost."""
    dense = found.left.mT @ found.right
    assert found.boxes.cost <= cost
    assert (noisy - dense).norm() <= (noisy - clean).norm()
    # Least squares for p of N numbers keeps p/N of the energy of the noise.
    share = math.sqrt(cost / clean.numel())
    assert (dense - clean).norm() <= 1.2 * share * (noisy - clean).norm()


def _random_boxes(count: int, m: int, n: int, seed: int) -> Boxes:
    generator = torch.Generator().manual_seed(seed)
    fields = []
    for size in (m, n):
        fields += [
            torch.randint(size, (count,), generator=generator),
            torch.randint(size // 8, size // 2 + 1, (count,), generator=generator),
        ]
    return Boxes(*fields)


@pytest.mark.parametrize("seed", range(4))
def test_overlapping_boxes_are_told_apart(seed: int) -> None:
    boxes = _random_boxes(8, 64, 64, seed)
    clean, noisy = _planted(boxes, 64, 64, seed)
    found = fit_boxes(noisy, 8, boxes.cost)
    assert sorted(found.boxes.to_lists()) == sorted(boxes.to_lists())
    _check(found, clean, noisy, boxes.cost)


def test_boxes_that_wrap_around_both_sides_are_found() -> None:
    boxes = Boxes([50, 20], [20, 17], [40, 3], [13, 23])
    clean, noisy = _planted(boxes, 59, 47, 0)
    found = fit_boxes(noisy, 2, boxes.cost)
    assert sorted(found.boxes.to_lists()) == sorted(boxes.to_lists())
    _check(found, clean, noisy, boxes.cost)


def test_complex_boxes_are_found() -> None:
    boxes = Boxes([3, 30], [12, 20], [5, 28], [17, 9])
    clean, noisy = _planted(boxes, 40, 40, 1)
    turn = torch.polar(
        torch.ones(40, dtype=torch.float64), torch.linspace(0.0, 20.0, 40, dtype=torch.float64)
    )
    clean, noisy = turn[:, None] * clean, turn[:, None] * noisy
    found = fit_boxes(noisy, 2, boxes.cost)
    assert sorted(found.boxes.to_lists()) == sorted(boxes.to_lists())
    _check(found, clean, noisy, boxes.cost)


def test_low_rank_is_found_as_full_boxes() -> None:
    boxes = Boxes([0] * 5, [48] * 5, [0] * 5, [36] * 5)
    clean, noisy = _planted(boxes, 48, 36, 2)
    found = fit_boxes(noisy, 5, boxes.cost)
    assert all(rows == 48 and cols == 36 for _, rows, _, cols in found.boxes.to_lists())
    _check(found, clean, noisy, boxes.cost)


def test_block_low_rank_is_found_in_its_blocks() -> None:
    """Four by four blocks of 16 x 12, of which every other one has rank 2."""
    corners = [(16 * i, 12 * j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    places = [[top, 16, left, 12] for top, left in corners for _ in range(2)]
    boxes = Boxes.from_lists(places)
    clean, noisy = _planted(boxes, 64, 48, 3)
    found = fit_boxes(noisy, len(boxes), boxes.cost)
    assert torch.equal(found.boxes.mask(64, 48), boxes.mask(64, 48))
    _check(found, clean, noisy, boxes.cost)


def test_dense_blocks_are_found_as_strips() -> None:
    """A dense b x b block is b strips: b (b + 1) numbers, which no other tiling holds it with."""
    corners = [(0, 24), (16, 16), (40, 8), (56, 56), (32, 48)]
    places = [[top + k, 1, left, 8] for top, left in corners for k in range(8)]
    boxes = Boxes.from_lists(places)
    clean, noisy = _planted(boxes, 64, 64, 4)
    found = fit_boxes(noisy, len(boxes), boxes.cost)
    assert torch.equal(found.boxes.mask(64, 64), boxes.mask(64, 64))
    _check(found, clean, noisy, boxes.cost)


def test_the_same_matrix_gives_the_same_boxes() -> None:
    _, noisy = _planted(_random_boxes(4, 40, 30, 5), 40, 30, 5)
    once, again = (fit_boxes(noisy, 4, 150) for _ in range(2))
    assert once.boxes == again.boxes
    assert torch.equal(once.left, again.left)


def test_fit_finds_them_with_a_structure() -> None:
    boxes = _random_boxes(3, 32, 32, 6)
    _, noisy = _planted(boxes, 32, 32, 6)
    fitted = km.fit(noisy, km.GBLR(3, boxes.cost / 32**2), batches=())
    assert fitted.relative_error <= NOISE
    assert sorted(fitted.matrix.boxes.to_lists()) == sorted(boxes.to_lists())  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", [0, 1, 9, 11, 15, 22])
def test_two_boxes_that_overlap_are_found_whatever_the_numbers_on_their_edges(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(size, generator=generator) for size in (20, 20, 35, 30)]
    W = torch.zeros(64, 64)
    W[10:30, 5:25] += torch.outer(rows[0], rows[1])
    W[25:60, 20:50] += torch.outer(rows[2], rows[3])
    found = fit_boxes(W, 2, 105)
    assert sorted(found.boxes.to_lists()) == [[10, 20, 5, 20], [25, 35, 20, 30]]
    assert (found.left.mT @ found.right - W.double()).norm() < 1e-5 * W.norm()
