"""Sums of rank-one boxes: budgets met exactly, cropped products equal to masked ones, members made from parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import kmatrix as km
from kmatrix._errors import ArgumentError, FileFormatError
from kmatrix.structures import GBLR, Boxes, GBLRMatrix, load, save
from kmatrix.structures._box_draws import draw_widths
from kmatrix.structures._words import brief


@pytest.mark.parametrize(("m", "n"), [(8, 8), (13, 5), (40, 100), (1, 9)])
@pytest.mark.parametrize("budget", [0.03, 0.3, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("nblocks", [None, 1, 3, 50])
def test_random_members_use_the_budget_up(m: int, n: int, budget: float, nblocks: int | None) -> None:
    structure = GBLR(nblocks, budget)
    count = min(m, n) if nblocks is None else nblocks
    most = min(round(budget * m * n, 9) // 1, count * (m + n))
    if most < 2:
        with pytest.raises(ArgumentError, match="larger budget"):
            structure.random(m, n)
        return
    A = structure.random(m, n)
    boxes = A.boxes
    boxes.check(m, n)
    assert boxes.cost == A.num_params == structure.num_params(m, n) == most
    assert len(boxes) == count and A.left.numel() + A.right.numel() == most
    assert boxes.row_width.gt(0).equal(boxes.col_width.gt(0))


def test_a_budget_beyond_all_boxes_is_that_of_full_boxes() -> None:
    assert GBLR(nblocks=3, budget=1e300).num_params(10**6, 10**6) == 3 * 2 * 10**6
    assert GBLR(budget=np.float32(0.5)) == GBLR(budget=0.5)


def test_a_decimal_budget_is_not_rounded_away() -> None:
    assert GBLR(budget=0.3).num_params(1000, 1000) == 300_000
    assert GBLR(budget=0.1).num_params(10, 10) == 10


@pytest.mark.parametrize(
    ("count", "size", "total"), [(5, 9, 5), (5, 9, 45), (5, 9, 6), (7, 100, 350), (1, 3, 2), (0, 3, 0)]
)
def test_widths_add_up(count: int, size: int, total: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        widths = draw_widths(count, size, total, generator)
        assert int(widths.sum()) == total
        assert bool(((widths >= 1) & (widths <= size)).all())


def test_random_members_are_of_the_size_of_their_input() -> None:
    x = torch.randn(200, 300)
    y = km.GBLR(budget=0.4).random(250, 300)(x)
    assert 0.5 < float(y.detach().std()) < 2.0


def test_the_cropped_product_is_the_masked_one() -> None:
    A = GBLR(nblocks=9, budget=0.5).random(15, 11, dtype=torch.float64)
    u, v = A.factors()
    assert torch.equal(u != 0, A.boxes.row_masks(15)) and torch.equal(v.T != 0, A.boxes.col_masks(11))
    x = torch.randn(6, 11, dtype=torch.float64)
    torch.testing.assert_close(A(x), x @ (u @ v).T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(A.to_dense(), u @ v, rtol=1e-12, atol=1e-12)


def test_from_boxes_copies_and_leaves_out_what_is_empty() -> None:
    boxes = Boxes([1, 0, 2], [2, 3, 1], [0, 1, 3], [2, 0, 4])
    left, right = torch.arange(1.0, 7.0), torch.arange(1.0, 7.0)
    A = GBLRMatrix.from_boxes((3, 4), boxes, left, right)
    left.zero_()
    assert A.boxes == boxes.without_empty()
    assert A.left.tolist() == [1.0, 2.0, 6.0] and A.right.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    want = torch.zeros(3, 4)
    want[1:3, 0:2] = torch.tensor([[1.0], [2.0]]) * torch.tensor([1.0, 2.0])
    want[2] += 6 * torch.tensor([4.0, 5.0, 6.0, 3.0])  # starts at column 3
    torch.testing.assert_close(A.to_dense(), want)


def test_a_member_names_the_smallest_structure_that_holds_it() -> None:
    given = GBLR(nblocks=7, budget=0.6)
    full = given.random(9, 12)
    same = GBLRMatrix.from_boxes((9, 12), full.boxes, full.left, full.right, given)
    assert same.structure is given
    kept = full.boxes.select(torch.arange(4))
    left, right = full.left[: kept.row_total], full.right[: kept.col_total]
    part = GBLRMatrix.from_boxes((9, 12), kept, left, right, given)
    assert (part.num_params, part.structure.nblocks) == (kept.cost, 4)
    assert part.structure.totals(9, 12) == (kept.row_total, kept.col_total)
    assert part.left.shape == left.shape and torch.equal(part.right, right)


def test_every_cost_has_a_structure() -> None:
    for m, n in ((7, 11), (3, 50)):
        for rows in range(1, m + 1):
            for cols in range(1, n + 1):
                A = GBLRMatrix.from_boxes(
                    (m, n), Boxes([0], [rows], [0], [cols]), torch.ones(rows), torch.ones(cols)
                )
                assert A.structure.totals(m, n) == (rows, cols)


def test_no_box_at_all_is_the_zero_matrix(tmp_path: Path) -> None:
    nothing = torch.zeros(0)
    A = GBLRMatrix.from_boxes((3, 4), Boxes([], [], [], []), nothing, nothing)
    assert (A.num_params, A.flops) == (0, 0)
    assert torch.equal(A(torch.randn(5, 4)), torch.zeros(5, 3))
    assert torch.equal(A.T.to_dense(), torch.zeros(4, 3))
    save(A, tmp_path / "A.safetensors")
    assert torch.equal(load(tmp_path / "A.safetensors").to_dense(), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shape": (1, 4)}, "box 0"),
        ({"left": torch.ones(3)}, "left.shape"),
        ({"right": torch.ones(2, 1)}, "right"),
        ({"right": torch.ones(2, dtype=torch.float64)}, "right"),
        ({"structure": GBLR(nblocks=1, budget=0.2)}, "admits"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], word: str) -> None:
    good: dict[str, object] = {
        "shape": (3, 4),
        "boxes": Boxes([1], [2], [3], [2]),
        "left": torch.ones(2),
        "right": torch.ones(2),
    }
    GBLRMatrix.from_boxes(**good)
    with pytest.raises(ArgumentError, match=word):
        GBLRMatrix.from_boxes(**(good | change))


@pytest.mark.parametrize(
    "fields",
    [
        {"nblocks": 0},
        {"budget": -0.1},
        {"budget": float("nan")},
        {"budget": 10**400},
        {"budget": "a"},
        {"left": -1},
    ],
    ids=str,
)
def test_impossible_structures_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="GBLR"):
        GBLR(**fields)


@pytest.mark.parametrize("left", [0, 1000, 25])
def test_a_side_that_no_boxes_have_is_refused(left: int) -> None:
    with pytest.raises(ArgumentError, match="left"):
        GBLR(nblocks=2, budget=0.25, left=left).random(10, 10)


def test_files_with_boxes_outside_are_refused(tmp_path: Path) -> None:
    A = GBLR(nblocks=3, budget=0.5).random(6, 6)
    A.places[0, 1] = 6
    save(A, tmp_path / "A.safetensors")
    with pytest.raises(FileFormatError, match="box 1"):
        load(tmp_path / "A.safetensors")


def test_it_trains() -> None:
    target = GBLR(nblocks=4, budget=0.4).random(10, 12, generator=torch.Generator().manual_seed(1))
    layer = km.nn.Linear(12, 10, structure=GBLR(nblocks=4, budget=0.4), bias=False)
    layer.matrix.places.copy_(target.places)  # only the numbers are learned here
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    x = torch.randn(64, 12)
    losses = []
    for _ in range(60):
        loss = (layer(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_a_bias_is_added_whoever_watches(batch: int, dtype: torch.dtype) -> None:
    A = GBLR(nblocks=5, budget=0.5).random(12, 9, dtype=dtype)
    x, bias = torch.randn(batch, 9, dtype=dtype), torch.randn(12, dtype=dtype)
    want = x @ A.to_dense().T + bias
    for watched in (bias.clone().requires_grad_(), bias, torch.stack([bias, bias], 1)[:, 0]):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                for _ in range(3):  # the long way, and what knows it from before
                    got = A(x, watched)
                    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
                    assert got.requires_grad == grad
    A.requires_grad_(False)
    learned = bias.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(A(x, learned).abs().sum(), learned)
    assert gradient.shape == bias.shape and A(x, bias).requires_grad is False


@pytest.mark.parametrize("copies", [3, 5])
def test_layers_stacked_by_torch_func_keep_their_own_boxes(copies: int) -> None:
    layers = [km.nn.Linear(12, 9, structure=km.GBLR(budget=0.5), dtype=torch.float64) for _ in range(copies)]
    parameters, buffers = torch.func.stack_module_state(layers)
    x = torch.randn(4, 12, dtype=torch.float64)

    def loss(parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> torch.Tensor:
        y = torch.func.functional_call(layers[0], (parameters, buffers), (x,))
        return y.square().sum()

    values = torch.func.vmap(loss)(parameters, buffers)
    gradients = torch.func.vmap(torch.func.grad(loss))(parameters, buffers)
    for k, layer in enumerate(layers):
        want = layer(x).square().sum()
        torch.testing.assert_close(values[k], want.detach(), rtol=1e-12, atol=1e-12)
        for name, gradient in zip(
            gradients, torch.autograd.grad(want, list(layer.parameters())), strict=True
        ):
            torch.testing.assert_close(gradients[name][k], gradient, rtol=1e-12, atol=1e-12)


def test_what_it_is_called_is_short() -> None:
    assert repr(GBLR(12, 80 / 384)) == "GBLR(nblocks=12, budget=0.2083)"
    assert repr(GBLR(12, 0.5, left=7)) == "GBLR(nblocks=12, budget=0.5, left=7)"
    assert brief(GBLR(12, 80 / 384, left=7)) == "GBLR(nblocks=12, budget=0.2083)"
