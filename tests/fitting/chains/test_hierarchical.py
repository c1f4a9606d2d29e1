"""The hierarchical factorisation: exact recovery, the error identity, the bounds, ranks and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, FitError
from kmatrix.fitting.chains.hierarchical import (
    balance_chain,
    hierarchical,
    hierarchical_transposed,
    transpose_chain,
)
from kmatrix.ops import Pattern, chain_matmul

Pairs = list[tuple[int, int]]
SHAPES: list[tuple[Pairs, list[int]]] = [
    ([(2, 2)] * 5, [1] * 4),
    ([(4, 4)] * 3, [1, 1]),
    ([(3, 3)] * 3, [2, 2]),
    ([(2, 3), (5, 2), (3, 4)], [1, 2]),
    ([(4, 6), (3, 3), (6, 5)], [3, 2]),
    ([(7, 5), (5, 7)], [1]),
    ([(2, 8), (8, 2)], [2]),
    ([(1, 4), (6, 3), (4, 1)], [1, 2]),
]
DTYPES = (torch.float64, torch.complex128)


def dense(weights: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    a, _, c, d = weights[0].shape
    return chain_matmul(torch.eye(a * c * d, dtype=weights[0].dtype), weights).T


def patterns_of(pairs: Pairs, ranks: list[int]) -> list[Pattern]:
    """The patterns as the definition of a tile-rank butterfly writes them."""
    rho = [1, *ranks, 1]
    return [
        Pattern(
            math.prod(c for _, c in pairs[i + 1 :]),
            rho[i + 1] * b,
            c * rho[i],
            math.prod(b for b, _ in pairs[:i]),
        )
        for i, (b, c) in enumerate(pairs)
    ]


def member(pairs: Pairs, ranks: list[int], dtype: torch.dtype = torch.float64) -> Tensor:
    return dense([torch.randn(p, dtype=dtype) for p in patterns_of(pairs, ranks)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pairs", "ranks"), SHAPES)
def test_recovers_members_of_the_class(pairs: Pairs, ranks: list[int], dtype: torch.dtype) -> None:
    target = member(pairs, ranks, dtype)
    found = hierarchical(target, pairs)
    assert found.ranks == tuple(ranks)
    assert list(found.patterns) == patterns_of(pairs, ranks)
    assert found.num_params == sum(w.numel() for w in found.weights)
    assert torch.linalg.vector_norm(dense(found.weights) - target) <= 1e-13 * torch.linalg.vector_norm(target)


@pytest.mark.parametrize(("pairs", "ranks"), SHAPES)
def test_transposed_recovers_members_of_the_transposed_class(pairs: Pairs, ranks: list[int]) -> None:
    weights, patterns = transpose_chain(
        hierarchical(member(pairs, ranks), pairs).weights, patterns_of(pairs, ranks)
    )
    target = dense(weights)
    found = hierarchical_transposed(target, [(c, b) for b, c in reversed(pairs)])
    assert found.patterns == patterns
    assert found.ranks == tuple(reversed(ranks))
    assert torch.linalg.vector_norm(dense(found.weights) - target) <= 1e-13 * torch.linalg.vector_norm(target)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pairs", "ranks"), SHAPES)
def test_error_is_the_sum_of_discarded_energies(pairs: Pairs, ranks: list[int], dtype: torch.dtype) -> None:
    m, n = math.prod(b for b, _ in pairs), math.prod(c for _, c in pairs)
    target = torch.randn(m, n, dtype=dtype)
    for factorise, cut in ((hierarchical, ranks), (hierarchical_transposed, [1] * (len(pairs) - 1))):
        found = factorise(target, pairs, ranks=cut)
        true = float(torch.linalg.vector_norm(dense(found.weights) - target)) ** 2
        assert found.squared_error == pytest.approx(true, rel=1e-12)
        assert found.squared_error == pytest.approx(sum(e * e for e in found.errors_per_level), rel=1e-14)
        assert found.relative_error == pytest.approx(
            math.sqrt(true) / float(torch.linalg.vector_norm(target))
        )


@pytest.mark.parametrize(("pairs", "ranks"), SHAPES)
def test_error_is_within_the_bound_of_a_near_member(pairs: Pairs, ranks: list[int]) -> None:
    clean = member(pairs, ranks)
    noise = torch.randn(clean.shape, dtype=torch.float64) * float(torch.linalg.vector_norm(clean)) * 1e-3
    found = hierarchical(clean + noise, pairs, ranks=ranks)
    distance = float(torch.linalg.vector_norm(noise))  # of one member, so no less than that of the best one
    assert found.lower_bound <= distance
    assert math.sqrt(found.squared_error) <= found.bound * distance
    assert found.bound == math.sqrt(len(pairs) - 1)


def test_no_level_loses_more_than_its_best_split() -> None:
    target = torch.randn(24, 30, dtype=torch.float64)
    found = hierarchical(target, [(2, 3), (3, 5), (4, 2)], ranks=[1, 2])
    for classes, width, rank, lost in (
        (2, 3, 1, found.errors_per_level[0]),
        (6, 15, 2, found.errors_per_level[1]),
    ):
        tiles = target.reshape(24 // classes, classes, 30 // width, width).permute(1, 2, 0, 3)
        best = float(torch.linalg.svdvals(tiles)[..., rank:].square().sum().sqrt())
        assert lost <= best * (1 + 1e-12)


@pytest.mark.parametrize("tol", [0.5, 1e-1, 1e-2, 1e-4])
def test_meets_the_tolerance_with_falling_ranks(tol: float) -> None:
    x = torch.linspace(0, 1, 64, dtype=torch.float64)
    target = 1 / (x[:, None] + x + 0.1)
    pairs = [(4, 4)] * 3
    found, finer = hierarchical(target, pairs, tol=tol), hierarchical(target, pairs, tol=tol / 100)
    assert found.relative_error <= tol
    assert found.num_params < finer.num_params
    true = float(torch.linalg.vector_norm(dense(found.weights) - target) / torch.linalg.vector_norm(target))
    assert found.relative_error == pytest.approx(true, rel=1e-9)


def test_rank_decision_sees_below_the_root_of_rounding() -> None:
    faint = 1e-11
    target = member([(4, 4), (4, 4)], [1]) + faint * member([(4, 4), (4, 4)], [1])
    found = hierarchical(target, [(4, 4), (4, 4)])
    assert found.ranks == (2,)
    assert found.relative_error < 1e-14
    assert hierarchical(target, [(4, 4), (4, 4)], tol=1e-9).ranks == (1,)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 1)])
def test_one_pair_is_the_dense_matrix(shape: tuple[int, int]) -> None:
    target = torch.randn(shape, dtype=torch.float64)
    found = hierarchical(target, [shape])
    assert torch.equal(found.weights[0], target[None, :, :, None])
    assert (found.squared_error, found.lower_bound) == (0.0, 0.0)


def test_zero_matrix_has_rank_one_and_no_error() -> None:
    found = hierarchical(torch.zeros(8, 8, dtype=torch.float64), [(2, 2)] * 3)
    assert found.ranks == (1, 1)
    assert found.relative_error == 0.0
    assert not dense(found.weights).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_balance_spreads_the_scale_and_keeps_the_product(dtype: torch.dtype) -> None:
    target = 1e6 * member([(2, 3), (5, 2), (3, 4)], [1, 2], dtype)
    weights = hierarchical(target, [(2, 3), (5, 2), (3, 4)]).weights
    balanced = balance_chain(weights)
    gains = [float(torch.linalg.vector_norm(w)) / math.sqrt(w.numel() / w.shape[2]) for w in balanced]
    assert max(gains) == pytest.approx(min(gains), rel=1e-12)
    assert torch.linalg.vector_norm(dense(balanced) - target) <= 1e-13 * torch.linalg.vector_norm(target)


def test_balance_leaves_a_chain_with_a_zero_factor() -> None:
    weights = [torch.zeros(1, 2, 2, 1, dtype=torch.float64), torch.ones(1, 2, 2, 1, dtype=torch.float64)]
    assert all(torch.equal(new, old) for new, old in zip(balance_chain(weights), weights, strict=True))


def test_transpose_chain_is_the_transposed_matrix() -> None:
    patterns = [Pattern(6, 2, 3, 1), Pattern(2, 4, 3, 2)]
    weights = [torch.randn(p, dtype=torch.complex128) for p in patterns]
    flipped, flipped_patterns = transpose_chain(weights, patterns)
    torch.testing.assert_close(dense(flipped), dense(weights).T, rtol=0, atol=1e-13)
    assert [tuple(w.shape) for w in flipped] == [tuple(p) for p in flipped_patterns]


def test_gives_up_when_longer_than_allowed() -> None:
    target = torch.randn(64, 64, dtype=torch.float64)
    with pytest.raises(FitError, match="max_params=4095"):
        hierarchical(target, [(4, 4)] * 3, max_params=64 * 64 - 1)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"pairs": [(2, 2), (3, 2)]}, ArgumentError, "multiply to the shape"),
        ({"pairs": []}, ArgumentError, "multiply to the shape"),
        ({"tol": -1.0}, ArgumentError, "finite number"),
        ({"tol": math.nan}, ArgumentError, "finite number"),
        ({"ranks": [1, 1]}, ArgumentError, "pass 1 ranks"),
        ({"ranks": [0]}, ArgumentError, "at least 1"),
        ({"matrix": torch.eye(4)}, DtypeError, "double"),
        ({"matrix": torch.full((4, 4), torch.nan, dtype=torch.float64)}, ArgumentError, "NaN"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, object], error: type[Exception], match: str) -> None:
    arguments: dict[str, object] = {
        "matrix": torch.eye(4, dtype=torch.float64),
        "pairs": [(2, 2), (2, 2)],
        **change,
    }
    with pytest.raises(error, match=match):
        hierarchical(**arguments)  # type: ignore[arg-type]
