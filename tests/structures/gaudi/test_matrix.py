"""Matrices of boxes that learn: what every structure is held to, and what is theirs alone."""

import math
from pathlib import Path

import pytest
import torch

import kmatrix as km
from kmatrix import ArgumentError
from kmatrix.structures import Boxes
from kmatrix.structures.gaudi import gaudi_mask
from kmatrix.testing._arithmetic import Arithmetic
from kmatrix.testing._ecosystem import Ecosystem
from kmatrix.testing._storage import Storage


class TestGaudi(Arithmetic, Ecosystem, Storage):
    """Without the tests of derivatives: rounding goes straight through, so they are not those of the product."""

    examples = (
        (km.Gaudi(nblocks=5, budget=0.6), 7, 9),
        (km.Gaudi(), 13, 5),
        (km.Gaudi(budget=2.0), 1, 1),
        (km.Gaudi(nblocks=30, budget=0.1), 11, 17),
    )
    counted_by_torch = True

    def trainable_numbers(self, matrix: km.StructuredMatrix) -> float:
        boxes = matrix.widths.numel() + matrix.starts.numel()
        contents = matrix.left.numel() + matrix.right.numel()
        return boxes + contents / (2 if matrix.dtype.is_complex else 1)


def planted(m: int = 12, n: int = 10, count: int = 6, dtype: torch.dtype = torch.float64) -> km.GaudiMatrix:
    """A matrix of boxes of all kinds: full, wrapped, of width 1, and empty on one side."""
    boxes = Boxes([0, 9, 3, 5, 2, 11], [m, 5, 1, 0, 4, 2], [0, 8, 6, 1, 0, 3], [n, 4, 1, 3, 0, 1])
    left, right = torch.randn(count, m, dtype=dtype), torch.randn(count, n, dtype=dtype)
    return km.GaudiMatrix.from_boxes((m, n), boxes, left, right)


@pytest.mark.parametrize("sigma", [1.5, 20.0, math.inf])
def test_it_is_the_sum_of_masked_terms(sigma: float) -> None:
    A = planted()
    A.sigma = sigma
    w, s, (m, n) = A.widths.detach(), A.starts.detach(), A.shape
    u = A.left * gaudi_mask(w[0], s[0], m, sigma)
    v = A.right * gaudi_mask(w[1], s[1], n, sigma)
    expected = torch.einsum("km,kn->mn", u, v)
    assert torch.allclose(A.to_dense(), expected, rtol=1e-12, atol=1e-12)
    for vectors in (3, 500):  # factor by factor, and the factors multiplied first
        x = torch.randn(vectors, n, dtype=torch.float64)
        bias = torch.randn(m, dtype=torch.float64)
        assert torch.allclose(A(x, bias), x @ expected.mT + bias, rtol=1e-11, atol=1e-11)


def test_gradients_of_few_and_many_vectors_agree() -> None:
    A = planted()
    A.sigma = 4.0
    x = torch.randn(400, 10, dtype=torch.float64)
    weight = torch.randn(400, 12, dtype=torch.float64)
    whole = torch.autograd.grad((A(x) * weight).sum(), list(A.parameters()))
    parts = [
        torch.autograd.grad((A(a) * b).sum(), list(A.parameters())) for a, b in zip(x, weight, strict=True)
    ]
    for one, *others in zip(whole, *parts, strict=True):
        assert torch.allclose(one, sum(others), rtol=1e-10, atol=1e-10)


def test_evaluation_does_what_training_does_also_at_width_1() -> None:
    layer = km.nn.Linear.from_matrix(planted(), torch.zeros(12, dtype=torch.float64))
    x = torch.randn(5, 10, dtype=torch.float64)
    assert torch.equal(layer.train()(x), layer.eval()(x))
    boxes = layer.matrix.boxes
    assert ((boxes.row_width == 1) & (boxes.col_width == 1)).any()
    thin = layer.matrix.left[2, 3] * layer.matrix.right[2, 6]
    without = planted()
    without.load_state_dict(layer.matrix.state_dict())
    with torch.no_grad():
        without.widths[:, 2] = 0
    assert torch.allclose(layer.matrix.to_dense()[3, 6] - without.to_dense()[3, 6], thin)


