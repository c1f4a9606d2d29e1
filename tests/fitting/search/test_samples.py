"""What a sample says against a family: never against members, and against noise at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kmatrix as km
from kmatrix.fitting.problem import Declined, Problem
from kmatrix.fitting.search.families import block_circulant, kronecker, sparse
from kmatrix.fitting.search.loop import Search
from kmatrix.fitting.search.samples import breaks_wrapped_diagonals, kronecker_rank

RNG = np.random.default_rng(0)


def settled(dense: np.ndarray, tol: float = 1e-10, cheapest: int | None = None) -> Problem:
    problem = Problem(torch.from_numpy(dense), tol)
    problem.cheapest, problem.settled = cheapest or dense.size - 1, True
    return problem


@pytest.mark.parametrize("k", [4, 8])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_block_circulants_pass(k: int, noise: float) -> None:
    dense = km.BlockCirculant(k).random(24, 40, dtype=torch.float64).to_dense().detach().numpy()
    noisy = dense + noise * np.linalg.norm(dense) / np.sqrt(dense.size) * RNG.standard_normal(dense.shape)
    problem = settled(noisy, max(1e-10, 1.1 * noise))
    assert not breaks_wrapped_diagonals(problem, k)
    found = block_circulant(problem).matrix.to_dense().detach().numpy()
    assert np.linalg.norm(found - noisy) <= problem.tol * np.linalg.norm(noisy)


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_kronecker_sums_pass(rank: int, noise: float) -> None:
    dense = sum(np.kron(*RNG.standard_normal((2, 12, 12))) for _ in range(rank))
    noisy = dense + noise * np.linalg.norm(dense) / 144 * RNG.standard_normal(dense.shape)
    problem = settled(noisy, max(1e-10, 1.1 * noise))
    assert kronecker_rank(problem, 12, 12) <= rank
    assert "of (12, 12) and (12, 12)" in kronecker(problem).note


def test_noise_is_refused_at_once() -> None:
    problem = settled(RNG.standard_normal((96, 96)), cheapest=96 * 20)
    assert breaks_wrapped_diagonals(problem, 8)
    assert kronecker_rank(problem, 12, 12) == 64
    for family in (block_circulant, kronecker, sparse):
        with pytest.raises(Declined):
            family(problem)


def test_a_transform_settles_the_search_and_a_loose_answer_does_not() -> None:
    dense = torch.from_numpy(np.fft.fft(np.eye(64)))
    for noise, expected in ((0.0, True), (1e-6, False)):
        problem = Problem(dense + noise * torch.randn(64, 64, dtype=torch.float64), 1e-4)
        search = Search(problem, torch.complex128, lambda family, attempt: None)
        search.run()
        assert problem.settled is expected
        assert search.winner is not None
