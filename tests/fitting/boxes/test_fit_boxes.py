"""Sums of boxes from dense: within their limits, never worse than low rank, and consistent with their matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.fitting import fit_boxes, low_rank_boxes


def _dense(m: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(m, n, dtype=dtype, generator=torch.Generator().manual_seed(m * n))


def _svd_error(dense: Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(dense)[rank:].norm())


@pytest.mark.parametrize("rounds", [0, 3])
@pytest.mark.parametrize(("m", "n"), [(16, 16), (21, 11), (8, 40), (1, 9), (7, 1)])
@pytest.mark.parametrize("budget", [0.15, 0.5, 1.1])
def test_never_worse_than_low_rank_of_the_same_cost(m: int, n: int, budget: float, rounds: int) -> None:
    dense, cost = _dense(m, n), max(2, int(budget * m * n))
    found = fit_boxes(dense, min(m, n), cost, rounds=rounds, thorough=rounds > 0)
    gap = float((dense - found.left.mT @ found.right).norm())
    assert gap <= _svd_error(dense, cost // (m + n)) * (1 + 1e-12) + 1e-12 * float(dense.norm())
    assert found.boxes.cost <= cost
    assert len(found.boxes) <= min(m, n)


def test_ranks_in_steps_need_fewer_numbers() -> None:
    """Of a random matrix nothing but its degrees of freedom can be saved, and boxes save those."""
    dense, cost = _dense(64, 64), 64 * 64 // 2
    found = fit_boxes(dense, 64, cost, rounds=0, thorough=False)
    gap = float((dense - found.left.mT @ found.right).norm())
    assert gap < _svd_error(dense, cost // 128 + 2)


def test_low_rank_boxes_are_low_rank() -> None:
    """They hold the product exactly, and cost what the elimination leaves."""
    u, v = _dense(40, 30), _dense(30, 50)
    found = low_rank_boxes(lambda r: (u[:, :r], v[:r]), (40, 50), 30, 1400)
    rank = len(found.boxes)
    assert rank > 1400 // 90
    assert found.boxes.cost <= 1400
    exact = u[:, :rank] @ v[:rank]
    assert (found.left.mT @ found.right - exact).norm() <= 1e-10 * exact.norm()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"nblocks": -1}, "nblocks"),
        ({"nblocks": 0}, "nblocks"),
        ({"cost": -3}, "cost"),
        ({"shape": (0, 5)}, "m="),
        ({"factors": lambda r: (torch.ones(6, r), torch.ones(5, r))}, "factors"),
        ({"factors": lambda r: (torch.ones(6, r + 1), torch.ones(r + 1, 5))}, "factors"),
        ({"factors": lambda r: [torch.ones(6, r)]}, "factors"),
    ],
)
def test_low_rank_boxes_of_what_does_not_fit_are_refused(change: dict[str, object], word: str) -> None:
    good = {
        "factors": lambda r: (torch.ones(6, r), torch.ones(r, 5)),
        "shape": (6, 5),
        "nblocks": 3,
        "cost": 30,
    }
    low_rank_boxes(**good)
    with pytest.raises(km.ArgumentError, match=f"^low_rank_boxes: {word}"):
        low_rank_boxes(**(good | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_the_matrix_holds_what_was_found(dtype: torch.dtype) -> None:
    dense = _dense(8, 10, dtype)
    fitted = km.fit(dense, km.GBLR(budget=0.4), batches=())
    assert fitted.matrix.dtype == dtype
    assert fitted.matrix.num_params <= 0.4 * 8 * 10
    gap = (fitted.matrix.to_dense().detach() - dense).norm() / dense.norm()
    assert abs(float(gap) - fitted.relative_error) < 1e-5


def test_vectors_at_full_length_agree_on_the_segments() -> None:
    dense = _dense(18, 22)
    found = fit_boxes(dense, 6, 120, rounds=2)
    left, right = found.extended(dense)
    on_rows = found.boxes.row_masks(18).mT
    assert torch.equal(left[on_rows], found.left[on_rows])
    assert torch.equal(right * found.boxes.col_masks(22).mT, found.right)
    # One more row: what is held there is the best for that row.
    k = int((found.boxes.row_width < 18).nonzero()[0])
    row = int((~on_rows[k]).nonzero()[0])
    rest = dense - found.left.mT @ found.right
    best = rest[row] @ found.right[k] / found.right[k].square().sum()
    assert torch.allclose(left[k, row], best)


def test_zero_is_no_box_and_cropped_numbers_are_in_order() -> None:
    assert len(fit_boxes(torch.zeros(4, 5), 3, 9).boxes) == 0
    dense = _dense(15, 15)
    found = fit_boxes(dense, 8, 90, rounds=0)
    matrix = found.matrix()
    assert torch.allclose(matrix.to_dense(), found.left.mT @ found.right)


def test_a_fit_may_be_cut_short() -> None:
    dense = _dense(20, 20)
    found = fit_boxes(dense, 20, 200, late=lambda: True)
    assert float((dense - found.left.mT @ found.right).norm()) <= _svd_error(dense, 5) * (1 + 1e-12)


@pytest.mark.parametrize(("left", "rounds"), [(10, 3), (60, 3), (100, 0), (0, 3), (120, 0)])
def test_the_split_of_the_cost_may_be_given(left: int, rounds: int) -> None:
    dense = _dense(15, 20)
    found = fit_boxes(dense, 15, 120, left=left, rounds=rounds)
    assert found.boxes.row_total <= left
    assert found.boxes.col_total <= 120 - left
    rank = min(left // 15, (120 - left) // 20)
    assert float((dense - found.left.mT @ found.right).norm()) <= _svd_error(dense, rank) * (1 + 1e-12)


@pytest.mark.parametrize("fit", [km.fitting.project, lambda s, w: km.fit(w, s, batches=()).matrix])
def test_fits_keep_to_the_split_of_the_structure(
    fit: Callable[[km.GBLR, Tensor], km.StructuredMatrix],
) -> None:
    found = fit(km.GBLR(3, 0.4, left=25), _dense(9, 10))
    assert isinstance(found, km.GBLRMatrix)
    assert found.boxes.row_total <= 25
    assert found.boxes.col_total <= int(0.4 * 9 * 10) - 25


def test_boxes_that_learn_begin_within_their_budget() -> None:
    """Of rank 1, so that boxes are left over and drawn; what is certified is what hardening keeps."""
    dense = torch.outer(torch.linspace(1, 2, 7), torch.linspace(-1, 3, 6)).double()
    once, again = (km.fit(dense, km.Gaudi(budget=0.3), batches=(), seed=3) for _ in range(2))
    boxes = km.fit(dense, km.GBLR(budget=0.3), batches=())
    assert once.relative_error == pytest.approx(boxes.relative_error, abs=1e-12)
    assert once.matrix.structure == km.Gaudi(budget=0.3)
    assert isinstance(once.matrix, km.GaudiMatrix)
    hardened = once.matrix.harden()
    assert hardened.num_params <= 0.3 * 7 * 6
    assert torch.allclose(hardened.to_dense(), once.matrix.to_dense(), atol=1e-12)
    for name, value in again.matrix.state_dict().items():
        assert torch.equal(value, once.matrix.state_dict()[name])


def test_a_single_number_is_fitted() -> None:
    one = km.fit(torch.tensor([[3.0]]), km.GBLR(budget=2.0), batches=())
    assert one.matrix.to_dense().tolist() == [[3.0]]
    assert one.matrix.num_params == 2


def test_nothing_to_spend_is_the_zero_matrix() -> None:
    found = km.fit(_dense(4, 5), km.GBLR(budget=0), batches=())
    assert found.matrix.num_params == 0
    assert not found.matrix.to_dense().any()
    assert found.relative_error == 1
    assert len(fit_boxes(_dense(4, 5), 3, 1).boxes) == 0


@pytest.mark.parametrize(("name", "value"), [("cost", -1), ("rounds", -1), ("left", 5), ("nblocks", 0)])
def test_wrong_limits_are_refused(name: str, value: int) -> None:
    with pytest.raises(km.ArgumentError, match=f"fit_boxes: {name}={value}: "):
        fit_boxes(torch.ones(3, 3), **{"nblocks": 1, "cost": 4} | {name: value})  # type: ignore[arg-type]


def test_targets_are_complained_of_by_name() -> None:
    for target in (torch.ones(3), torch.full((2, 2), torch.nan)):
        with pytest.raises(km.ArgumentError, match="fit_boxes: target"):
            fit_boxes(target, 1, 4)