def test_hardening_within_the_budget_changes_nothing() -> None:
    A = planted()
    hardened = A.harden()
    boxes, x = hardened.boxes, torch.randn(7, 10, dtype=torch.float64)
    assert boxes.cost == hardened.num_params == round(A.structure.budget * 120)
    # Dropped boxes cost nothing; what they leave makes others longer, by zeros.
    assert len(boxes.without_empty()) == 4
    assert torch.allclose(hardened(x), A(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.31, 0.5, 0.97, 2.0])
@pytest.mark.parametrize("shape", [(16, 16), (9, 31), (40, 7)])
def test_hardening_meets_any_budget_exactly(shape: tuple[int, int], budget: float) -> None:
    m, n = shape
    A = km.Gaudi(budget=budget).random(m, n)
    with torch.no_grad():
        A.widths.copy_(0.1 + 0.9 * torch.rand_like(A.widths))  # none rounds to nothing
        A.starts.copy_(torch.rand_like(A.starts))
    hardened = A.harden()
    assert hardened.boxes.cost == min(math.floor(budget * m * n), min(m, n) * (m + n))
    assert len(hardened.boxes) <= min(m, n)


def test_hardening_to_less_drops_the_rounded_threshold_alone() -> None:
    A = km.Gaudi(nblocks=3).random(10, 10, dtype=torch.float64)
    with torch.no_grad():
        A.widths.copy_(torch.tensor([[0.54, 0.36, 0.22], [0.5, 0.31, 0.98]]))
        A.starts.zero_()
    assert sorted(A.harden(0.29).boxes.row_width.tolist()) == [2, 4, 5]  # 29 of 5.4 3.6 2.2 5.0 3.1 9.8
    assert sorted(A.harden(0.28).boxes.row_width.tolist()) == [2, 3, 5]


