"""Polishing: errors only fall, to rounding where the target is a member, and a step is the least squares one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError
from kmatrix.fitting.chains.polish import polish
from kmatrix.ops import Pattern, chain_matmul

BUTTERFLY = [Pattern(8 >> k, 2, 2, 1 << k) for k in range(4)]
CHAINS = {
    "butterfly": BUTTERFLY,
    "tile rank 2": [Pattern(4, 8, 4, 1), Pattern(1, 4, 8, 4)],
    "rectangular": [Pattern(6, 2, 3, 1), Pattern(1, 5, 6, 2)],
    "kaleidoscope": [*reversed(BUTTERFLY), *BUTTERFLY],
    "low rank": [Pattern(1, 2, 9, 1), Pattern(1, 7, 2, 1)],
}


def dense(weights: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    a, _, c, d = weights[0].shape
    return chain_matmul(torch.eye(a * c * d, dtype=weights[0].dtype), weights).T


def draw(patterns: list[Pattern], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(p, dtype=dtype) for p in patterns]


def nudged(weights: list[Tensor], by: float) -> list[Tensor]:
    return [w + by * torch.randn_like(w) for w in weights]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", ["butterfly", "tile rank 2", "rectangular", "low rank"])
def test_butterflies_near_a_member_reach_it(name: str, dtype: torch.dtype) -> None:
    weights = draw(CHAINS[name], dtype)
    target = dense(weights)
    found = polish(target, nudged(weights, 1e-4), CHAINS[name], sweeps=50, tol=1e-13)
    assert found.errors[0] > 1e-6
    assert found.errors[-1] < 1e-12
    gap = torch.linalg.vector_norm(dense(found.weights) - target) / torch.linalg.vector_norm(target)
    assert found.errors[-1] == pytest.approx(float(gap), abs=1e-15)


@pytest.mark.parametrize("name", CHAINS)
def test_errors_only_fall_on_any_target(name: str) -> None:
    weights = draw(CHAINS[name])
    shape = dense(weights).shape
    found = polish(torch.randn(shape, dtype=torch.float64), weights, CHAINS[name])
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.errors))
    assert found.errors[-1] < found.errors[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_one_factor_gets_the_least_squares_solution(dtype: torch.dtype) -> None:
    target, left, right = (torch.randn(s, dtype=dtype) for s in ((7, 8), (7, 6), (4, 8)))
    patterns = [Pattern(1, 4, 8, 1), Pattern(2, 3, 2, 1), Pattern(1, 7, 6, 1)]
    weights = [right[None, ..., None], torch.zeros(patterns[1], dtype=dtype), left[None, ..., None]]
    # With the outer factors kept, the unknowns of the middle one solve a linear problem written out in full.
    columns = [
        torch.outer(left[:, 3 * a + b], right[2 * a + c]).flatten()
        for a, b, c in itertools.product(range(2), range(3), range(2))
    ]
    exact = torch.linalg.lstsq(torch.stack(columns, 1), target.flatten()[:, None]).solution.reshape(
        patterns[1]
    )
    best = dense([weights[0], exact, weights[2]])
    found = polish(target, weights, patterns, sweeps=1)
    assert found.errors[1] <= float(
        torch.linalg.vector_norm(target - best) / torch.linalg.vector_norm(target)
    )


def test_a_single_factor_takes_over_its_support() -> None:
    target, pattern = torch.randn(12, 16, dtype=torch.complex128), Pattern(2, 3, 4, 2)
    found = polish(target, [torch.randn(pattern, dtype=torch.complex128)], [pattern], sweeps=1)
    grid = target.reshape(2, 3, 2, 2, 4, 2)
    expected = torch.stack([torch.stack([grid[a, :, d, a, :, d] for d in range(2)], -1) for a in range(2)])
    torch.testing.assert_close(found.weights[0], expected, rtol=0, atol=1e-12)


def test_factors_without_rank_are_no_obstacle() -> None:
    weights = draw(BUTTERFLY)
    weights[1][:, :, 1] = 0
    weights[2][0] = 0
    target = torch.randn(16, 16, dtype=torch.float64)
    found = polish(target, weights, BUTTERFLY)
    assert all(torch.isfinite(w).all() for w in found.weights)
    assert found.errors[-1] < found.errors[0]


def test_leaves_its_input_alone() -> None:
    weights = draw(BUTTERFLY)
    before = [w.clone() for w in weights]
    polish(torch.randn(16, 16, dtype=torch.float64), weights, BUTTERFLY)
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_zero_target() -> None:
    found = polish(torch.zeros(16, 16, dtype=torch.float64), draw(BUTTERFLY), BUTTERFLY)
    assert found.errors[-1] < 1e-12


@pytest.mark.parametrize(
    ("matrix", "weights", "patterns", "match"),
    [
        (torch.zeros(16, 16), [torch.zeros(1, 2, 2, 1)], [Pattern(8, 2, 2, 1)], "expand tied"),
        (torch.zeros(2, 2), [], [], "expand tied"),
        (torch.zeros(2, 3), [torch.zeros(1, 2, 2, 1)], [Pattern(1, 2, 2, 1)], "fit"),
        (
            torch.zeros(2, 2),
            [torch.zeros(1, 3, 2, 1), torch.zeros(1, 2, 2, 1)],
            [(1, 3, 2, 1), (1, 2, 2, 1)],
            "fit",
        ),
    ],
)
def test_refuses_chains_that_do_not_fit(
    matrix: Tensor, weights: list[Tensor], patterns: list[Pattern], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        polish(matrix, weights, [Pattern(*p) for p in patterns])
