"""The route of a call, and the names private to torch that decide it: these fail if torch changes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from kmatrix.ops.routing import Route, dispatch_modes, nothing_watches, route

X = torch.ones(2)
W = [torch.ones(1)]


def test_private_names_still_exist() -> None:
    assert torch._C._are_functorch_transforms_active() is False
    assert forward_ad._current_level == -1
    assert torch._C._get_tracing_state() is None
    assert torch._C._is_tracing() is False
    assert torch._C._is_any_autocast_enabled() is False
    assert torch._C._len_torch_dispatch_stack() == 0
    assert torch._C._functorch.is_legacy_batchedtensor(X) is False
    assert not torch._C._functorch.get_interpreter_stack()
    assert {"Vmap", "Grad", "Jvp"} <= set(dir(torch._C._functorch.TransformType))
    assert dispatch_modes() == []


def test_plain_calls_go_straight() -> None:
    assert route(X, W) is Route.DIRECT
    assert route(torch.nn.Parameter(X, requires_grad=False), W) is Route.DIRECT
    with torch.no_grad():
        assert route(X.clone().requires_grad_(), [torch.nn.Parameter(W[0])]) is Route.DIRECT
    with torch.inference_mode():
        assert route(X, [torch.nn.Parameter(W[0])]) is Route.DIRECT


def test_calls_that_autograd_watches() -> None:
    assert route(X.clone().requires_grad_(), W) is Route.AUTOGRAD
    assert route(X, [torch.nn.Parameter(W[0])]) is Route.AUTOGRAD


def test_other_watched_calls_go_through_the_operator() -> None:
    class Subclass(torch.Tensor):
        pass

    assert route(X.as_subclass(Subclass), W) is Route.OPERATOR
    assert route(X, [W[0].as_subclass(Subclass)]) is Route.OPERATOR
    assert route(X.to("meta"), W) is Route.OPERATOR
    with torch.autocast("cpu"):
        assert route(X, W) is Route.OPERATOR
    with FlopCounterMode(display=False):
        assert route(X, W) is Route.OPERATOR
        assert len(dispatch_modes()) == 1


def seen_inside(transform) -> Route:
    """The route of a call inside a transform of a function."""
    routes: list[Route] = []

    def function(x):
        routes.append(route(x, W))
        return x.sum()

    transform(function)
    return routes[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (lambda f: vmap(f)(X[None]), Route.OPERATOR),
        (lambda f: vmap(vmap(f))(X[None, None]), Route.OPERATOR),
        (lambda f: grad(f)(X), Route.DEFINITION),
        (lambda f: vmap(grad(f))(X[None]), Route.DEFINITION),
        (lambda f: grad(lambda x: vmap(f)(x[None]).sum())(X), Route.DEFINITION),
        (lambda f: jvp(f, (X,), (X,)), Route.DEFINITION),
        (lambda f: torch.func.functionalize(f)(X), Route.DEFINITION),
    ],
    ids=["vmap", "vmap of vmap", "grad", "vmap of grad", "grad of vmap", "jvp", "functionalize"],
)
def test_transforms(transform, expected: Route) -> None:
    assert seen_inside(transform) is expected


def test_whether_anything_watches() -> None:
    assert nothing_watches()
    with torch.autocast("cpu"):
        assert not nothing_watches()
    with FlopCounterMode(display=False):
        assert not nothing_watches()
    with forward_ad.dual_level():
        assert not nothing_watches()
    seen: list[bool] = []
    vmap(lambda x: seen.append(nothing_watches()) or x)(X[None])
    grad(lambda x: seen.append(nothing_watches()) or x.sum())(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(lambda x: seen.append(nothing_watches()) or x + 1, (X,))
    assert seen[:3] == [False] * 3  # then trace checks itself by ordinary calls
    assert nothing_watches()


def test_forward_mode_and_tracing() -> None:
    with forward_ad.dual_level():
        assert route(X, W) is Route.DEFINITION
        assert vmap(lambda x: x * (route(x, W) is Route.DEFINITION))(X).all()
    assert route(X, W) is Route.DIRECT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        routes: list[Route] = []
        torch.jit.trace(lambda x: routes.append(route(x, W)) or x + 1, (X,))
    assert routes[0] is Route.DEFINITION
