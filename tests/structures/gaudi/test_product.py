"""The product for few vectors, some boxes at a time, against the masked factors."""

import pytest
import torch

import kmatrix as km
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


@pytest.mark.parametrize("numbers", [1, 60, 10**6])
@pytest.mark.parametrize(("m", "n", "count"), [(9, 14, 11), (14, 9, 5), (1, 6, 3), (6, 1, 1)])
def test_products_and_gradients_are_those_of_the_masked_factors(
    m: int, n: int, count: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", numbers)
    A = member(m, n, count)
    x = torch.randn(7, n, dtype=torch.float64, requires_grad=True)
    weight, inputs = torch.randn(7, m, dtype=torch.float64), [x, *A.parameters()]
    left, right = A.factors()
    y, expected = box_product(x, *A.sides), x @ right.mT @ left.mT
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad((y * weight).sum(), inputs)
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


def test_all_three_ways_agree() -> None:
    A = member(30, 40, 35)
    bias = torch.randn(30, dtype=torch.float64)
    x = torch.randn(600, 40, dtype=torch.float64)
    expected = x @ A.to_dense().mT + bias
    for count in (3, 70, 600):
        for batch in (x[:count], x[:count].unflatten(0, (1, count))):
            y = product(batch, *A.sides, bias)
            assert torch.allclose(y, expected[:count].reshape(y.shape), rtol=1e-11, atol=1e-11)


def test_frozen_inputs_and_parameters_get_no_gradient() -> None:
    A = member(8, 8, 4)
    A.widths.requires_grad_(False)
    torch.autograd.backward(A(torch.randn(3, 8, dtype=torch.float64)).sum())
    assert A.widths.grad is None and A.left.grad is not None and A.starts.grad is not None
