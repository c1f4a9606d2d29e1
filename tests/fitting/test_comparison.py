"""``compare``: every family beside truncated SVD, whose errors are right, and which only a clear gain beats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kmatrix as km
from kmatrix.fitting import Attempt
from kmatrix.fitting.comparison import TruncatedSVD


def attempt(error: float | None, size: int | None) -> Attempt:
    return Attempt("a", None, error, size, size, 0.1, None, "")


@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (1, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_errors_are_those_of_the_truncations(shape: tuple[int, int], scale: float) -> None:
    dense = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    svd = TruncatedSVD.of(dense * scale)
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    for rank in range(len(s) + 1):
        left = dense - u[:, :rank] * s[:rank] @ vh[:rank]
        expected = float(torch.linalg.norm(left) / torch.linalg.norm(dense))
        assert svd.errors[rank] == pytest.approx(expected, abs=1e-14)
        assert svd.error(rank * sum(shape)) == svd.errors[rank]


def test_a_size_between_two_ranks_buys_the_smaller_one() -> None:
    svd = TruncatedSVD.of(torch.eye(4, dtype=torch.float64))
    assert [svd.rank(size) for size in (0, 7, 8, 15, 16, 10**6)] == [0, 0, 1, 1, 2, 4]
    assert svd.error(8) == pytest.approx(np.sqrt(3 / 4))


def test_a_zero_matrix_has_no_error_to_speak_of() -> None:
    assert TruncatedSVD.of(torch.zeros(3, 3)).errors.tolist() == [0.0] * 4


def test_only_what_beats_svd_by_more_than_rounding_wins() -> None:
    svd = TruncatedSVD.of(torch.eye(4, dtype=torch.float64))
    errors = [svd.error(8) * (1 + gap) for gap in (-1e-3, -1e-15, 0.0, 1e-3)]
    assert [svd.loses_to(attempt(error, 8)) for error in errors] == [True, False, False, False]
    assert not svd.loses_to(attempt(None, None))


def test_nothing_is_closer_than_rounding() -> None:
    left, right = torch.randn(8, 2, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    svd = TruncatedSVD.of(left @ right)
    assert svd.error(32) < 1e-14
    assert not svd.loses_to(attempt(0.0, 32))


def test_a_low_rank_does_not_beat_itself_and_has_no_tolerance_to_meet() -> None:
    dense = torch.randn(24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tried = [a for a in km.compare(dense, budgets=(0.2, 0.4)) if a.family == "low rank"]
    assert [a.beats_svd for a in tried] == [False, False]
    assert [a.met for a in tried] == [None, None]


def test_toeplitz_matrices_beat_svd() -> None:
    dense = torch.arange(40.0).sin()[torch.arange(16)[:, None] - torch.arange(16) + 15] + torch.eye(16)
    assert next(a for a in km.compare(dense, budgets=(0.3,)) if a.family == "Toeplitz").beats_svd is True


def test_a_zero_matrix_is_reached_by_every_family_and_beaten_by_none() -> None:
    tried = km.compare(np.zeros((16, 12)), budgets=(0.2, 0.5))
    assert {a.relative_error for a in tried} == {0.0}
    assert {a.beats_svd for a in tried} == {False}
    assert len({a.family for a in tried}) > 8


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_size_of_the_target_does_not_matter(scale: float) -> None:
    dense = np.random.default_rng(0).standard_normal((16, 16)) + 2
    plain, scaled = (km.compare(target, budgets=(0.3, 0.5)) for target in (dense, scale * dense))
    assert [(a.family, a.structure, a.beats_svd) for a in plain] == [
        (a.family, a.structure, a.beats_svd) for a in scaled
    ]
    for a, b in zip(plain, scaled, strict=True):
        assert a.relative_error is not None and b.relative_error is not None
        assert math.isfinite(b.relative_error)
        assert b.relative_error == pytest.approx(a.relative_error, rel=1e-3)


def test_families_have_the_names_that_fit_gives_them() -> None:
    from kmatrix.fitting.search.families import FAMILIES

    dense = np.random.default_rng(0).standard_normal((16, 16))
    names = {a.family for a in km.compare(dense, budgets=(0.5,))}
    shared = {"low rank", "Kronecker", "sparse", "sparse + low rank", "Toeplitz", "Hankel", "block circulant"}
    assert shared <= names & dict(FAMILIES).keys()
