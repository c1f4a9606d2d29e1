"""Ordinary backward passes of any order: against finite differences and against the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kmatrix.ops import chain_matmul, use_backend
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.gradients import chain_gradients


def product(patterns: Any) -> Any:
    return lambda x, *weights: chain_matmul(x, weights, patterns)


def vectors(example: Any, dtype: torch.dtype, batch: int = 3) -> Tensor:
    return torch.randn(batch, example.cols, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("backend", ["portable", "reference"])
def test_gradcheck(example, dtype, backend: str) -> None:
    with use_backend(backend):
        inputs = vectors(example, dtype), *example.draw(dtype, requires_grad=True)
        assert gradcheck(product(example.patterns), inputs, fast_mode=True)


def test_gradcheck_in_full(mixed, dtype) -> None:
    inputs = vectors(mixed, dtype, 2), *mixed.draw(dtype, requires_grad=True)
    assert gradcheck(product(mixed.patterns), inputs, check_batched_grad=True)


@pytest.mark.parametrize("backend", ["portable", "reference"])
def test_gradgradcheck(example, dtype, backend: str) -> None:
    with use_backend(backend):
        inputs = vectors(example, dtype), *example.draw(dtype, requires_grad=True)
        assert gradgradcheck(product(example.patterns), inputs, fast_mode=True)


def test_gradgradcheck_of_batched_gradients(mixed, dtype) -> None:
    inputs = vectors(mixed, dtype, 2), *mixed.draw(dtype, requires_grad=True)
    assert gradgradcheck(product(mixed.patterns), inputs, fast_mode=True, check_batched_grad=True)


@pytest.mark.parametrize("trained", ["x", "weights", "one weight"])
def test_gradients_of_some_inputs(mixed, dtype, trained: str) -> None:
    x = vectors(mixed, dtype).detach().requires_grad_(trained == "x")
    weights = mixed.draw(dtype)
    for i, w in enumerate(weights):
        w.requires_grad_(trained == "weights" or (trained == "one weight" and i == 1))
    inputs = x, *weights
    assert gradcheck(product(mixed.patterns), inputs, fast_mode=True)
    assert gradgradcheck(product(mixed.patterns), inputs, fast_mode=True)


def test_third_order(mixed) -> None:
    def third(multiply: Any) -> list[Tensor]:
        torch.manual_seed(1)
        inputs = [vectors(mixed, torch.float64), *mixed.draw(requires_grad=True)]
        loss = multiply(inputs[0], inputs[1:], mixed.patterns).sin().sum()
        for _ in range(3):
            grads = torch.autograd.grad(loss, inputs, create_graph=True)
            loss = sum((g * g).sum() for g in grads)
        return list(grads)

    for got, want in zip(third(chain_matmul), third(reference_chain_matmul), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("batch", [1, 2, 17, 150])
def test_explicit_formula_is_what_autograd_finds(example, dtype, batch: int) -> None:
    x, weights = vectors(example, dtype, batch), example.draw(dtype, requires_grad=True)
    upstream = torch.randn(batch, example.rows, dtype=dtype)
    want = torch.autograd.grad(reference_chain_matmul(x, weights, example.patterns), [x, *weights], upstream)
    plain = [t.detach() for t in (x, *weights)]
    grad_x, grad_weights = chain_gradients(upstream, plain[0], plain[1:], example.patterns)
    torch.testing.assert_close([grad_x, *grad_weights], list(want))


def test_lazily_conjugated_upstream(example) -> None:
    x, weights = vectors(example, torch.complex128), example.draw(torch.complex128, requires_grad=True)
    upstream = torch.randn(3, example.rows, dtype=torch.complex128).conj()
    assert upstream.is_conj()
    y = chain_matmul(x, weights, example.patterns)
    want = torch.autograd.grad(reference_chain_matmul(x, weights, example.patterns), [x, *weights], upstream)
    torch.testing.assert_close(torch.autograd.grad(y, [x, *weights], upstream), want)


@pytest.mark.parametrize("lead", [(), (0,), (2, 3)], ids=str)
def test_leading_shapes(mixed, lead: tuple[int, ...]) -> None:
    x = torch.randn(*lead, mixed.cols, dtype=torch.float64, requires_grad=True)
    weights = mixed.draw(requires_grad=True)
    got = torch.autograd.grad(chain_matmul(x, weights, mixed.patterns).sin().sum(), [x, *weights])
    want = torch.autograd.grad(reference_chain_matmul(x, weights, mixed.patterns).sin().sum(), [x, *weights])
    torch.testing.assert_close(got, want)


def test_strided_upstream_and_inputs(mixed) -> None:
    x = torch.randn(mixed.cols, 5, dtype=torch.float64).t().requires_grad_()
    weights = [w.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for w in mixed.draw()]
    upstream = torch.randn(mixed.rows, 5, dtype=torch.float64).t()
    got = torch.autograd.grad(chain_matmul(x, weights, mixed.patterns), [x, *weights], upstream)
    want = torch.autograd.grad(reference_chain_matmul(x, weights, mixed.patterns), [x, *weights], upstream)
    torch.testing.assert_close(got, want)


def test_a_weight_used_twice_gets_both_gradients() -> None:
    w = torch.randn(2, 3, 3, 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda w: chain_matmul(torch.ones(6, dtype=w.dtype), [w, w]), (w,))


def test_only_inputs_are_saved(mixed) -> None:
    x, weights = vectors(mixed, torch.float64), mixed.draw(requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        chain_matmul(x, weights, mixed.patterns)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (x, *weights)}
    assert len(saved) == 1 + len(weights)


def test_checkpointing(mixed) -> None:
    x, weights = vectors(mixed, torch.float64), mixed.draw(requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        return chain_matmul(x, weights, mixed.patterns).sin()

    want = torch.autograd.grad(layer(x).sum(), [x, *weights])
    again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), [x, *weights]), want)
