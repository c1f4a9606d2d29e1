"""The product for few vectors, some boxes at a time, against the masked factors."""

import math

import pytest
import torch

import kmatrix as km
from kmatrix.ops import use_backend
from kmatrix.structures.gaudi import product as module
from kmatrix.structures.gaudi.content import reference_masked
from kmatrix.structures.gaudi.product import box_product, product


def member(m: int, n: int, count: int) -> km.GaudiMatrix:
    A = km.Gaudi(nblocks=count).random(m, n, dtype=torch.float64)
    with torch.no_grad():
        A.widths.copy_(torch.rand_like(A.widths) * 1.2 - 0.1)
        A.starts.copy_(torch.rand_like(A.starts))
    A.sigma = 6.0
    return A


@pytest.mark.parametrize("backend", ["native", "portable"])  # "native" where it is there
@pytest.mark.parametrize("sigma", [6.0, math.inf])
@pytest.mark.parametrize("numbers", [1, 60, 10**6])
@pytest.mark.parametrize(("m", "n", "count"), [(9, 14, 11), (14, 9, 5), (1, 6, 3), (6, 1, 1)])
def test_products_and_gradients_are_those_of_the_masked_factors(
    m: int, n: int, count: int, numbers: int, sigma: float, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", numbers)
    monkeypatch.setattr(module, "_BOXES_AT_ONCE", 1)
    A = member(m, n, count)
    A.sigma = sigma
    x = torch.randn(7, n, dtype=torch.float64, requires_grad=True)
    weight, inputs = torch.randn(7, m, dtype=torch.float64), [x, *A.parameters()]
    left, right = (reference_masked(*side) for side in A.sides)
    with use_backend(backend):
        y, expected = box_product(x, *A.sides), x @ right.mT @ left
        found = torch.autograd.grad((y * weight).sum(), inputs)
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("vectors", [3, 70, 600])
def test_gradient_penalties_do_not_depend_on_the_way(vectors: int) -> None:
    A = member(14, 16, 15)
    x = torch.randn(vectors, 16, dtype=torch.float64, requires_grad=True)
    inputs = [x, *A.parameters()]
    factors = [
        reference_masked(side.content, side.width, side.start, side.table) for side in A.sides
    ]  # (K, m) and (K, n)
    results = []
    for y in (product(x, *A.sides), x @ factors[1].mT @ factors[0]):
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        penalty = torch.stack([g.square().sum() for g in first]).sum()
        results.append((*first, *torch.autograd.grad(penalty, inputs)))
    for one, other in zip(*results, strict=True):
        assert one.abs().max() > 0 and torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("many", [0, module.MANY])
def test_all_three_ways_agree(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", many)
    A = member(30, 40, 35)
    bias = torch.randn(30, dtype=torch.float64)
    x = torch.randn(600, 40, dtype=torch.float64)
    expected = x @ A.to_dense().mT + bias
    for count in (3, 600):
        for batch in (x[:count], x[:count].unflatten(0, (1, count))):
            y = product(batch, *A.sides, bias)
            assert torch.allclose(y, expected[:count].reshape(y.shape), rtol=1e-11, atol=1e-11)


def test_frozen_inputs_and_parameters_get_no_gradient() -> None:
    A = member(8, 8, 4)
    A.widths.requires_grad_(False)
    torch.autograd.backward(A(torch.randn(3, 8, dtype=torch.float64)).sum())
    assert A.widths.grad is None and A.left.grad is not None and A.starts.grad is not None


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("backend", ["native", "portable"])
def test_single_precision_is_as_near_to_the_definition_in_torch_and_natively(
    backend: str, count: int
) -> None:
    exact = member(90, 131, count)
    single = member(90, 131, count).float()
    single.load_state_dict(exact.state_dict())
    single.sigma = exact.sigma
    with torch.no_grad():  # widths and starts in single precision round to the same positions
        for name in ("widths", "starts"):
            getattr(exact, name).copy_(getattr(single, name))
    x, results = torch.randn(40, 131, dtype=torch.float64), []
    with use_backend(backend):
        for A in (exact, single):
            y = A(x.to(A.dtype))
            results.append((y, *torch.autograd.grad(y.square().sum(), list(A.parameters()))))
    for wanted, found in zip(*results, strict=True):
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_backward_can_run_again() -> None:
    A = member(6, 6, 3)
    y = A(torch.randn(3, 6, dtype=torch.float64))
    first, second = (torch.autograd.grad(y.sum(), list(A.parameters()), retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
