"""What surrounds a chain on a GPU: selections, bias and activation inside of the kernel, and prepared chains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import kmatrix as km
from kmatrix._errors import ArgumentError
from kmatrix.ops import Pattern, prepare, use_backend
from kmatrix.ops.apply import chain_apply
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.dispatch import observing
from kmatrix.ops.gradients import chain_gradients
from kmatrix.ops.triton.available import interpreted, precision, triton_is_here
from kmatrix.ops.triton.backward import gradients
from kmatrix.ops.triton.launch import forward
from kmatrix.ops.triton.plan import Choice, Plan, plan

pytestmark = pytest.mark.skipif(
    not triton_is_here().ok or not interpreted(), reason="Triton's interpreter is not there"
)

PATTERNS = (Pattern(4, 3, 2, 1), Pattern(1, 5, 4, 3))  # 8 -> 12 -> 15


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(p, dtype=dtype) for p in PATTERNS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("n", [8, 5])
@pytest.mark.parametrize("rows", [None, 11])
@pytest.mark.parametrize("gathered", [False, True])
def test_selections_and_bias(dtype: torch.dtype, n: int, rows: int | None, gathered: bool) -> None:
    x, w = torch.randn(3, n, dtype=dtype), weights(dtype)
    gather = torch.tensor([7, 1, -3, 3, 2, 0, 6, 4]) if gathered else None
    bias = torch.randn(rows or 15, dtype=dtype)
    with use_backend("triton"), observing() as products:
        y = chain_apply(x, w, PATTERNS, gather=gather, rows=rows, bias=bias)
    assert [product.backend for product in products] == ["triton"]
    padded = functional.pad(x, (0, 8 - n))
    padded = padded if gather is None else padded[:, gather]
    exact = reference_chain_matmul(padded, w, PATTERNS)[:, : rows or 15] + bias
    torch.testing.assert_close(y, exact)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("backend", ["triton", "portable"])
def test_activations(name: str, backend: str) -> None:
    x, w, bias = torch.randn(4, 8), weights(), torch.randn(15)
    exact = getattr(functional, name)(reference_chain_matmul(x, w, PATTERNS) + bias)
    with use_backend(backend):
        torch.testing.assert_close(chain_apply(x, w, PATTERNS, bias=bias, activation=name), exact)


def surrounded(
    x: Tensor, w: list[Tensor], bias: Tensor | None, gather: Tensor | None, rows: int | None, relu: bool
) -> Tensor:
    """What ``chain_apply`` means, in stock torch."""
    padded = functional.pad(x, (0, 8 - x.shape[-1]))
    y = reference_chain_matmul(padded if gather is None else padded[..., gather], w, PATTERNS)[..., :rows]
    y = y if bias is None else y + bias
    return functional.relu(y) if relu else y


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize(("n", "rows"), [(8, 15), (5, 11), (8, 11), (5, 15)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("frozen", ["", "x", "w"])
def test_training_in_one_launch(
    dtype: torch.dtype, n: int, rows: int, biased: bool, gathered: bool, frozen: str
) -> None:
    x, w = torch.randn(2, 3, n, dtype=dtype), weights(dtype)
    bias = torch.randn(rows, dtype=dtype) if biased else None
    gather = torch.tensor([7, 1, -3, 3, 2, 0, 6, 4]) if gathered else None
    relu = not dtype.is_complex
    leaves = [*([] if frozen == "x" else [x]), *([] if frozen == "w" else w), *([bias] if biased else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    exact = surrounded(x, w, bias, gather, rows, relu)
    grad = torch.randn_like(exact)
    with use_backend("triton"), observing() as products:
        y = chain_apply(
            x, w, PATTERNS, gather=gather, rows=rows, bias=bias, activation="relu" if relu else ""
        )
        found = torch.autograd.grad(y, leaves, grad)
    torch.testing.assert_close(y, exact)
    torch.testing.assert_close(found, torch.autograd.grad(exact, leaves, grad), atol=1e-4, rtol=1e-4)
    assert {product.backend for product in products} == {"triton"}
    if (n, rows) != (8, 15) or biased or relu:
        assert type(y.grad_fn).__name__ == "_WithEndsBackward"


def test_a_bias_alone_needs_no_product_backward() -> None:
    x, w, bias = torch.randn(4, 8), weights(), torch.randn(15, requires_grad=True)
    with use_backend("triton"), observing() as products:
        chain_apply(x, w, PATTERNS, bias=bias).sum().backward()
    assert len(products) == 1
    torch.testing.assert_close(bias.grad, torch.full((15,), 4.0))


@pytest.mark.parametrize("relu", [False, True])
def test_second_derivatives_of_what_is_in_one_launch(relu: bool) -> None:
    x, bias = torch.randn(2, 5, requires_grad=True), torch.randn(11, requires_grad=True)
    w = [p.requires_grad_() for p in weights()]
    leaves = [x, *w, bias]

    def penalty(y: Tensor) -> Tensor:
        grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return sum((g.square().sum() for g in grads), torch.zeros(()))

    with use_backend("triton"):
        y = chain_apply(x, w, PATTERNS, rows=11, bias=bias, activation="relu" if relu else "")
        found = torch.autograd.grad(penalty(y), leaves)
    exact = torch.autograd.grad(penalty(surrounded(x, w, bias, None, 11, relu)), leaves)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("learned", [False, True])
def test_autocast_lowers_what_is_in_one_launch(learned: bool) -> None:
    x, w, bias = torch.randn(4, 8), [p.requires_grad_(learned) for p in weights()], torch.randn(15)
    with torch.autocast("cpu", torch.bfloat16), use_backend("triton"), observing() as products:
        y = chain_apply(x, w, PATTERNS, bias=bias)
    assert y.dtype == torch.bfloat16
    assert (type(y.grad_fn).__name__ == "_WithEndsBackward") == learned
    assert [product.backend for product in products] == ["triton"]
    exact = surrounded(x, w, bias, None, 15, False)
    torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.05)
    if learned:
        y.sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in w)


def test_activations_pass_gradients_and_nan_on() -> None:
    x, w = torch.randn(4, 8), [p.requires_grad_() for p in weights()]
    with use_backend("triton"):
        chain_apply(x, w, PATTERNS, activation="relu").sum().backward()
    found = [p.grad.clone() for p in w]
    exact = torch.autograd.grad(functional.relu(reference_chain_matmul(x, w, PATTERNS)).sum(), w)
    torch.testing.assert_close(found, list(exact))
    with use_backend("triton"), torch.no_grad():
        assert chain_apply(torch.full((1, 8), float("nan")), w, PATTERNS, activation="relu").isnan().all()


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"activation='tanh'.*use one of relu, gelu, silu"):
        chain_apply(torch.randn(4, 8), weights(), PATTERNS, activation="tanh")


def test_a_selection_behind_is_left_to_torch() -> None:
    x, w, take = torch.randn(3, 8), weights(), torch.tensor([3, 3, 0])
    with use_backend("triton"):
        y = chain_apply(x, w, PATTERNS, take=take)
    torch.testing.assert_close(y, reference_chain_matmul(x, w, PATTERNS)[:, take])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64], ids=str)
@pytest.mark.parametrize("chunk", [0, 16])
def test_ends_of_several_factors(dtype: torch.dtype, chunk: int) -> None:
    """Through the ring, five chunks of which the last is not full, and with a launch for each factor."""
    patterns = tuple([Pattern(16 >> k, 2, 2, 1 << k) for k in range(5)])
    w, x = [torch.randn(p, dtype=dtype) for p in patterns], torch.randn(70, 29, dtype=dtype)
    found = plan(patterns, patterns, 70, dtype, choice=Choice(4, 0))
    assert len(found.steps) == 3
    small = [step._replace(tile=step.tile._replace(vectors=16, steps=1)) for step in found.steps]
    found = Plan(tuple(small), chunk)
    gather = torch.randperm(32)
    bias, grad = torch.randn(30, dtype=dtype), torch.randn(70, 30, dtype=dtype)
    relu = not dtype.is_complex
    double = torch.complex128 if dtype.is_complex else torch.float64
    wide, bottom = [t.to(double) for t in w], functional.pad(x.to(double), (0, 3))
    y = forward(x, w, patterns, found, gather=gather, n_out=30, bias=bias, activation="relu" if relu else "")
    exact = reference_chain_matmul(bottom[:, gather], wide, patterns)[:, :30] + bias
    half = dtype == torch.float16
    close = {"atol": 2e-2, "rtol": 1e-2} if half else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(y.to(double), functional.relu(exact) if relu else exact, **close)
    grad_x, grads = gradients(grad, x, w, patterns, found, True)
    exact_x, exact_grads = chain_gradients(functional.pad(grad.to(double), (0, 2)), bottom, wide, patterns)
    assert grad_x is not None
    torch.testing.assert_close(grad_x.to(double), exact_x[:, :29], **close)
    close = {"atol": 0.3, "rtol": 1e-2} if half else {"atol": 1e-3, "rtol": 1e-4}
    torch.testing.assert_close([g.to(double) for g in grads], list(exact_grads), **close)


def test_jacobians_at_once() -> None:
    """Gradients for many upstream ones under vmap, which has no rule for a slice of everything."""
    x, bias = torch.randn(3, 8, requires_grad=True), torch.randn(15, requires_grad=True)
    w = [p.requires_grad_() for p in weights()]
    upstream = torch.randn(4, 3, 15)
    with use_backend("triton"):
        y = chain_apply(x, w, PATTERNS, bias=bias, activation="relu")
        found = torch.autograd.grad(y, [x, bias, *w], upstream, is_grads_batched=True)
    exact = torch.autograd.grad(
        surrounded(x, w, bias, None, 15, True), [x, bias, *w], upstream, is_grads_batched=True
    )
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("index", [2**31 - 1, 2**30, 2**30 + 3, -(2**31)])
def test_no_index_reads_outside(index: int) -> None:
    """Places of complex numbers are twice as far, which must not wrap around."""
    x, w = torch.randn(3, 8, dtype=torch.complex64), weights(torch.complex64)
    gather = torch.tensor([7, 1, index, 3, 2, 0, 6, 4], dtype=torch.int32)
    with use_backend("triton"):
        y = chain_apply(x, w, PATTERNS, gather=gather)
    chosen = x[:, gather.clamp(0, 7)]
    chosen[:, 2] = 0
    torch.testing.assert_close(y, reference_chain_matmul(chosen, w, PATTERNS))


@pytest.mark.parametrize("take", [None, [4, 0, 14]])
def test_prepared(take: list[int] | None) -> None:
    x, w, bias = torch.randn(2, 2, 6), weights(), torch.randn(15 if take is None else 3)
    gather = [5, -1, 0, 1, 2, 3, 4, -1]
    chain = prepare(w, n=6, gather=gather, take=take, bias=bias)
    with use_backend("triton"), observing() as products:
        y = chain(x)
    assert not products  # nothing is dispatched again
    chosen = torch.cat([x, torch.zeros(2, 2, 1)], -1)[..., gather]
    exact = reference_chain_matmul(chosen, w, PATTERNS)
    torch.testing.assert_close(y, (exact if take is None else exact[..., take]) + bias)


def test_matrices_with_permutations() -> None:
    F, x = km.transforms.dft(16), torch.randn(3, 16, dtype=torch.complex64)
    with use_backend("triton"):
        torch.testing.assert_close(F(x) if callable(F) else x @ F.mT, torch.fft.fft(x), atol=1e-5, rtol=1e-5)


def test_prepared_for_one_vector_and_for_many() -> None:
    """Plans of different groupings, each packed once."""
    patterns = [Pattern(256 >> (k + 1), 2, 2, 1 << k) for k in range(8)]
    w = [torch.randn(p) for p in patterns]
    chain = prepare(w)
    for x in (torch.randn(256), torch.randn(70, 256), torch.randn(1, 256)):
        with use_backend("triton"):
            torch.testing.assert_close(chain(x), reference_chain_matmul(x, w, patterns), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("told", ["high", "tf32", "highest", "ieee"])
def test_precision_is_what_torch_was_told(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its old way and by its new one, after which asking by the old one raises."""
    matmul = torch.backends.cuda.matmul
    if told in ("tf32", "ieee") and not hasattr(matmul, "fp32_precision"):
        pytest.skip("torch has no such way yet")
    monkeypatch.setattr("kmatrix.ops.triton.available.interpreted", lambda: False)
    before = torch.get_float32_matmul_precision()
    try:
        if told in ("high", "highest"):
            torch.set_float32_matmul_precision(told)
        else:
            matmul.fp32_precision = told
        assert precision() == ("tf32" if told in ("high", "tf32") else "ieee")
        assert precision(exact=True) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)
