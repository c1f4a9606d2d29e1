"""Radices planned from tile ranks, and tile butterflies for a tolerance under the known orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

import kmatrix as km
from kmatrix._permutations import digit_reversal, even_odd_reversed, prime_factors
from kmatrix.fit.hierarchical import hierarchical
from kmatrix.fit.problem import Declined, Problem
from kmatrix.fit.radices import plan_radices, tile_rank
from kmatrix.fit.tiles import as_pairs, chain_matrix, tile_butterfly
from kmatrix.structures.butterfly import tile_chain


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


@pytest.mark.parametrize(("pairs", "ranks"), [(((2, 2), (3, 5), (4, 2)), (2, 3)), (((6, 4),), ())])
def test_radices_are_read_off_a_chain(pairs: tuple[tuple[int, int], ...], ranks: tuple[int, ...]) -> None:
    assert as_pairs(tile_chain(pairs, ranks)) == (pairs, ranks)


def test_a_chain_that_does_not_nest_has_no_radices() -> None:
    with pytest.raises(Declined, match="does not nest"):
        as_pairs((km.Factor(1, 6, 4, 1), km.Factor(3, 2, 2, 1)))


@pytest.mark.parametrize("natural", [True, False])
def test_a_chain_is_put_back_into_the_order_of_the_target(natural: bool) -> None:
    n = 24
    rng = np.random.default_rng(0)
    rows, columns = (np.arange(n) if natural else rng.permutation(n) for _ in range(2))
    dense = torch.randn(n, n, dtype=torch.float64, generator=generator())
    found = hierarchical(dense[torch.from_numpy(rows)][:, torch.from_numpy(columns)], [(4, 4), (6, 6)])
    matrix = chain_matrix(found, rows, columns)
    assert isinstance(matrix.structure, km.Butterfly if natural else km.Chain)
    torch.testing.assert_close(matrix.to_dense().detach(), dense, rtol=0, atol=1e-13)


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
