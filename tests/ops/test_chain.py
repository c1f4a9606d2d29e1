"""The public product: values, shapes, strides, lazy bits, number types, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.ops import Pattern, chain_matmul, use_backend
from kmatrix.ops.chain import explain_dispatch
from kmatrix.testing import assert_matches_reference

P = Pattern(2, 3, 4, 5)
W = torch.randn(P, dtype=torch.float64)


def test_equals_its_matrix(example, dense, dtype) -> None:
    weights = example.draw(dtype)
    x = torch.randn(9, example.cols, dtype=dtype)
    y = chain_matmul(x, weights, example.patterns)
    torch.testing.assert_close(y, x @ dense(weights, example.patterns).T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3), (0,), (3, 0, 2), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["eager", "operator"])
def test_leading_shapes(mixed, dense, lead: tuple[int, ...], grad: bool) -> None:
    weights = mixed.draw(requires_grad=grad)
    x = torch.randn(*lead, mixed.cols, dtype=torch.float64)
    y = chain_matmul(x, weights, mixed.patterns)
    assert y.shape == (*lead, mixed.rows)
    assert y.is_contiguous()
    torch.testing.assert_close(y, x @ dense(weights, mixed.patterns).T)


def test_no_factors_give_a_copy() -> None:
    x = torch.randn(3, 5)
    y = chain_matmul(x.t(), [])
    assert torch.equal(y, x.t())
    assert y.data_ptr() != x.data_ptr()
    assert y.is_contiguous()
    x.requires_grad_()
    (g,) = torch.autograd.grad(chain_matmul(x, [], []).sum(), x)
    assert torch.equal(g, torch.ones(3, 5))


@pytest.mark.parametrize("p", [Pattern(1, 4, 0, 1), Pattern(0, 2, 2, 1), Pattern(2, 0, 3, 2)], ids=str)
def test_empty_factors(p: Pattern) -> None:
    y = chain_matmul(torch.ones(2, p.cols), [torch.ones(p)])
    assert torch.equal(y, torch.zeros(2, p.rows))


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_strided_inputs(example, batch: int) -> None:
    weights = example.draw()
    n = example.cols
    x = torch.randn(batch, n, dtype=torch.float64)
    want = chain_matmul(x, weights, example.patterns)
    every_other = torch.randn(batch, 2 * n, dtype=torch.float64)
    every_other[:, ::2] = x
    transposed = x.t().contiguous().t()
    broadcast = x[:1].expand(batch, n)
    strided = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in weights]
    offset = torch.cat([torch.zeros(batch, 1, dtype=torch.float64), x], 1)[:, 1:]
    for same in (every_other[:, ::2], transposed, offset):
        torch.testing.assert_close(chain_matmul(same, weights, example.patterns), want)
    torch.testing.assert_close(chain_matmul(x, strided, example.patterns), want)
    expanded = chain_matmul(broadcast, weights, example.patterns)
    torch.testing.assert_close(expanded, want[:1].expand(batch, example.rows))


def test_weights_may_be_expanded_instead_of_tied(mixed) -> None:
    weights = mixed.draw()
    x = torch.randn(5, mixed.cols, dtype=torch.float64)
    full = [w.expand(p) for w, p in zip(weights, mixed.patterns, strict=True)]
    torch.testing.assert_close(chain_matmul(x, full), chain_matmul(x, weights, mixed.patterns))


@pytest.mark.parametrize("grad", [False, True], ids=["eager", "operator"])
@pytest.mark.parametrize("backend", ["portable", "reference"])
def test_lazy_conjugation_and_negation(example, grad: bool, backend: str) -> None:
    weights = example.draw(torch.complex128, requires_grad=grad)
    real = example.draw(torch.float64, requires_grad=grad)
    z = torch.randn(6, example.cols, dtype=torch.complex128)
    lazy = [w.conj() for w in weights]
    assert z.conj().is_conj()
    assert z.conj().imag.is_neg()
    with use_backend(backend):
        want = chain_matmul(z.conj().resolve_conj(), weights, example.patterns)
        torch.testing.assert_close(chain_matmul(z.conj(), weights, example.patterns), want)
        want = chain_matmul(z, [w.resolve_conj() for w in lazy], example.patterns)
        torch.testing.assert_close(chain_matmul(z, lazy, example.patterns), want)
        want = chain_matmul(-(z.imag.clone()), real, example.patterns)
        torch.testing.assert_close(chain_matmul(z.conj().imag, real, example.patterns), want)


def test_result_never_carries_lazy_bits() -> None:
    z = torch.randn(3, 4, dtype=torch.complex128)
    assert not chain_matmul(z.conj(), []).is_conj()
    assert not chain_matmul(z.conj(), [torch.ones(4, 1, 1, 1, dtype=z.dtype)]).is_conj()


@pytest.mark.parametrize(
    "number", [torch.float32, torch.bfloat16, torch.float16, torch.complex64], ids=lambda d: str(d)[6:]
)
@pytest.mark.parametrize("batch", [1, 5, 200])
def test_error_is_at_most_twice_that_of_the_definition(example, number: torch.dtype, batch: int) -> None:
    weights = example.draw(torch.complex128 if number.is_complex else torch.float64)
    x = torch.randn(batch, example.cols, dtype=weights[0].dtype)

    def by(backend: str) -> object:
        def product(x: Tensor, *weights: Tensor) -> Tensor:
            with use_backend(backend):
                return chain_matmul(x, weights, example.patterns)

        return product

    assert_matches_reference(by("portable"), by("reference"), [x, *weights], number)


def test_inference_mode_and_parameters(mixed) -> None:
    weights = [torch.nn.Parameter(w) for w in mixed.draw()]
    x = torch.randn(3, mixed.cols, dtype=torch.float64)
    want = chain_matmul(x, [w.detach() for w in weights], mixed.patterns)
    with torch.inference_mode():
        assert torch.equal(chain_matmul(x, copy.deepcopy(weights), mixed.patterns), want)
    with torch.no_grad():
        assert not chain_matmul(x, weights, mixed.patterns).requires_grad


def test_tensor_subclasses_take_the_operator() -> None:
    class Labelled(Tensor):
        pass

    x = torch.randn(3, 4).as_subclass(Labelled)
    y = chain_matmul(x, [torch.ones(2, 1, 2, 1)])
    assert isinstance(y, Labelled)
    torch.testing.assert_close(y.as_subclass(Tensor), x.as_subclass(Tensor).reshape(3, 2, 2).sum(-1))


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_autocast_lowers_like_linear(mixed, lower: torch.dtype, grad: bool) -> None:
    weights = mixed.draw(torch.float32, requires_grad=grad)
    x = torch.randn(5, mixed.cols)
    want = chain_matmul(x.to(lower), [w.to(lower) for w in weights], mixed.patterns)
    with torch.autocast("cpu", dtype=lower):
        y = chain_matmul(x, weights, mixed.patterns)
        assert torch.equal(y, want)
        assert torch.equal(chain_matmul(x.to(lower), weights, mixed.patterns), want)
        doubles = chain_matmul(x.double(), [w.double() for w in weights], mixed.patterns)
        assert doubles.dtype == torch.float64
    if grad:
        y.float().sum().backward()
        assert all(w.grad is not None and w.grad.dtype == torch.float32 for w in weights)


@pytest.mark.parametrize("frozen", [False, True])
def test_autocast_around_backward_changes_nothing(mixed, frozen: bool) -> None:
    """The types were chosen in the forward pass; a kernel that autocast lowers inside would round again."""
    x = torch.randn(5, mixed.cols, requires_grad=True)
    weights = mixed.draw(torch.float32, requires_grad=not frozen)
    leaves = [x] if frozen else [x, *weights]
    y = chain_matmul(x, weights, mixed.patterns)
    want = torch.autograd.grad(y, leaves, torch.ones_like(y), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


def test_autocast_never_hides_a_complex_mismatch() -> None:
    with torch.autocast("cpu"), pytest.raises(DtypeError, match="complex64"):
        chain_matmul(torch.randn(4, dtype=torch.complex64), [torch.ones(4, 1, 1, 1)])


@pytest.mark.parametrize(
    ("x", "weights", "patterns", "message"),
    [
        (torch.ones(()), [W], None, "x.shape=(): there is no last dimension"),
        (torch.ones(3, 7), [torch.ones(P)], None, "x.shape=(3, 7): the last dimension must be a*c*d=40"),
        (torch.ones(40), [torch.ones(2, 3, 4)], None, "weights[0].shape=(2, 3, 4): not a factor"),
        (
            torch.ones(40),
            [torch.ones(P)] * 2,
            None,
            "patterns[1]=(2, 3, 4, 5): takes vectors of length a*c*d=40",
        ),
        (torch.ones(40), [torch.ones(P)], [P, P], "patterns=[Pattern(a=2, b=3, c=4, d=5)"),
        (torch.ones(40), [torch.ones(P)], [(2, 3, 4)], "patterns[0]=(2, 3, 4): not four sizes"),
        (
            torch.ones(40),
            [torch.ones(2, 1, 4, 5)],
            [P],
            "weights[0].shape=(2, 1, 4, 5): does not fit the pattern",
        ),
        (
            torch.ones(40),
            [torch.ones(2, 3, 1, 5)],
            [P],
            "weights[0].shape=(2, 3, 1, 5): does not fit the pattern",
        ),
        (
            torch.ones(40),
            [torch.ones(3, 3, 4, 5)],
            [P],
            "weights[0].shape=(3, 3, 4, 5): does not fit the pattern",
        ),
        (torch.ones(40), [torch.ones(P, device="meta")], None, "weights[0].device=meta: x is on cpu"),
    ],
)
def test_refuses_what_does_not_fit(x, weights, patterns, message: str) -> None:
    for call in (chain_matmul, explain_dispatch):
        with pytest.raises(ArgumentError) as caught:
            call(x, weights, patterns)
        assert message in str(caught.value)
        assert ";" in str(caught.value)


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.ones(40, dtype=torch.complex128), W, "weights[0].dtype=torch.float64: x has torch.complex128"),
        (torch.ones(40), W, "weights[0].dtype=torch.float64: x has torch.float32"),
        (torch.ones(40, dtype=torch.int64), torch.ones(P, dtype=torch.int64), "dtype=torch.int64"),
        ([1.0] * 40, W, "x=list: not a tensor"),
    ],
)
def test_refuses_number_types(x, weight: Tensor, message: str) -> None:
    with pytest.raises(DtypeError) as caught:
        chain_matmul(x, [weight])
    assert message in str(caught.value)
