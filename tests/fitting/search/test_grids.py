"""Block low rank and BLAST in the search: members are found, cheaper ones win, noise is refused."""

from __future__ import annotations

import pytest
import torch

import kmatrix as km
from kmatrix.fitting.problem import Declined, Problem
from kmatrix.fitting.search import grids
from kmatrix.fitting.search.grids import blast, block_low_rank


def member(structure: km.Structure, m: int, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    matrix = structure.random(m, n, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        for weight in matrix.parameters():
            weight.normal_(generator=generator)
    return matrix.to_dense().detach()


@pytest.mark.parametrize(("p", "rank"), [(2, 3), (4, 2)])
@pytest.mark.parametrize(("m", "n"), [(48, 64), (50, 61)])
def test_tiles_of_low_rank_are_found(p: int, rank: int, m: int, n: int) -> None:
    dense = member(km.BlockLowRank(p, rank), m, n)
    found = block_low_rank(Problem(dense, 1e-10)).matrix
    assert found.structure == km.BlockLowRank(p, rank)
    assert torch.linalg.norm(found.to_dense().detach() - dense) <= 1e-10 * torch.linalg.norm(dense)


def test_below_the_rank_the_best_there_is_is_offered() -> None:
    problem = Problem(member(km.BlockLowRank(4, 4), 64, 64), 1e-10)
    problem.cheapest = km.BlockLowRank(4, 3).num_params(64, 64) + 1
    assert "the tolerance needs rank" in block_low_rank(problem).note


def test_a_blast_member_wins_the_search() -> None:
    dense = member(km.BLAST(4, 10), 96, 80)
    found = km.fit(dense, tol=1e-6, batches=())
    assert found.matrix.structure == km.BLAST(4, 10)
    assert found.relative_error <= 1e-6


@pytest.mark.parametrize("rank", [3, 10])
def test_no_member_has_less_than_the_least_coupling(rank: int) -> None:
    problem = Problem(member(km.BLAST(4, rank), 96, 80), 1e-10)
    assert grids._least_coupling(problem, 4, 20) == rank
    assert grids._least_coupling(problem, 4, rank - 1) > rank - 1


@pytest.mark.parametrize("settled", [False, True])
def test_noise_is_refused_without_an_alternation(settled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(torch.randn(96, 96, dtype=torch.float64), 1e-3)
    problem.cheapest, problem.settled = 96 * 20, settled
    monkeypatch.setattr(grids, "project_blast", None)
    with pytest.raises(Declined, match="block rows or columns"):
        blast(problem)
    if settled:
        with pytest.raises(Declined):
            block_low_rank(problem)


def test_time_that_is_up_keeps_the_rank_that_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 0.05 * torch.randn(96, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dense = member(km.BLAST(4, 5), 96, 80)
    problem = Problem(dense / dense.norm() * 80 + noise, 0.04)
    calls = iter(range(100))
    fitted = grids._fitted

    def late(*arguments: object) -> object:
        found = fitted(*arguments)  # type: ignore[arg-type]
        if next(calls) == 2 * len(grids._promising(problem)):  # the first at full length
            problem.deadline = 0.0
        return found

    monkeypatch.setattr(grids, "_fitted", late)
    offer = blast(problem)
    assert offer.interrupted
