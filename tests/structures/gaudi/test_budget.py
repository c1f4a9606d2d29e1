"""Projections onto a budget against a solver of another kind, and whole widths against their definition."""

import math

import pytest
import torch

from kmatrix.structures.gaudi.budget import cost, project, rounded_within, shrink


def draw(k: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    widths = torch.rand(40, dtype=torch.float64, generator=generator) * 1.4 - 0.2  # a step may leave [0, 1]
    return widths, torch.randint(1, 50, (40,), generator=generator).double()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("seed", range(4))
def test_the_projection_is_the_nearest_point(seed: int, share: float) -> None:
    widths, sizes = draw(seed)
    budget = share * cost(widths.clamp(0, 1), sizes)
    nearest = project(widths, sizes, budget)
    assert cost(nearest, sizes) == pytest.approx(budget, rel=1e-9, abs=1e-9)
    assert 0 <= nearest.min() and nearest.max() <= 1
    # No point y of the set lies on the far side: <w - p, y - p> <= 0, which has its largest value at a vertex.
    away = widths - nearest
    value, left = 0.0, budget
    for k in torch.argsort(away / sizes, descending=True).tolist():
        part = min(1.0, left / float(sizes[k])) if away[k] > 0 else 0.0
        value, left = value + float(away[k]) * part, left - part * float(sizes[k])
    assert value <= float(away @ nearest) + 1e-9


def test_widths_within_the_budget_stay_but_for_the_bounds() -> None:
    widths, sizes = draw(0)
    assert torch.equal(project(widths, sizes, 1e6), widths.clamp(0, 1))
    assert project(torch.zeros(0), torch.zeros(0), 1.0).shape == (0,)


def test_projection_onto_nothing_is_nothing() -> None:
    widths, sizes = draw(1)
    assert not project(widths, sizes, 0.0).any()


@pytest.mark.parametrize(
    ("bad", "counts_as"), [(math.nan, 0.0), (math.inf, 2.0), (1e30, 2.0), (-math.inf, -1.0)]
)
def test_a_width_that_diverged_leaves_the_others_their_share(bad: float, counts_as: float) -> None:
    widths, sizes = torch.tensor([bad, 0.9, 0.9]), torch.full((3,), 10.0)
    nearest = project(widths, sizes, 12.0)
    assert torch.equal(nearest, project(torch.tensor([counts_as, 0.9, 0.9]), sizes, 12.0))
    assert cost(nearest, sizes) == pytest.approx(12.0) and nearest[1] == nearest[2] > 0
    assert shrink(widths, sizes, 0.1)[1] == pytest.approx(0.8)
    assert 0 <= shrink(widths, sizes, 0.1)[0] <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("budget", [5, 20, 60])
def test_whole_widths_of_a_box_that_diverged_stay_within_the_budget(bad: float, budget: int) -> None:
    units = torch.tensor([[bad, 4.0, 5.0], [3.0, 4.0, 2.0]])
    whole = rounded_within([units], [(8, 6)], budget)[0]
    boxes = 3 if bad > 0 else 2
    assert int(whole.sum()) == min(budget, boxes * (8 + 6))
    assert (whole >= 0).all() and (whole <= torch.tensor([[8], [6]])).all()
    assert bad > 0 or not whole[:, 0].any()


def test_shrinking_solves_its_proximal_problem() -> None:
    widths, sizes = draw(2)
    found = shrink(widths, sizes, 0.1)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64).unsqueeze(1)
    objective = 0.5 * (grid - widths) ** 2 + 0.1 * sizes / sizes.mean() * grid
    assert (grid[objective.argmin(0), 0] - found).abs().max() <= 0.5 / 2000 + 1e-12


def matrices(seed: int) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(9, 14), (30, 5), (8, 8)]
    units = [torch.rand(2, 6, generator=generator) * torch.tensor([[m], [n]]) for m, n in sizes]
    units[1][0, 2] = 0.4  # empty on a side
    return units, sizes


@pytest.mark.parametrize("budget", [2, 17, 60, 113, 150, 187, 400, 10**6])
def test_whole_widths_use_up_a_budget_together(budget: int) -> None:
    units, sizes = matrices(budget)
    whole = rounded_within(units, sizes, budget)
    reach = sum(6 * (m + n) for m, n in sizes)
    dropped = sum(
        m + n for u, (m, n) in zip(units, sizes, strict=True) for k in range(6) if (u[:, k] < 0.5).any()
    )
    total = sum(int(w.sum()) for w in whole)
    assert total == min(budget, reach - dropped)
    for w, (m, n) in zip(whole, sizes, strict=True):
        assert ((w == 0).all(0) | (w > 0).all(0)).all()
        assert (w <= torch.tensor([[m], [n]])).all()
    assert not whole[1][:, 2].any()


def test_ordinary_rounding_where_it_uses_up_the_budget() -> None:
    units, sizes = matrices(3)
    plain = [torch.where((u.round() > 0).all(0), u.round(), 0).long() for u in units]
    found = rounded_within(units, sizes, sum(int(p.sum()) for p in plain))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_equal_widths_are_cut_as_evenly_as_whole_numbers_can() -> None:
    whole = rounded_within([torch.full((2, 5), 4.0)], [(8, 8)], 37)
    assert sorted(whole[0].flatten().tolist()) == [3, 3, 3, 4, 4, 4, 4, 4, 4, 4]


def test_no_matrices_have_no_widths() -> None:
    assert rounded_within([], [], 5) == []
