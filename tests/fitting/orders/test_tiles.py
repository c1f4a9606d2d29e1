"""Radices planned from tile ranks, and tile butterflies for a tolerance under the known orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

import kmatrix as km
from kmatrix._permutations import digit_reversal, even_odd_reversed, prime_factors
from kmatrix.fitting.chains.hierarchical import hierarchical
from kmatrix.fitting.orders import tiles as tiles_module
from kmatrix.fitting.orders.radices import least_numbers, plan_radices, tile_rank
from kmatrix.fitting.orders.tiles import tile_butterfly
from kmatrix.fitting.problem import Declined, Problem


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("n", [16, 64, 60])
def test_the_plan_for_a_dft_is_its_butterfly(n: int) -> None:
    radices = prime_factors(n)
    dense = torch.from_numpy(np.fft.fft(np.eye(n))[:, digit_reversal(radices)])
    plan = plan_radices(dense, radices, radices, tol=1e-10, generator=generator())
    found = hierarchical(dense, plan.pairs)
    assert found.relative_error < 1e-14
    assert set(found.ranks) == {1}
    assert found.num_params == plan.num_params == n * sum(radices)


def test_the_plan_for_noise_is_dense() -> None:
    dense = torch.randn(32, 32, dtype=torch.float64, generator=generator())
    plan = plan_radices(dense, (2,) * 5, (2,) * 5, tol=1e-6, generator=generator())
    assert plan.num_params == 32 * 32


@pytest.mark.parametrize("rank", [1, 3])
def test_tile_ranks_are_those_of_the_tiles(rank: int) -> None:
    member = km.BlockTensorTrain(8, rank)
    matrix = member.random(64, 64, dtype=torch.float64, generator=generator())
    with torch.no_grad():
        for weight in matrix.weights:  # type: ignore[attr-defined]
            weight.normal_(generator=generator())
        dense = matrix.to_dense()
    assert tile_rank(dense, 8, 8, tol=1e-10, generator=generator()) == rank


def test_a_tile_that_holds_most_of_the_energy_is_looked_at() -> None:
    dense = torch.zeros(64, 64, dtype=torch.float64)
    dense[::8, :8] = torch.randn(8, 8, dtype=torch.float64, generator=generator())
    assert tile_rank(dense, 8, 8, tol=1e-10, generator=generator()) == 8


@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_a_smooth_kernel_is_found_within_its_tolerance(tol: float) -> None:
    points = torch.arange(128, dtype=torch.float64)
    dense = 1 / (1 + (points[:, None] - points).abs())
    found = tile_butterfly(Problem(dense, tol)).matrix
    gap = torch.linalg.norm(found.to_dense().detach() - dense) / torch.linalg.norm(dense)
    assert gap <= tol
    assert found.num_params < 128 * 128


def test_the_dct_is_cheap_in_the_folded_order() -> None:
    n = 64
    dense = torch.from_numpy(scipy.fft.dct(np.eye(n), axis=0))
    assert math.prod(dense[:, even_odd_reversed(n)].shape) == n * n
    found = tile_butterfly(Problem(dense, 1e-10)).matrix
    assert found.num_params < n * n / 2
    torch.testing.assert_close(found.to_dense().detach(), dense, rtol=0, atol=1e-11)


def test_noise_and_sizes_without_tiles_are_declined() -> None:
    with pytest.raises(Declined, match="full rank"):
        tile_butterfly(Problem(torch.randn(64, 64, dtype=torch.float64, generator=generator()), 1e-8))
    with pytest.raises(Declined, match="too small"):
        tile_butterfly(Problem(torch.ones(2, 9, dtype=torch.float64), 1e-3))
    with pytest.raises(Declined, match="prime factor"):
        tile_butterfly(Problem(torch.ones(67, 67, dtype=torch.float64), 1e-3))


@pytest.mark.parametrize("n", [64, 60, 45])
def test_no_butterfly_of_full_rank_holds_fewer_numbers_than_one_of_tile_rank_one(n: int) -> None:
    radices = prime_factors(n)
    assert least_numbers(radices, radices, rank=n) == n * sum(radices)
    assert least_numbers(radices, radices) < n * sum(radices)  # a matrix of rank one


@pytest.mark.parametrize("tiles", [1, 2, 4])
def test_the_least_numbers_are_no_more_than_a_plan_holds(tiles: int) -> None:
    dense = km.BlockTensorTrain(8, tiles).random(64, 64, dtype=torch.float64, generator=generator())
    plan = plan_radices(
        dense.to_dense().detach(), (2,) * 6, (2,) * 6, tol=1e-10, generator=generator()
    ).num_params
    assert least_numbers((2,) * 6, (2,) * 6, at=(3, 3), tiles=tiles) <= plan


def test_what_cannot_be_cheaper_than_a_transform_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 64
    problem = Problem(torch.from_numpy(np.fft.fft(np.eye(n))), 1e-10)
    found = tile_butterfly(problem)
    problem.cheapest, problem.settled = found.matrix.num_params, True
    monkeypatch.setattr(tiles_module, "tile_rank", None)  # no tile is looked at
    with pytest.raises(Declined, match="chains of full rank"):
        tile_butterfly(problem)


def test_a_cheaper_one_is_found_beside_a_settled_answer() -> None:
    dense = torch.from_numpy(np.kron(np.eye(8), np.fft.fft(np.eye(8))))
    problem = Problem(dense, 1e-10)
    problem.cheapest, problem.settled = 64 * 24, True
    assert problem.cost(tile_butterfly(problem).matrix) < 64 * 24
