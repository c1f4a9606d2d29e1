"""``km.explain``: who multiplies, why the others do not, and what each takes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import kmatrix as km
from kmatrix._errors import ArgumentError, BackendUnavailableError, DtypeError
from kmatrix.ops import chain_matmul, use_backend
from kmatrix.ops.dispatch import BACKENDS, observing
from kmatrix.ops.native_module import native_part

BEST = "native" if native_part().module else "portable"


def test_a_chain_matrix() -> None:
    told = km.explain(km.Butterfly().random(16, 16), batch=4, seconds=0.02)
    assert told.backend == BEST
    assert [c.name for c in told.candidates] == [*[b.name for b in BACKENDS], "dense"]
    for candidate in told.candidates:
        assert candidate.reason
        assert (candidate.seconds is None) == (
            candidate.name == "triton" or (candidate.name == "native" and BEST != "native")
        )
    assert told.dense_seconds == told.candidates[-1].seconds
    assert len(told.products) == 1
    assert "4 factors, 16 -> 16" in told.products[0]
    title, *rows = str(told).splitlines()
    assert title.startswith("Butterfly, 16 x 16, float32, batch 4")
    assert len(rows) == len(BACKENDS) + 2
    assert [row.startswith("*") for row in rows].count(True) == 1


def test_weights_of_a_chain() -> None:
    weights = [torch.randn(1, 3, 5, 1, dtype=torch.complex128, requires_grad=True)]
    told = km.explain(weights, batch=2, seconds=0.01)
    assert told.what.startswith("chain, 3 x 5, complex128, batch 2")
    assert told.backend == BEST
    tied = [torch.randn(1, 2, 2, 1)] * 2
    told = km.explain(tied, [(2, 2, 2, 1), (1, 2, 2, 2)], seconds=0.01)
    assert "2 factors, 4 -> 4" in told.products[0]


@pytest.mark.parametrize(
    "layer",
    [
        km.nn.Linear(16, 8, structure=km.Butterfly()),
        km.nn.Conv2d(4, 8, 2, structure=km.Butterfly()),
        km.nn.Embedding(8, 16, structure=km.Butterfly()),
    ],
)
def test_a_layer_is_explained_by_its_matrix(layer: torch.nn.Module) -> None:
    told = km.explain(layer, seconds=0.01)
    assert told.what.startswith("Butterfly, 8 x 16, float32, batch 1")
    assert told.backend == BEST


def test_several_products_and_none() -> None:
    A = km.Butterfly().random(8, 8)
    assert len(km.explain(A @ A, seconds=0.01).products) == 2
    told = km.explain(km.Circulant().random(4, 4), seconds=0.01)
    assert told.backend is None
    assert told.products == ()
    assert [c.name for c in told.candidates if c.seconds is not None] == ["itself", "dense"]


def test_a_request_is_part_of_the_answer() -> None:
    with use_backend("reference"):
        assert km.explain(km.Butterfly().random(8, 8), seconds=0.01).backend == "reference"


REFUSED = {
    "chain": (lambda dtype: km.Butterfly().random(8, 8, dtype=dtype), "chain_matmul"),
    "boxes": (lambda dtype: km.GBLR(nblocks=2, budget=0.5).random(8, 8, dtype=dtype), "segments_matmul"),
    "one of two": (
        lambda dtype: km.Butterfly().random(4, 4, dtype=dtype) @ km.Circulant().random(4, 4, dtype=dtype),
        "chain_matmul",
    ),
    "weights": (lambda dtype: [torch.randn(1, 8, 4, 1, dtype=dtype)], "chain_matmul"),
}


@pytest.mark.parametrize(("interpreter", "dtype"), [("0", torch.float32), ("1", torch.float64)])
@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_is_refused_is_answered(
    name: str, interpreter: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interpreter)  # 0: only GPUs; 1: no float64
    make, who = REFUSED[name]
    matrix = make(dtype)
    multiply = partial(chain_matmul, weights=matrix) if name == "weights" else matrix
    x = torch.randn(1, 4 if name in ("weights", "one of two") else 8, dtype=dtype)
    with use_backend("triton"):
        told = km.explain(matrix, seconds=0.01)
        with pytest.raises(BackendUnavailableError) as raised:
            multiply(x)
    assert told.backend is None
    assert told.refused == str(raised.value)
    assert told.refused.startswith(f"{who}: backend='triton': ")
    assert f"raises BackendUnavailableError: {told.refused}" in str(told)
    assert not [line for line in str(told).splitlines() if line.startswith("*")]
    free = km.explain(matrix, seconds=0.01)
    assert free.refused is None and "raises" not in str(free)
    assert told.products == free.products and told.what == free.what
    measured = {c.name for c in free.candidates if c.seconds is not None}
    assert {c.name for c in told.candidates if c.seconds is not None} == measured


def test_a_request_that_does_not_matter_is_not_met() -> None:
    with use_backend("triton"):
        told = km.explain(km.Circulant().random(4, 4), seconds=0.01)
    assert told.backend is None and told.refused is None
    assert [c.name for c in told.candidates if c.seconds is not None] == ["itself", "dense"]


@pytest.mark.skipif(BEST != "native", reason="schedules are those of the native kernels")
def test_the_schedule_that_is_told_is_the_one_that_runs() -> None:
    """Chains that select run another kernel than the same factors alone."""
    structure = km.Chain((km.Permute(512, "bit_reversal"), *km.Butterfly().layout(512, 512).stages))
    (told,) = km.explain(structure.random(512, 512), batch=256, seconds=0.01).products
    (alone,) = km.explain(km.Butterfly().random(512, 512), batch=256, seconds=0.01).products
    assert "rows kernel" in alone
    assert "tiles kernel" in told


def test_products_are_told_once_without_the_kernels() -> None:
    matrix = km.Chain((km.Permute(8, "bit_reversal"), km.Factor(4, 2, 2, 1))).random(8, 8)
    with use_backend("portable"):
        assert len(km.explain(matrix, seconds=0.01).products) == 1


def test_times_come_with_their_spread() -> None:
    told = km.explain(km.Butterfly().random(8, 8), seconds=0.01)
    for candidate in told.candidates:
        assert (candidate.seconds is None) == (candidate.quartiles is None)
        if candidate.quartiles is not None:
            low, high = candidate.quartiles
            assert low <= candidate.seconds <= high
            assert f"({1e6 * low:.2f} to {1e6 * high:.2f})" in str(told) or high > 1e-4


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_fourier_transforms_are_timed_beside_the_fft(dtype: torch.dtype) -> None:
    forward, backward = km.transforms.dft(12, dtype=dtype), km.transforms.idft(12, norm="ortho", dtype=dtype)
    named = [
        (forward, "fft"),
        (forward.T, "fft"),
        (3j * forward, "fft"),
        (backward, "ifft"),
        (forward.H, "ifft"),
    ]
    for matrix, name in named:
        told = km.explain(matrix, seconds=0.01)
        assert [c.name for c in told.candidates] == [*[b.name for b in BACKENDS], "dense", "fft"]
        assert told.candidates[-1].reason.startswith(f"torch.fft.{name},")
        assert told.candidates[-1].seconds > 0
        assert told.dense_seconds == told.candidates[-2].seconds


def test_what_is_no_fourier_transform_is_not() -> None:
    almost = km.transforms.dft(12)
    with torch.no_grad():
        almost.factors[0][0] += 0.01
    for matrix in (almost, km.transforms.dct(12), km.transforms.hartley(12), 0 * km.transforms.dft(12)):
        assert [c.name for c in km.explain(matrix, seconds=0.01).candidates][-1] == "dense"


def test_refusals() -> None:
    for seconds in (0, -1.0, float("nan"), float("inf"), "1", None):
        with pytest.raises(ArgumentError, match="explain: seconds="):
            km.explain(km.Butterfly().random(4, 4), seconds=seconds)  # type: ignore[arg-type]
    for nothing in ("text", [], 3):
        with pytest.raises(DtypeError, match="not a matrix"):
            km.explain(nothing)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        km.explain([torch.randn(1, 3, 5, 1)], batch=0)
    with pytest.raises(ArgumentError):
        km.explain([torch.randn(3, 5)])


def test_observing_ends_with_its_block() -> None:
    x, w = torch.randn(2, 4), [torch.randn(2, 2, 2, 1, requires_grad=True)]
    with observing() as products:
        for _ in range(3):
            chain_matmul(x, w).sum().backward()
    chain_matmul(x, w)
    assert [p.backend for p in products] == [BEST] * 6
    assert products[0].shape == (2, 4)


def test_a_sum_of_boxes() -> None:
    A = km.GBLR(nblocks=6, budget=0.5).random(10, 20)
    told = km.explain(A, batch=3, seconds=0.02)
    assert told.backend == BEST
    assert [c.name for c in told.candidates] == [*[b.name for b in BACKENDS], "dense"]
    assert told.products[0].startswith("6 boxes of 5.5 x 11.2 on average, 20 -> 10: ")
    told = km.explain(km.GBLR(nblocks=2).random(4, 4, dtype=torch.complex64), seconds=0.01)
    assert told.backend == "portable"
    assert "complex64" in told.candidates[0].reason
