"""torch.func, forward mode and the older vectorised functions, against the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, functional, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from kmatrix._errors import BackendUnavailableError
from kmatrix.ops import chain_matmul, use_backend
from kmatrix.ops.definition import reference_chain_matmul

# torch builds its own forward-mode rules with torch.jit.script on first use
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

Product = Callable[..., Tensor]


@pytest.fixture(params=[False, True], ids=["plain", "requires grad"])
def inputs(request: pytest.FixtureRequest, mixed, dtype) -> list[Tensor]:
    """Vectors and weights, which may or may not require gradients of the ordinary kind."""
    x = torch.randn(3, mixed.cols, dtype=dtype)
    return [t.requires_grad_(request.param) for t in (x, *mixed.draw(dtype))]


@pytest.fixture
def both(mixed) -> list[Product]:
    """The product under test and its definition, as functions of the vectors and each weight."""
    return [
        lambda x, *weights: chain_matmul(x, weights, mixed.patterns),
        lambda x, *weights: reference_chain_matmul(x, weights, mixed.patterns),
    ]


def agree(transform: Callable[[Product], Any], both: list[Product]) -> Any:
    got, want = transform(both[0]), transform(both[1])
    torch.testing.assert_close(got, want)
    return got


def loss(f: Product) -> Product:
    return lambda *inputs: f(*inputs).abs().square().sum()


def in_all(inputs: list[Tensor]) -> tuple[int, ...]:
    return tuple(range(len(inputs)))


def test_jvp(inputs, both) -> None:
    tangents = tuple(torch.randn_like(t) for t in inputs)
    _, tangent = agree(lambda f: jvp(f, tuple(inputs), tangents), both)
    assert tangent.abs().max() > 0


def test_vjp(inputs, both) -> None:
    upstream = torch.randn_like(both[1](*inputs))
    agree(lambda f: vjp(f, *inputs)[1](upstream), both)


def test_grad(inputs, both) -> None:
    agree(lambda f: grad(loss(f), in_all(inputs))(*inputs), both)


@pytest.mark.parametrize("dtype", [torch.float64], ids=["real"])
def test_jacobians_and_hessian(inputs, both) -> None:
    forward = agree(lambda f: jacfwd(f, in_all(inputs))(*inputs), both)
    backward = agree(lambda f: jacrev(f, in_all(inputs))(*inputs), both)
    torch.testing.assert_close(forward, backward)
    agree(lambda f: hessian(loss(f), (0, 1))(*inputs), both)


def test_per_sample_gradients(inputs, both) -> None:
    dims = (0, *[None] * (len(inputs) - 1))
    agree(lambda f: vmap(grad(loss(f), in_all(inputs)), in_dims=dims)(*inputs), both)


def test_per_sample_gradients_of_a_module(mixed) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList(mixed.draw())

        def forward(self, x: Tensor) -> Tensor:
            return chain_matmul(x, list(self.weights), mixed.patterns)

    layer, x = Layer(), torch.randn(4, mixed.cols, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def one(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).sin().sum()

    got = vmap(grad(one), in_dims=(None, 0))(parameters, x)
    for i, row in enumerate(x):
        layer.zero_grad()
        layer(row).sin().sum().backward()
        for name, p in layer.named_parameters():
            torch.testing.assert_close(got[name][i], p.grad)


@pytest.mark.parametrize("dim", [0, 1])
def test_vmap_over_vectors(inputs, both, dim: int) -> None:
    dims = (dim, *[None] * (len(inputs) - 1))
    x = torch.randn(2, *inputs[0].shape, dtype=inputs[0].dtype).movedim(0, dim)
    agree(lambda f: vmap(f, in_dims=dims, out_dims=1)(x, *inputs[1:]), both)


@pytest.mark.parametrize("dim", [0, 2, 4])
@pytest.mark.parametrize("mapped", ["all", "some", "all and vectors"])
def test_vmap_over_weights(inputs, both, dim: int, mapped: str) -> None:
    dims: list[int | None] = [None, dim, dim, dim]
    if mapped == "some":
        dims[2] = None
    stacked = [
        t if d is None else torch.stack([t, 2 * t.sin()], d) for t, d in zip(inputs, dims, strict=True)
    ]
    if mapped == "all and vectors":
        dims[0], stacked[0] = 0, torch.stack([inputs[0], inputs[0].sin()])
    agree(lambda f: vmap(f, in_dims=tuple(dims))(*stacked), both)


def test_vmap_in_vmap(inputs, both) -> None:
    w = torch.stack([inputs[1], inputs[1].sin()], 1)
    inner, outer = (0, None, None, None), (None, 1, None, None)
    agree(lambda f: vmap(vmap(f, in_dims=inner), in_dims=outer)(inputs[0], w, *inputs[2:]), both)


@pytest.mark.parametrize("mapped", [0, 1, 2], ids=["vectors", "first weight", "tied weight"])
def test_backward_through_vmap(mixed, dtype, both, mapped: int) -> None:
    inputs = [torch.randn(2, mixed.cols, dtype=dtype), *mixed.draw(dtype)]
    inputs[mapped] = torch.stack([inputs[mapped], inputs[mapped].sin()])
    dims = tuple(0 if i == mapped else None for i in range(len(inputs)))
    leaves = [t.requires_grad_() for t in inputs]
    agree(lambda f: torch.autograd.grad(loss(vmap(f, in_dims=dims))(*leaves), leaves), both)


def test_backward_inside_vmap(mixed, dtype, both) -> None:
    x, weights = torch.randn(3, mixed.cols, dtype=dtype), mixed.draw(dtype, requires_grad=True)
    upstream = torch.randn(2, 3, mixed.rows, dtype=dtype)

    def pulled(f: Product) -> tuple[Tensor, ...]:
        y = f(x, *weights)
        return vmap(lambda g: torch.autograd.grad(y, weights, g, retain_graph=True))(upstream)

    agree(pulled, both)


@pytest.mark.parametrize("which", range(4), ids=["vectors", "weight 0", "weight 1", "weight 2"])
def test_dual_numbers(inputs, both, which: int) -> None:
    tangent = torch.randn_like(inputs[which])

    def derivative(f: Product) -> tuple[Tensor, Tensor]:
        with forward_ad.dual_level():
            duals = list(inputs)
            duals[which] = forward_ad.make_dual(duals[which], tangent)
            value, moved = forward_ad.unpack_dual(f(*duals))
            assert moved is not None
            return value, moved

    agree(derivative, both)


def test_forward_over_reverse_with_a_graph_from_outside(mixed, both) -> None:
    x, weights = torch.randn(3, mixed.cols, dtype=torch.float64), mixed.draw(requires_grad=True)
    upstream, tangent = torch.randn(2, 3, mixed.rows, dtype=torch.float64)

    def pushed(f: Product) -> list[Tensor]:
        y = f(x, *weights)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(upstream, tangent)
            return [forward_ad.unpack_dual(g).tangent for g in torch.autograd.grad(y, weights, dual)]

    agree(pushed, both)


def test_forward_mode_gradchecks(mixed, dtype, both) -> None:
    x = torch.randn(2, mixed.cols, dtype=dtype, requires_grad=True)
    inputs = x, *mixed.draw(dtype, requires_grad=True)
    assert gradcheck(both[0], inputs, fast_mode=True, check_forward_ad=True, check_batched_forward_grad=True)
    assert gradgradcheck(both[0], inputs, fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_vectorised_functions_of_autograd(mixed, both) -> None:
    x, weights = torch.randn(2, mixed.cols, dtype=torch.float64), mixed.draw(requires_grad=True)
    inputs = x, *weights

    def batched(f: Product) -> tuple[Tensor, ...]:
        y = f(*inputs)
        upstream = torch.stack([torch.ones_like(y), y.detach()])
        return torch.autograd.grad(y, weights, upstream, is_grads_batched=True)

    agree(batched, both)
    agree(lambda f: functional.jacobian(f, inputs, vectorize=True), both)
    agree(lambda f: functional.jacobian(f, inputs, vectorize=True, strategy="forward-mode"), both)
    agree(lambda f: functional.hessian(loss(f), inputs, vectorize=True), both)
    agree(lambda f: functional.jvp(f, inputs, inputs), both)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # our checks look at sizes; any check does
def test_tracing_keeps_the_batch_size_open(mixed, both) -> None:
    weights = mixed.draw()
    x = torch.randn(2, mixed.cols, dtype=torch.float64)
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        traced = torch.jit.trace(lambda x: both[0](x, *weights), (x,))
    many = torch.randn(3000, mixed.cols, dtype=torch.float64)
    torch.testing.assert_close(traced(many), both[1](many, *weights))


def test_a_request_for_another_backend_is_refused(mixed, both) -> None:
    inputs = (torch.randn(2, mixed.cols, dtype=torch.float64), *mixed.draw())
    with use_backend("portable"), pytest.raises(BackendUnavailableError, match=r"torch\.func"):
        jvp(both[0], inputs, inputs)
    with use_backend("reference"):
        agree(lambda f: jvp(f, inputs, inputs), both)
