"""One choice under one budget: optimal against all choices, within the budget, and a clear no below the least."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from kmatrix import ArgumentError
from kmatrix.compress import budget as module
from kmatrix.compress.budget import Option, choose


def drawn(seed: int, layers: int = 4, options: int = 4) -> list[list[Option]]:
    rng = random.Random(seed)
    return [
        [Option(0.0, 100.0), *(Option(rng.random(), 100 * rng.random()) for _ in range(options - 1))]
        for _ in range(layers)
    ]


def total(options: list[list[Option]], picked: tuple[int, ...] | list[int]) -> tuple[float, float]:
    pairs = [own[k] for own, k in zip(options, picked, strict=True)]
    return sum(o.loss for o in pairs), sum(o.cost for o in pairs)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_no_other_choice_loses_less(seed: int, share: float) -> None:
    options = drawn(seed)
    least = sum(min(o.cost for o in own) for own in options)
    budget = least + share * (400 - least)
    loss, cost = total(options, choose(options, budget))
    assert cost <= budget * (1 + 1e-9)
    every = itertools.product(*(range(len(own)) for own in options))
    best = min(loss for loss, cost in (total(options, picked) for picked in every) if cost <= budget)
    assert loss <= best * (1 + 2 * module.GAP) + 1e-9


@pytest.mark.parametrize("late", [None, "worst"])
def test_what_a_price_found_is_kept_where_the_solver_runs_out_of_time(
    monkeypatch: pytest.MonkeyPatch, late: str | None
) -> None:
    def solve(options: Sequence[Sequence[Option]], budget: float) -> list[int] | None:
        cheapest = [min(range(len(own)), key=lambda k: own[k].cost) for own in options]
        return None if late is None else cheapest

    monkeypatch.setattr(module, "_solve", solve)
    monkeypatch.setattr(module, "GAP", 0.0)  # the solver is asked
    for seed in range(6):
        options = [[own[k] for k in module._undominated(own)] for own in drawn(seed)]
        budget = 0.5 * (sum(own[-1].cost for own in options) + sum(own[0].cost for own in options))
        loss, cost = total(options, choose(options, budget))
        assert cost <= budget * (1 + 1e-9)
        assert loss <= module._priced(options, budget).loss * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_what_a_price_leaves_out_is_in_no_better_choice(seed: int) -> None:
    options = [[own[k] for k in module._undominated(own)] for own in drawn(seed, layers=5, options=6)]
    budget = 0.5 * (sum(own[-1].cost for own in options) + sum(own[0].cost for own in options))
    priced = module._priced(options, budget)
    loss, cost = total(options, priced.picked)
    assert cost <= budget and loss == pytest.approx(priced.loss)
    every = list(itertools.product(*(range(len(own)) for own in options)))
    within = [picked for picked in every if total(options, picked)[1] <= budget]
    best = min(within, key=lambda picked: total(options, picked)[0])
    assert loss - priced.gap <= total(options, best)[0] * (1 + 1e-12) <= loss * (1 + 1e-12)
    assert all(k in own for k, own in zip(best, priced.hopeful, strict=True))


def test_of_many_ranks_the_solver_is_asked_about_few(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, asked, solve = random.Random(0), [], module._solved
    options = []
    for _ in range(60):
        weight, fall = rng.uniform(0.1, 10), rng.uniform(0.5, 2)
        ranks = [Option(weight * 2 ** (-fall * k / 20), k / 80) for k in range(1, 80)]
        options.append([Option(0.0, 1.0), *ranks])
    monkeypatch.setattr(
        module, "_solved", lambda few, most: (asked.append(sum(map(len, few))), solve(few, most))[1]
    )
    for share in (0.25, 0.75):
        loss, cost = total(options, choose(options, share * 60))
        priced = module._priced([[own[k] for k in module._undominated(own)] for own in options], share * 60)
        assert cost <= share * 60 and priced.loss - priced.gap <= loss <= priced.loss
    assert all(count < 60 * 80 / 4 for count in asked)


def test_losses_and_costs_of_any_size_are_compared() -> None:
    options = [[Option(0.0, 1e12), Option(1e-14, 2e11)], [Option(0.0, 1e12), Option(3e-14, 2e11)]]
    assert choose(options, 1.3e12) == [1, 0]


def test_a_budget_below_the_least_is_refused() -> None:
    with pytest.raises(ArgumentError, match="the cheapest choice in every layer comes to 4"):
        choose([[Option(0.0, 10.0), Option(1.0, 4.0)]], 3.0)


def test_nothing_to_choose_is_no_choice() -> None:
    assert choose([], 1.0) == []


def test_costs_within_the_tolerance_of_the_solver_are_not_over_the_budget() -> None:
    # Numbers of a large model: one part in ten million too many is within the tolerance of HiGHS.
    options = [[Option(0.0, 1e9), Option(1.0, 5e8 + 50), Option(1.5, 4e8)] for _ in range(2)]
    budget = 1e9
    picked = choose(options, budget)
    assert total(options, picked)[1] <= budget
    assert total(options, picked)[0] == 2.5


def test_without_an_answer_of_the_solver_there_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_solved", lambda *_: None)
    options = [[Option(0.0, 0.1), Option(1.0, 0.7 / 3)][::-1] for _ in range(3)]
    assert choose(options, 0.1 + 0.1 + 0.1) == [1, 1, 1]
    options = drawn(5)
    least = sum(min(o.cost for o in own) for own in options)
    assert total(options, choose(options, least))[1] == least
