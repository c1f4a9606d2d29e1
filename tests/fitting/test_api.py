"""``fit`` from end to end: recovery from entries alone, choosing a family, an honest no, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch

import kmatrix as km
from kmatrix.fitting.problem import Declined, Problem, Proposal
from kmatrix.fitting.search.loop import Search

RNG = np.random.default_rng(5)
TOL = 1e-10


def hartley(n: int) -> np.ndarray:
    turns = np.outer(np.arange(n), np.arange(n)) % n / n
    return np.cos(2 * np.pi * turns) + np.sin(2 * np.pi * turns)


TRANSFORMS: dict[str, Callable[[int], np.ndarray]] = {
    "dft": lambda n: np.fft.fft(np.eye(n)),
    "idft": lambda n: np.fft.ifft(np.eye(n)),
    "dct2": lambda n: scipy.fft.dct(np.eye(n), axis=0),
    "dst2": lambda n: scipy.fft.dst(np.eye(n), axis=0),
    "hadamard": lambda n: scipy.linalg.hadamard(n).astype(float),
    "hartley": hartley,
    "circulant": lambda n: scipy.linalg.circulant(RNG.standard_normal(n)),
    "toeplitz": lambda n: scipy.linalg.toeplitz(RNG.standard_normal(n), RNG.standard_normal(n)),
}


BY_FFT = {"circulant", "toeplitz"}
"""Applied by Fourier transforms, which cost more operations than they save at small sizes."""
EXACT: dict[str, Callable[[int], km.StructuredMatrix]] = {
    "dft": km.transforms.dft,
    "idft": km.transforms.idft,
    "dct2": km.transforms.dct,
    "dst2": km.transforms.dst,
    "hadamard": km.transforms.hadamard,
    "hartley": km.transforms.hartley,
    "circulant": lambda n: km.transforms.circulant(np.ones(n)),
    "toeplitz": lambda n: km.transforms.toeplitz(np.ones(n), np.ones(n)),
}


def check_recovered(name: str, dense: np.ndarray) -> km.Fit:
    found = km.fit(dense, tol=TOL, batches=())
    assert found.certificate.num_params <= 2 * EXACT[name](len(dense)).num_params
    x = np.random.default_rng(0).standard_normal(dense.shape[1])
    assert found.relative_error <= 1e-12, found.history
    assert found.certificate.num_params < dense.size
    np.testing.assert_allclose(found.matrix @ x, dense @ x, atol=1e-11 * np.abs(dense).max() * len(x))
    return found


@pytest.mark.parametrize("n", [8, 64])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_recovered_from_their_entries(name: str, n: int) -> None:
    check_recovered(name, TRANSFORMS[name](n))


@pytest.mark.parametrize("name", sorted(BY_FFT))
def test_fewest_operations_of_a_small_matrix_are_dense(name: str) -> None:
    found = km.fit(TRANSFORMS[name](8), tol=TOL, of="flops", batches=())
    assert isinstance(found.matrix.structure, km.Dense)


def test_a_kronecker_sum_takes_no_more_operations_than_dense() -> None:
    # Twelve products of 12 x 12 factors hold 3,456 numbers of 20,736, but take 12 * 24 * 144 * 2 operations.
    dense = sum(np.kron(*RNG.standard_normal((2, 12, 12))) for _ in range(12))
    found = km.fit(dense, tol=TOL, batches=())
    assert isinstance(found.matrix.structure, km.Dense)
    assert max(a.flops or 0 for a in found.history if a.family == "Kronecker") <= 2 * dense.size
    fewer = km.fit(sum(np.kron(*RNG.standard_normal((2, 12, 12))) for _ in range(5)), tol=TOL, batches=())
    assert fewer.method.startswith("Kronecker: 5 products of (12, 12) and (12, 12)")
    assert fewer.certificate.flops <= fewer.certificate.dense_flops


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_transforms_are_recovered_in_any_order(name: str, side: str) -> None:
    dense, order = TRANSFORMS[name](64), np.random.default_rng(3).permutation(64)
    check_recovered(name, dense[order] if side == "rows" else dense[:, order])


@pytest.mark.parametrize("n", [45, 60, 243])
@pytest.mark.parametrize("name", ["dft", "dct2"])
def test_sizes_that_are_not_powers_of_two(name: str, n: int) -> None:
    check_recovered(name, TRANSFORMS[name](n))


def test_noise_under_the_tolerance_does_not_hide_a_transform() -> None:
    noise = RNG.standard_normal((64, 64)) * 1e-6
    found = km.fit(scipy.fft.dct(np.eye(64), axis=0, norm="ortho") + noise, tol=1e-4, batches=())
    assert found.relative_error <= 1e-4
    assert found.certificate.num_params < 64 * 64 / 2


@pytest.mark.parametrize("complex_", [False, True])
def test_gaussian_noise_is_refused_with_the_reason(complex_: bool) -> None:
    dense = RNG.standard_normal((48, 32)) + (1j * RNG.standard_normal((48, 32)) if complex_ else 0)
    found = km.fit(dense, tol=1e-6, batches=())
    assert isinstance(found.matrix.structure, km.Dense)
    assert found.relative_error == 0.0
    assert "no structure cheaper than dense" in found.reason
    assert {a.family for a in found.history} >= {"low rank", "butterfly", "Toeplitz", "Kronecker"}
    assert not any(a.met for a in found.history)
    assert all(a.note for a in found.history)


@pytest.mark.parametrize(
    ("dense", "family"),
    [
        (RNG.standard_normal((40, 3)) @ RNG.standard_normal((3, 30)), "low rank"),
        (np.kron(RNG.standard_normal((5, 4)), RNG.standard_normal((6, 8))), "Kronecker: 1 product of"),
        (scipy.linalg.toeplitz(RNG.standard_normal(60), RNG.standard_normal(50)), "Toeplitz"),
        (scipy.linalg.hankel(RNG.standard_normal(60), RNG.standard_normal(50)), "Hankel"),
        (RNG.standard_normal((30, 20)) * (RNG.random((30, 20)) < 0.1), "sparse"),
        (np.diag(RNG.standard_normal(30)), "permutation"),
        (np.eye(30)[RNG.permutation(30)], "permutation"),
    ],
    ids=["low rank", "Kronecker", "Toeplitz", "Hankel", "sparse", "diagonal", "permutation"],
)
def test_the_cheapest_family_is_chosen(dense: np.ndarray, family: str) -> None:
    found = km.fit(dense, tol=TOL, batches=())
    assert found.method.startswith(family)
    assert found.relative_error <= TOL
    won = [a for a in found.history if a.met and a.num_params is not None]
    assert found.certificate.num_params == min(a.num_params for a in won if a.num_params is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_the_answer_has_the_targets_dtype_and_its_certificate_says_so(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(24, 2, generator=generator) @ torch.randn(2, 32, generator=generator)
    found = km.fit(dense.to(dtype), tol=0.02, batches=())
    assert found.matrix.dtype == dtype
    assert found.relative_error <= 0.02
    assert found.certificate.dtype == str(dtype).removeprefix("torch.")


def test_rounding_of_the_answers_dtype_counts_against_the_tolerance() -> None:
    dense = torch.from_numpy(scipy.fft.dct(np.eye(32), axis=0, norm="ortho")).float()
    found = km.fit(dense, tol=2e-7, batches=())
    assert found.relative_error <= 2e-7


def test_numpy_in_numpy_out_and_torch_in_torch_out() -> None:
    dense = np.outer(np.arange(1.0, 9), np.arange(1.0, 7))
    found = km.fit(dense, tol=1e-9)
    assert isinstance(found.matrix @ np.ones(6), np.ndarray)
    assert isinstance(found.matrix @ torch.ones(6, dtype=torch.float64), torch.Tensor)
    assert [t.batch for t in found.certificate.timings] == [1, 64]


def test_the_same_seed_gives_the_same_answer() -> None:
    dense = TRANSFORMS["dct2"](32)[np.random.default_rng(1).permutation(32)]
    first, second = (km.fit(dense, tol=TOL, seed=7, batches=()) for _ in range(2))
    assert torch.equal(first.matrix.to_dense(), second.matrix.to_dense())
    assert [(a.family, a.relative_error, a.note) for a in first.history] == [
        (a.family, a.relative_error, a.note) for a in second.history
    ]


def test_fit_of_flops_prefers_few_operations() -> None:
    dense = scipy.linalg.circulant(RNG.standard_normal(64))
    by_params, by_flops = km.fit(dense, tol=TOL, batches=()), km.fit(dense, tol=TOL, of="flops", batches=())
    assert by_params.certificate.num_params <= by_flops.certificate.num_params
    assert by_flops.certificate.flops <= by_params.certificate.flops


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "pass tol="),
        ({"tol": 0}, "must be positive"),
        ({"tol": -1.0}, "must be positive"),
        ({"tol": 1e-20}, "below the rounding"),
        ({"tol": 1.0}, "zero matrix"),
        ({"tol": math.nan}, "not a finite number"),
        ({"tol": "small"}, "not a finite number"),
        ({"tol": 1e-3, "max_seconds": 0}, "not a positive number"),
        ({"tol": 1e-3, "name": "w"}, "only files"),
        ({"structure": km.LowRank(2), "tol": 2.0}, "zero matrix"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(km.ArgumentError, match=says):
        km.fit(np.eye(4), **arguments)  # type: ignore[arg-type]


def test_a_class_instead_of_a_structure_is_refused() -> None:
    with pytest.raises(km.DtypeError, match=r"km.Butterfly\(\)"):
        km.fit(np.eye(4), km.Butterfly)  # type: ignore[arg-type]


def test_without_a_tolerance_nothing_is_met_or_missed() -> None:
    assert km.fit(np.eye(4), km.LowRank(2), batches=()).history[0].met is None
    assert km.fit(np.eye(4), km.LowRank(2), tol=0.1, batches=()).history[0].met is False


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300])
def test_matrices_at_the_edge_of_the_number_range(value: float) -> None:
    found = km.fit(np.full((6, 6), value), tol=1e-8, batches=())
    np.testing.assert_allclose(found.matrix @ np.ones(6), np.full(6, 6 * value), rtol=1e-7)


@pytest.mark.parametrize("value", [1e308, 1.7e308, 1e308 + 1e308j, 1.5e308 + 1.5e308j])
def test_numbers_near_the_largest_are_fitted_compared_and_certified(value: complex) -> None:
    target = np.full((3, 3), value)
    for found in (km.fit(target, tol=1e-2, batches=()), km.fit(target / 2, km.LowRank(1), batches=())):
        assert found.relative_error < 1e-14
    assert km.certify(target, found.matrix, batches=()).relative_error == pytest.approx(0.5)
    assert all(0 <= attempt.relative_error < 1 for attempt in km.compare(target))


def test_a_member_beyond_the_number_range_is_refused() -> None:
    largest = np.diag(np.full(4, np.finfo(np.float64).max))
    with pytest.raises(km.FitError, match="W / 2"):
        km.fit(largest, km.LowRank(1), batches=())
    assert km.fit(largest / 2, km.LowRank(1), batches=()).relative_error == pytest.approx(0.75**0.5)


def test_one_by_one() -> None:
    assert km.fit(np.array([[3.0]]), tol=1e-8).matrix @ np.array([2.0]) == pytest.approx(6.0)


def _rank_one(problem: Problem) -> Proposal:
    matrix = km.LowRank(1).random(*problem.shape, dtype=torch.float64)
    return Proposal(matrix, "drawn")


def test_an_interruption_keeps_the_best_so_far() -> None:
    def interrupted(problem: Problem) -> Proposal:
        raise KeyboardInterrupt

    problem = Problem(torch.ones(8, 8, dtype=torch.float64), tol=0.999999)
    search = Search(problem, torch.float64, lambda family, attempt: None)
    search.run([("drawn", _rank_one), ("slow", interrupted), ("never", _rank_one)])
    assert search.interrupted
    assert [a.family for a in search.history] == ["drawn"]


def test_a_family_that_keeps_its_best_so_far_ends_the_search() -> None:
    def stopped(problem: Problem) -> Proposal:
        return replace(_rank_one(problem), interrupted=True)

    search = Search(Problem(torch.ones(8, 8, dtype=torch.float64), 0.99), torch.float64, lambda f, a: None)
    search.run([("stopped", stopped), ("never", _rank_one)])
    assert search.interrupted
    assert [a.family for a in search.history] == ["stopped"]


def test_time_that_is_up_is_said_of_every_family_not_tried() -> None:
    found = km.fit(RNG.standard_normal((16, 16)), tol=1e-6, max_seconds=1e-9, batches=())
    assert all(a.note == "time is up" for a in found.history)
    assert found.interrupted
    assert "cut short" in found.reason
    assert "untried" in found.reason
    assert isinstance(found.matrix.structure, km.Dense)


def test_progress_hears_of_every_family_twice() -> None:
    heard: list[tuple[str, bool]] = []
    found = km.fit(np.eye(8), tol=1e-6, batches=(), progress=lambda f, a: heard.append((f, a is not None)))
    names = [a.family for a in found.history]
    assert heard == [(name, done) for name in names for done in (False, True)]


def test_a_family_that_declines_is_recorded_with_its_reason() -> None:
    def declines(problem: Problem) -> Proposal:
        raise Declined("not today")

    search = Search(Problem(torch.eye(4, dtype=torch.float64), 1e-3), torch.float64, lambda f, a: None)
    search.run([("shy", declines)])
    assert search.history[0].note == "not today"
    assert search.winner is None


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "structure",
    [
        km.OBB(),
        km.OrthogonalButterfly(),
        km.BPPermutation(),
        km.BPBP(),
        km.Kaleidoscope(),
        km.Fastfood(),
        km.ACDC(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_learnt_structures_of_the_smallest_sizes(structure: km.Structure, n: int) -> None:
    found = km.fit(2 * np.eye(n), structure, batches=())
    assert found.relative_error <= 0.5 + 1e-9


def test_a_multiple_keeps_its_number_and_parts_of_sums_may_be_multiples() -> None:
    dense = RNG.standard_normal((8, 8))
    assert km.fit(dense, km.Scaled(km.LowRank(3), 7.0), batches=()).matrix.structure == km.Scaled(
        km.LowRank(3), 7.0
    )
    found = km.fit(dense, km.Sum((km.Scaled(km.Butterfly(), 2.0), km.Fastfood())), batches=())
    assert found.relative_error < 1


def test_a_prime_side_is_named_where_the_answer_is_dense() -> None:
    found = km.fit(np.fft.fft(np.eye(31)), tol=TOL, batches=())
    assert isinstance(found.matrix.structure, km.Dense)
    assert "a side is prime (31)" in found.reason
    assert "prime" not in km.fit(RNG.standard_normal((12, 12)), tol=TOL, batches=()).reason