def test_what_is_dead_on_both_sides_gets_no_gradient_and_is_revived() -> None:
    A = km.Gaudi(nblocks=8).random(12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A.spread_(
        torch.Generator().manual_seed(0)
    )  # boxes that reach everywhere: a row that is 0 has no gradient
    with torch.no_grad():
        A.widths[:, 2:5] = 0.3 / 12  # rounds to nothing on both sides
        A.widths[0, 6] = 0
    x = torch.randn(4, 10, dtype=torch.float64)
    assert A.dead.tolist() == [False] * 2 + [True] * 3 + [False] * 3

    def gradients() -> torch.Tensor:
        A.zero_grad()
        torch.autograd.backward((A(x) ** 2).sum())
        assert A.widths.grad is not None
        return A.widths.grad.clone()

    assert not gradients()[:, 2:5].any()
    before = A(x)
    assert A.revive_(torch.Generator().manual_seed(1)) == 3
    assert not A.dead.any() and torch.equal(A(x), before)
    revived = gradients()
    empty = A.widths == 0
    assert empty.sum(0).tolist() == [0, 0, 1, 1, 1, 0, 1, 0]  # the sides that can grow
    assert (revived[empty] != 0).all()
    assert A.revive_() == 0


def test_sigma_is_kept_in_files_and_changes_nothing_else() -> None:
    A, B = planted(), planted()
    A.sigma = 3.0
    B.load_state_dict(A.state_dict())
    assert B.sigma == 3.0 and torch.equal(A.to_dense(), B.to_dense())
    for wrong in (0, -1.0, "1", True, float("nan")):
        with pytest.raises(ArgumentError, match="sigma"):
            A.sigma = wrong  # type: ignore[assignment]
    assert A.sigma == 3.0


def test_boxes_keep_their_precision_in_models_of_16_bits() -> None:
    A = km.Gaudi().random(300, 400)
    with torch.no_grad():
        A.starts.copy_(torch.rand_like(A.starts))
    before = A.boxes
    half = A.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.widths.dtype == half.row_table.dtype == torch.float32
    assert half.boxes == before
    assert half(torch.randn(3, 400, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_what_does_not_fit_is_refused() -> None:
    boxes = Boxes([0], [2], [0], [2])
    with pytest.raises(ArgumentError, match=r"left\.shape"):
        km.GaudiMatrix.from_boxes((4, 5), boxes, torch.ones(1, 2), torch.ones(1, 5))
    with pytest.raises(ArgumentError, match="blocks"):
        two = Boxes([0, 1], [2, 2], [0, 1], [2, 2])
        km.GaudiMatrix.from_boxes((4, 5), two, torch.ones(2, 4), torch.ones(2, 5), km.Gaudi(nblocks=1))
    with pytest.raises(ArgumentError, match="budget"):
        km.Gaudi(budget=-1.0)


def test_boxes_that_are_added_are_drawn_by_the_generator_alone() -> None:
    boxes = Boxes([0, 4], [5, 3], [2, 1], [4, 4])
    left, right = torch.randn(2, 9), torch.randn(2, 7)
    state = torch.get_rng_state()
    found = [
        km.GaudiMatrix.from_boxes(
            (9, 7), boxes, left, right, km.Gaudi(6), generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    given = km.GaudiMatrix.from_boxes((9, 7), boxes, left, right)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), found[1].parameters(), strict=True))
    assert not torch.equal(found[0].left, found[2].left)
    assert torch.equal(given.left, left) and torch.equal(given.right, right)
    torch.testing.assert_close(given.to_dense(), found[0].to_dense())


def test_boxes_that_are_added_are_empty_and_alive() -> None:
    boxes = Boxes([1], [3], [2], [2])
    left, right = torch.randn(1, 6), torch.randn(1, 5)
    A = km.GaudiMatrix.from_boxes((6, 5), boxes, left, right, km.Gaudi(nblocks=4, budget=0.3))
    expected = torch.zeros(6, 5)
    expected[1:4, 2:4] = left[0, 1:4, None] * right[0, 2:4]
    assert torch.allclose(A.to_dense(), expected) and not A.dead.any()


def test_files_keep_the_gaussian(tmp_path: Path) -> None:
    A = planted()
    A.sigma = 3.0
    km.save(A, tmp_path / "A.safetensors")
    B = km.load(tmp_path / "A.safetensors")
    assert isinstance(B, km.GaudiMatrix) and B.sigma == 3.0
    assert torch.equal(A.to_dense(), B.to_dense())
    with torch.no_grad():
        A.width_of_gaussian.fill_(-1.0)
    with pytest.raises(ArgumentError, match="sigma"):
        B.load_state_dict(A.state_dict())


def test_numbers_that_diverged_stay_within_bounds() -> None:
    A = planted()
    with torch.no_grad():
        A.widths[:, 1:3] = torch.tensor([math.nan, math.inf])
        A.starts[:, 2:4] = torch.tensor([-math.inf, math.nan])
        A.starts[:, 4] = 1e30
    assert torch.isfinite(A(torch.randn(2, 10, dtype=torch.float64))).all()


def test_it_names_what_it_is_cropped_to() -> None:
    structure = km.Gaudi(nblocks=3, budget=0.29)
    assert structure.hardened == km.GBLR(nblocks=3, budget=0.29)
    assert structure.hardened.num_params(10, 10) == structure.random(10, 10).harden().num_params == 29
    assert structure.random(10, 10).harden(budget=0.07).num_params == 7


@pytest.mark.parametrize(("nblocks", "budget"), [(64, 0.01), (8, 0.3), (None, 0.5), (1, 1.0)])
def test_fresh_boxes_cost_at_most_their_budget(nblocks: int | None, budget: float) -> None:
    A = km.Gaudi(nblocks, budget).random(64, 48)
    assert A.boxes.cost <= budget * 64 * 48
    if nblocks == 64:
        assert A.dead.any() and A.revive_() > 0 and not A.dead.any()
