"""The certificate: errors against numpy, the spectral estimate's promise, and honest clocks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kmatrix as km
from kmatrix.fitting import Timing
from kmatrix.fitting import certificate as certificate_module
from kmatrix.fitting.certificate import _dense_norm, certify, relative_error, spectral_norm


def _estimate(matrix: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    found = spectral_norm(
        lambda x: matrix @ x,
        lambda y: matrix.mH @ y,
        matrix.shape[1],
        dtype=matrix.dtype,
        generator=torch.Generator().manual_seed(seed),
    )
    return found.lower, found.upper


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**20), st.booleans())
def test_the_spectral_norm_lies_between_the_estimates(m: int, n: int, seed: int, is_complex: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if is_complex else torch.float64
    matrix = torch.randn(m, n, dtype=dtype, generator=generator)
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    lower, upper = _estimate(matrix, seed)
    assert lower <= exact * (1 + 1e-12)
    assert exact <= upper * (1 + 1e-12)
    assert upper <= 1.5 * exact


def test_the_upper_value_covers_a_start_that_nearly_misses_the_top_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A spike among small directions and a start almost orthogonal to it: what is seen is far under the norm, and
    # only the probability bound's factor reaches it.
    spike = torch.diag(torch.cat([torch.tensor([1.0]), torch.full((99,), 0.97)])).double()
    start = torch.cat([torch.tensor([1e-4]), torch.ones(99)]).double()
    monkeypatch.setattr(torch, "randn", lambda *sizes, **options: start)
    lower, upper = _estimate(spike)
    assert lower < 0.98
    assert upper >= 1.0


@pytest.mark.parametrize("scale", [1e-200, 1e-80, 1e80, 1e200])
def test_certificates_do_not_depend_on_the_scale(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(12, 10, dtype=torch.float64, generator=generator)
    found = km.fit(target * scale, km.LowRank(3), batches=())
    gap = target - found.matrix.to_dense().detach() / scale
    exact = float(torch.linalg.matrix_norm(gap, 2) / torch.linalg.matrix_norm(target, 2))
    assert found.certificate.spectral_error.lower <= exact <= found.certificate.spectral_error.upper
    assert found.relative_error == pytest.approx(
        float(torch.linalg.norm(gap) / torch.linalg.norm(target)), rel=1e-9
    )


def test_a_tiny_gap_is_still_covered() -> None:
    gap = torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-170
    exact = float(torch.linalg.matrix_norm(gap * 1e170, 2)) * 1e-170
    alone = _dense_norm(gap, torch.Generator().manual_seed(0))
    assert alone.lower <= exact <= alone.upper


def test_certify_takes_what_fit_takes_and_checks_it() -> None:
    matrix = km.Butterfly().random(6, 6, dtype=torch.float64)
    assert km.certify(np.eye(6), matrix, batches=()).relative_error > 0
    with pytest.raises(km.ArgumentError, match=r"shape \(6, 6\)"):
        km.certify(np.ones((1, 6)), matrix)
    with pytest.raises(km.ArgumentError, match="NaN"):
        km.certify(np.full((6, 6), np.nan), matrix)
    with pytest.raises(km.DtypeError, match="StructuredMatrix"):
        km.certify(np.eye(6), np.eye(6))  # type: ignore[arg-type]


def test_certifying_leaves_the_global_random_state_alone() -> None:
    matrix = km.Butterfly().random(6, 6, dtype=torch.float64)
    before = torch.get_rng_state()
    km.certify(np.eye(6), matrix, batches=(1,))
    assert torch.equal(before, torch.get_rng_state())


def test_zero_has_norm_zero() -> None:
    assert _estimate(torch.zeros(3, 5, dtype=torch.float64)) == (0.0, 0.0)


def test_relative_error_is_numpys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 7)), rng.standard_normal((5, 7))
    expected = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert relative_error(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-14)
    assert relative_error(torch.zeros(2, 2), torch.eye(2)) == pytest.approx(2**0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_a_certificate_tells_the_error_of_what_is_returned(dtype: torch.dtype) -> None:
    matrix = km.Butterfly().random(12, 20, dtype=dtype, generator=torch.Generator().manual_seed(0))
    wide = torch.complex128 if dtype.is_complex else torch.float64
    dense = matrix.to_dense().detach().to(wide)
    target = dense + 0.01 * torch.randn(12, 20, dtype=wide, generator=torch.Generator().manual_seed(1))
    certificate = certify(target, matrix, batches=(1,))
    gap = target - dense
    exact = float(torch.linalg.matrix_norm(gap, 2) / torch.linalg.matrix_norm(target, 2))
    expected = float(torch.linalg.norm(gap) / torch.linalg.norm(target))
    assert certificate.relative_error == pytest.approx(expected, rel=1e-9)
    assert certificate.spectral_error.lower <= exact <= certificate.spectral_error.upper
    assert certificate.num_params == sum(w.numel() for w in matrix.weights)  # type: ignore[attr-defined]
    assert certificate.dense_flops == 2 * 12 * 20
    assert [t.batch for t in certificate.timings] == [1]
    assert all(t.dense_seconds > 0 and t.matrix_seconds > 0 for t in certificate.timings)


def test_a_certificate_is_plain_json() -> None:
    matrix = km.Butterfly().random(4, 4, dtype=torch.float64)
    certificate = certify(matrix.to_dense().detach(), matrix, batches=(2,))
    read = json.loads(json.dumps(certificate.to_json()))
    assert read["relative_error"] == certificate.relative_error
    assert read["timings"][0]["verdict"] == certificate.timings[0].verdict
    assert read["interrupted"] is False
    assert read["timings"][0]["speedup"] == pytest.approx(certificate.timings[0].speedup)


def test_the_clock_can_be_left_alone() -> None:
    matrix = km.Butterfly().random(4, 4, dtype=torch.float64)
    assert certify(matrix.to_dense().detach(), matrix, batches=()).timings == ()


@pytest.mark.parametrize(
    ("ratios", "is_dense", "verdict"),
    [
        ((1.1, 1.2, 1.3), False, "faster than"),
        ((0.9, 1.2, 1.3), False, "about as fast as"),
        ((0.9, 0.95, 1.0), False, "about as fast as"),
        ((0.7, 0.8, 0.9), False, "NOT faster than"),
        ((1.1, 1.2, 1.3), True, "about as fast as"),
        ((0.7, 0.8, 0.9), True, "NOT faster than"),
    ],
)
def test_rounds_that_disagree_give_no_verdict_and_dense_is_never_faster(
    ratios: tuple[float, ...], is_dense: bool, verdict: str
) -> None:
    assert Timing(1, 1.0, 1.0, ratios, is_dense).verdict == verdict


def test_times_are_judged_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock gets slower from round to round, but dense takes three times as long in each of them.
    monkeypatch.setattr(certificate_module, "_loops", lambda run, seconds, wait: 1)
    monkeypatch.setattr(certificate_module, "_clock", lambda run, count, wait: next(times))
    for structure, says in ((km.LowRank(2), "faster than"), (km.Dense(), "about as fast as")):
        times = iter(scale * t for scale in range(1, 16) for t in ((3.0, 1.0) if scale % 2 else (1.0, 3.0)))
        matrix = structure.random(8, 8)
        timing = certificate_module.time_against_dense(matrix, matrix.to_dense().detach(), 1)
        assert timing.speedup == 3.0
        assert timing.ratios == (3.0, 3.0, 3.0)
        assert timing.verdict == says
