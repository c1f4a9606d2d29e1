"""What every member of the transforms is: a linear operator with an adjoint, and a start for training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kmatrix import StructuredMatrix, transforms

REAL, COMPLEX = torch.float64, torch.complex128
MEMBERS: dict[str, Callable[[], StructuredMatrix]] = {
    "dft 60": lambda: transforms.dft(60, dtype=COMPLEX),
    "dft 97, chirp": lambda: transforms.dft(97, dtype=COMPLEX),
    "dft 194, chirp and radix": lambda: transforms.dft(194, dtype=COMPLEX),
    "dft 64, tied": lambda: transforms.dft(64, tied=True, dtype=COMPLEX),
    "idft 27": lambda: transforms.idft(27, dtype=COMPLEX),
    "dft2 6 x 97": lambda: transforms.dft2(6, 97, dtype=COMPLEX),
    "hartley 45": lambda: transforms.hartley(45, dtype=REAL),
    "dct 60": lambda: transforms.dct(60, dtype=REAL),
    "dct 509, chirp": lambda: transforms.dct(509, dtype=REAL),
    "dct-I 33": lambda: transforms.dct(33, type=1, dtype=REAL),
    "dct-III 27": lambda: transforms.dct(27, type=3, dtype=REAL),
    "dct-IV 15": lambda: transforms.dct(15, type=4, dtype=REAL),
    "dst 64, tied": lambda: transforms.dst(64, tied=True, dtype=REAL),
    "dst-I 59": lambda: transforms.dst(59, type=1, dtype=REAL),
    "idst-IV 8": lambda: transforms.idst(8, type=4, dtype=REAL),
    "hadamard 32": lambda: transforms.hadamard(32, dtype=REAL),
    "walsh 32, tied": lambda: transforms.walsh(32, tied=True, dtype=REAL),
    "circulant 12": lambda: transforms.circulant(torch.randn(12, dtype=COMPLEX)),
    "circulant chain 60": lambda: transforms.circulant_chain(torch.randn(60, dtype=REAL)),
    "circulant chain 97": lambda: transforms.circulant_chain(torch.randn(97, dtype=COMPLEX)),
    "toeplitz 12 x 31": lambda: transforms.toeplitz(torch.randn(12), torch.randn(31), dtype=REAL),
    "toeplitz chain 12 x 31": lambda: transforms.toeplitz_chain(torch.randn(12), torch.randn(31), dtype=REAL),
    "hankel 12 x 31": lambda: transforms.hankel(torch.randn(12), torch.randn(31), dtype=COMPLEX),
    "conv1d 20": lambda: transforms.conv1d(torch.randn(3), 20, dtype=REAL),
    "conv2d 6 x 10": lambda: transforms.conv2d(torch.randn(3, 3), (6, 10), dtype=REAL),
}


@pytest.fixture(params=MEMBERS)
def member(request: pytest.FixtureRequest) -> StructuredMatrix:
    return MEMBERS[request.param]()


def test_adjoint(member: StructuredMatrix) -> None:
    m, n = member.shape
    x, y = torch.randn(n, dtype=member.dtype), torch.randn(m, dtype=member.dtype)
    left, right = torch.vdot(y, member @ x), torch.vdot(member.H @ y, x)
    assert abs(left - right) < 1e-12 * (member @ x).norm() * y.norm()
    dense = member.to_dense().detach()
    torch.testing.assert_close(member.T.to_dense(), dense.mT, rtol=0, atol=1e-12 * float(dense.abs().max()))


def test_gradients_reach_every_number_that_is_used(member: StructuredMatrix) -> None:
    x = torch.randn(4, member.shape[1], dtype=member.dtype, requires_grad=True)
    target = torch.randn(4, member.shape[0], dtype=member.dtype)
    (member(x) - target).abs().square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    parameters = list(member.parameters())
    assert parameters
    for parameter in parameters:
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        # Padding holds numbers that nothing reads, and zeros are read by some; all others take part.
        assert (parameter.grad != 0).float().mean() > 0.7


def test_training_goes_on_from_there(member: StructuredMatrix) -> None:
    """One small step down the gradient towards another matrix comes closer to it."""
    target = member.to_dense().detach() + 0.1 * torch.randn(member.shape, dtype=member.dtype)
    before = (member.to_dense() - target).abs().square().sum()
    before.backward()  # type: ignore[no-untyped-call]
    slope = sum(float(p.grad.square().sum()) for p in member.parameters() if p.grad is not None)
    with torch.no_grad():
        for parameter in member.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-4 * float(before.detach()) / slope * parameter.grad)
    assert (member.to_dense() - target).abs().square().sum() < before


def test_copies_and_states_are_the_same_matrix(member: StructuredMatrix) -> None:
    dense = member.to_dense()
    assert torch.equal(copy.deepcopy(member).to_dense(), dense)
    empty = member.structure.empty(*member.shape, dtype=member.dtype)
    empty.load_state_dict(member.state_dict())
    assert torch.equal(empty.to_dense(), dense)
    assert (empty.num_params, empty.flops) == (member.num_params, member.flops)


def test_empty_batches_and_strided_inputs(member: StructuredMatrix) -> None:
    m, n = member.shape
    assert member(torch.empty(0, 3, n, dtype=member.dtype)).shape == (0, 3, m)
    x = torch.randn(n, 6, dtype=member.dtype)
    scale = float((member @ x).detach().abs().max())
    torch.testing.assert_close(member(x.T), (member @ x).T, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize(
    "make",
    [
        lambda **kind: transforms.dct(6, **kind),
        lambda **kind: transforms.dst(5, type=1, **kind),
        lambda **kind: transforms.hartley(6, tied=True, **kind),
        lambda **kind: transforms.circulant_chain(torch.arange(1.0, 7.0), **kind),
    ],
)
def test_gradcheck(make: Any) -> None:
    matrix = make(dtype=REAL)
    names = [name for name, _ in matrix.named_parameters()]

    def apply(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(matrix, given, (x,))  # type: ignore[no-any-return]

    x = torch.randn(2, matrix.shape[1], dtype=REAL, requires_grad=True)
    free = [p.detach().clone().requires_grad_() for p in matrix.parameters()]
    assert torch.autograd.gradcheck(apply, (x, *free))


def test_meta_device_allocates_nothing() -> None:
    assert transforms.dft(1000, device="meta").device.type == "meta"
    assert transforms.dct(1000, device="meta").num_params == 38000


def test_sizes_may_be_numpys() -> None:
    n = np.int64(8)
    made = [transforms.dft(n), transforms.dct(n), transforms.hadamard(n), transforms.bit_reversal(n)]
    made += [transforms.dft2(n, n), transforms.conv1d([1.0], n), transforms.conv2d([[1.0]], (n, n))]
    made += [transforms.walsh(n), transforms.idst(n, type=1), transforms.stride(np.int64(2), n)]
    assert all(type(size) is int for matrix in made for size in matrix.shape)


@pytest.mark.parametrize("make", [transforms.dct, transforms.dst, transforms.hartley])
def test_half_precisions_hold_the_rounded_numbers(make: Any) -> None:
    wide = make(60, dtype=REAL)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = make(60, dtype=dtype)
        assert narrow.dtype == dtype
        for stored, number in zip(narrow.weights, wide.weights, strict=True):
            assert torch.equal(stored, number.to(dtype))
