"""The portable backend: every form of every pass, slices, and the number types it computes in."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from kmatrix.ops import Pattern, portable, schedule
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.forms import FORMS, as_rows
from kmatrix.ops.gradients import chain_gradients
from kmatrix.ops.portable import portable_chain_gradients, portable_chain_matmul
from kmatrix.testing import assert_matches_reference


def check(patterns: tuple[Pattern, ...], weights: list[Tensor], batch: int) -> None:
    """Product and gradients against the definition."""
    x = torch.randn(batch, patterns[0].cols, dtype=weights[0].dtype)
    grad = torch.randn(batch, patterns[-1].rows, dtype=weights[0].dtype)
    want = reference_chain_matmul(x, weights, patterns)
    torch.testing.assert_close(portable_chain_matmul(x, weights, patterns), want)
    want_x, want_weights = chain_gradients(grad, x, weights, patterns)
    grad_x, grad_weights = portable_chain_gradients(grad, x, weights, patterns, True)
    torch.testing.assert_close([grad_x, *grad_weights], [want_x, *want_weights])
    nothing, same = portable_chain_gradients(grad, x, weights, patterns, False)
    assert nothing is None
    assert all(torch.equal(g, h) for g, h in zip(same, grad_weights, strict=True))
    assert all(g.is_contiguous() for g in grad_weights)


@pytest.mark.parametrize("batch", [1, 2, 15, 16, 100, 3000])
def test_product_and_gradients(example, dtype, batch: int) -> None:
    check(tuple(example.patterns), example.draw(dtype), batch)


SINGLE = [
    Pattern(1, 3, 5, 1),
    Pattern(4, 3, 5, 1),
    Pattern(1, 3, 5, 2),
    Pattern(3, 2, 2, 4),
    Pattern(2, 5, 7, 3),
]


def expressible(pattern: Pattern, tied: str) -> list[schedule.FormName]:
    """The forms that one factor can take, also those that the schedule would not choose."""
    shared = (pattern.a == 1 or "a" in tied) and (pattern.d == 1 or "d" in tied)
    if shared and pattern.d == 1:
        return ["gemm", "kron", "sum", "bmm"]
    return ["kron", "sum", "bmm"] if shared else ["sum", "bmm"]


@pytest.mark.parametrize("pattern", SINGLE, ids=lambda p: "-".join(map(str, p)))
@pytest.mark.parametrize("tied", ["-", "a", "d", "ad"])
@pytest.mark.parametrize("layout", ["rows", "columns", "strided columns"])
def test_each_form(dtype, make: Any, pattern: Pattern, tied: str, layout: str) -> None:
    (weight,) = make([pattern], tied).draw(dtype)
    for batch, form in product((1, 5, 33), expressible(pattern, tied)):
        rows = torch.randn(batch, pattern.cols, dtype=dtype)
        upstream = torch.randn(batch, pattern.rows, dtype=dtype)
        made = FORMS[form].of(weight, pattern)
        operand = made.operand(laid_out(rows, layout, pattern.cols))
        want = reference_chain_matmul(rows, [weight], [pattern])
        torch.testing.assert_close(as_rows(made.apply(operand)), want)
        adjoint = made.adjoint()
        pulled = adjoint.operand(laid_out(upstream, layout, pattern.rows))
        want_x, (want_weight,) = chain_gradients(upstream, rows, [weight], [pattern])
        torch.testing.assert_close(as_rows(adjoint.apply(pulled)), want_x)
        torch.testing.assert_close(made.unpack(made.gradient(pulled, operand)), want_weight)


def laid_out(rows: Tensor, layout: str, width: int) -> Tensor:
    """Vectors as a previous pass may leave them."""
    if layout == "rows":
        return rows
    columns = rows.t().contiguous().view(1, 1, width, -1)
    if layout == "columns":
        return columns
    half = next(k for k in (3, 2, 5, 7, 1) if width % k == 0)
    return rows.t().reshape(half, width // half, -1).transpose(0, 1).contiguous().transpose(0, 1).unsqueeze(1)


@pytest.mark.parametrize("n", [60, 64, 210])
@pytest.mark.parametrize("batch", [1, 4, 30, 300])
def test_long_chains(n: int, batch: int) -> None:
    """There and back, so that middles merge too; long enough for every kind of plan."""
    radices = {60: (2, 2, 3, 5), 64: (2,) * 6, 210: (7, 5, 3, 2)}[n]
    patterns, stride = [], 1
    for r in radices:
        patterns.append(Pattern(n // (stride * r), r, r, stride))
        stride *= r
    chain = (*patterns, *reversed(patterns))
    check(chain, [torch.randn(p, dtype=torch.float64) / p.c**0.5 for p in chain], batch)


def test_slices_are_seamless(example, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many slices, the last one short."""
    monkeypatch.setattr(portable, "SLICE_BYTES", 1)
    check(tuple(example.patterns), example.draw(), 53)


def test_more_threads_take_longer_slices(mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weights = torch.ones(1, mixed.cols), mixed.draw(torch.float32)
    one = portable._plan(rows, weights, mixed.patterns, backward=False).length
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert portable._plan(rows, weights, mixed.patterns, backward=False).length in range(4 * one, 4 * one + 4)


@pytest.mark.parametrize("number", [torch.bfloat16, torch.float16, torch.float32, torch.complex64])
def test_gradients_are_as_exact_as_the_definition(example, number: torch.dtype) -> None:
    wide = torch.complex128 if number.is_complex else torch.float64
    inputs = [torch.randn(40, k, dtype=wide) for k in (example.rows, example.cols)]
    patterns = tuple(example.patterns)

    def portable(grad: Tensor, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        grad_x, grad_weights = portable_chain_gradients(grad, x, weights, patterns, True)
        assert grad_x is not None
        return grad_x, *grad_weights

    def definition(grad: Tensor, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        grad_x, grad_weights = chain_gradients(grad, x, weights, patterns)
        return grad_x, *grad_weights

    assert_matches_reference(portable, definition, [*inputs, *example.draw(wide)], number, times=3.0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 20, 300])
def test_half_precision_is_rounded_once(example, half: torch.dtype, batch: int) -> None:
    x, weights, patterns = (
        torch.randn(batch, example.cols).to(half),
        example.draw(half),
        tuple(example.patterns),
    )
    wide = [w.float() for w in weights]
    want = portable_chain_matmul(x.float(), wide, patterns).to(half)
    assert torch.equal(portable_chain_matmul(x, weights, patterns), want)
    grad = torch.randn(batch, example.rows).to(half)
    want_x, want_weights = portable_chain_gradients(grad.float(), x.float(), wide, patterns, True)
    grad_x, grad_weights = portable_chain_gradients(grad, x, weights, patterns, True)
    assert want_x is not None
    for got, exact in zip([grad_x, *grad_weights], [want_x, *want_weights], strict=True):
        assert torch.equal(got, exact.to(half))


def test_poisoned_memory_does_not_shine_through(example, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the backend allocates without setting it is full of NaN; nothing of that may remain."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        check(tuple(example.patterns), example.draw(), 70)
    finally:
        torch.use_deterministic_algorithms(False)
