"""The comparisons: what they let pass, what they catch, and what they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kmatrix.structures import Butterfly, Circulant, Dense, StructuredMatrix
from kmatrix.structures.blocks import DiagonalMatrix
from kmatrix.structures.chain import ChainMatrix
from kmatrix.testing import assert_equal_up_to_rounding, assert_matches_reference, dottest

f32, f64, c64, c128, bf16 = torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bfloat16


def test_rounding_is_measured_in_units_of_the_result() -> None:
    want = torch.randn(50, dtype=f64)
    for dtype in (f32, bf16):
        assert_equal_up_to_rounding("rounded", want.to(dtype), want, roundings=1)
    assert_equal_up_to_rounding(
        "a zero among large numbers", torch.tensor(1e-14), torch.tensor(0.0), scale=1.0
    )
    with pytest.raises(AssertionError, match=r"here: off by 1e\+03 units"):
        assert_equal_up_to_rounding("here", want * (1 + 1000 * torch.finfo(f64).eps), want)
    with pytest.raises(AssertionError, match="zero: off by"):
        assert_equal_up_to_rounding("zero", torch.tensor(1e-14), torch.tensor(0.0))


def test_shapes_and_nan_are_not_rounding() -> None:
    with pytest.raises(AssertionError, match=r"x: shape \(2,\), expected \(1, 2\)"):
        assert_equal_up_to_rounding("x", torch.zeros(2), torch.zeros(1, 2))
    with pytest.raises(AssertionError, match="x: not finite"):
        assert_equal_up_to_rounding("x", torch.tensor([float("nan")]), torch.tensor([float("nan")]))


@pytest.mark.parametrize("dtype", [f32, bf16, c64, f64])
def test_a_function_that_is_as_exact_as_torch_passes(dtype: torch.dtype) -> None:
    inputs = [torch.randn(5, 40, dtype=f64), torch.randn(40, 6, dtype=c128 if dtype.is_complex else f64)]

    def other_order(x: Tensor, y: Tensor) -> Tensor:
        return (x.flip(1) + 0 * y[0, 0]) @ y.flip(0)

    assert_matches_reference(other_order, lambda x, y: (x + 0 * y[0, 0]) @ y, inputs, dtype)


def _poisoned(x: Tensor) -> Tensor:
    y = x.exp()
    y[0] = float("nan")
    return y


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda x: (x.to(bf16)).exp().to(x.dtype), "2 times that is allowed"),
        (lambda x: x.exp() * (1 + 1e-4), "2 times that is allowed"),
        (lambda x: x.exp()[:-1], "shape"),
        (lambda x: x.double().exp(), "float64, the reference gives torch.float32"),
        (_poisoned, "not finite"),
        (lambda x: (x.exp(), x), "2 results, the reference has 1"),
    ],
)
def test_a_function_that_is_worse_is_caught(fn: Callable[..., Tensor], reason: str) -> None:
    x = torch.randn(30, dtype=f64)
    with pytest.raises(AssertionError, match=reason):
        assert_matches_reference(fn, torch.exp, [x], f32)


def test_integers_and_several_results_are_passed_on() -> None:
    x, index = torch.randn(5, dtype=f64), torch.tensor([4, 0])
    assert_matches_reference(
        lambda x, i: (x[i], x.sum()), lambda x, i: (x[i], x.flip(0).sum()), [x, index], f32
    )


@pytest.mark.parametrize("dtype", [f32, f64, c64, c128, bf16])
def test_adjoints_pass(dtype: torch.dtype) -> None:
    dottest(Butterfly().random(12, 20, dtype=dtype))


class OneWay(DiagonalMatrix):
    """A diagonal matrix that is not conjugated in its adjoint."""

    def _rmatmul(self, x: Tensor) -> Tensor:
        return super()._rmatmul(x.conj()).conj()


class NearlyAdjoint(ChainMatrix):
    """A matrix whose transpose is off by a thousand roundings."""

    def _rmatmul(self, x: Tensor) -> Tensor:
        return super()._rmatmul(x) * (1 + 1000 * torch.finfo(x.dtype).eps)


def test_what_is_no_adjoint_is_caught() -> None:
    s = Dense()
    nearly = NearlyAdjoint(s, (3, 4), s.layout(3, 4), dtype=f64)
    nearly.reset_parameters()
    conjugated: StructuredMatrix = OneWay(s, (1, 1), s.layout(1, 1), dtype=c128)
    conjugated.reset_parameters()
    for A in (nearly, conjugated):
        with pytest.raises(AssertionError, match="units of rounding"):
            dottest(A)


def test_nan_is_no_adjoint() -> None:
    A = Circulant().random(3, 3)
    with torch.no_grad():
        A.get_parameter("stored").fill_(float("nan"))
    with pytest.raises(AssertionError, match="differ by nan"):
        dottest(A)
