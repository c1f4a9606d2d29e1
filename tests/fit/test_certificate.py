"""The certificate: errors against numpy, the spectral estimate's promise, and honest clocks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kmatrix as km
from kmatrix.fit.certificate import certify, relative_error, spectral_norm


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


def test_the_spectral_estimate_survives_a_start_beside_the_top_vector() -> None:
    # One huge direction among many: a power iteration alone could miss it, the probability bound may not.
    matrix = torch.diag(torch.cat([torch.tensor([1.0]), torch.full((499,), 0.999)])).double()
    lower, upper = _estimate(matrix)
    assert lower <= 1.0 <= upper


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
    assert read["timings"][0]["speedup"] == pytest.approx(certificate.timings[0].speedup)


def test_the_clock_can_be_left_alone() -> None:
    matrix = km.Butterfly().random(4, 4, dtype=torch.float64)
    assert certify(matrix.to_dense().detach(), matrix, batches=()).timings == ()
