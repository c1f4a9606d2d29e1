"""Conformance tests of derivatives: first and second order, reverse and forward mode, vmap."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from kmatrix.testing._examples import Example, Examples, functional, vectors
from kmatrix.testing.reference import assert_equal_up_to_rounding


class Calculus(Examples):
    """Does it differentiate, in every way torch can?"""

    def test_gradients_to_input_and_parameters(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        multiply, numbers = functional(A)
        x = vectors(A, 2).requires_grad_()
        with _forward_mode():
            assert gradcheck(multiply, (x, *numbers), fast_mode=True, check_forward_ad=True)

    def test_gradients_of_the_adjoint(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        multiply, numbers = functional(A.H)
        y = vectors(A, 2, rows=True).requires_grad_()
        assert gradcheck(multiply, (y, *numbers), fast_mode=True)

    def test_second_derivatives(self, first: Example, dtype: torch.dtype) -> None:
        A = self.member(first, dtype)
        multiply, numbers = functional(A)
        x = vectors(A, 2).requires_grad_()
        assert gradgradcheck(multiply, (x, *numbers), fast_mode=True)

    def test_every_parameter_gets_a_gradient(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        torch.autograd.backward((A(vectors(A, 3).requires_grad_()).abs() ** 2).sum())
        for name, stored in A.named_parameters():
            if stored.numel():
                assert stored.grad is not None, f"{name} gets no gradient from a product"
                assert bool(torch.isfinite(stored.grad).all()), f"the gradient of {name} is not finite"

    def test_the_dense_matrix_is_differentiable(self, first: Example, dtype: torch.dtype) -> None:
        A = self.member(first, dtype)
        total = A.to_dense().abs().sum()
        if not any(stored.numel() for stored in A.parameters()):
            assert not total.requires_grad, "to_dense depends on no numbers and wants a gradient"
            return
        torch.autograd.backward(total)
        missing = [name for name, stored in A.named_parameters() if stored.numel() and stored.grad is None]
        assert not missing, f"to_dense gives no gradient to {missing}"

    def test_vmap(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        x = vectors(A, 3, 4)
        scale = x.norm() * torch.linalg.matrix_norm(A.to_dense())
        assert_equal_up_to_rounding("over batches", vmap(A)(x), A(x), scale=scale)
        assert_equal_up_to_rounding("over vectors", vmap(vmap(A))(x), A(x), scale=scale)
        assert_equal_up_to_rounding("over axis 1", vmap(A, in_dims=1, out_dims=1)(x), A(x), scale=scale)

    def test_gradients_per_sample(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        multiply, numbers = functional(A)
        x = vectors(A, 3)

        # Not the plain norm, which does not change with an orthogonal matrix.
        weights = torch.arange(1.0, A.shape[0] + 1, dtype=torch.float64)

        def loss(number: tuple[torch.Tensor, ...], sample: torch.Tensor) -> torch.Tensor:
            y = multiply(sample, *number)
            return (weights * (y.abs() ** 2 + y.real)).sum()

        size = torch.linalg.matrix_norm(A.to_dense()) * x.norm()
        each = vmap(grad(loss), in_dims=(None, 0))(numbers, x)
        whole = grad(loss)(numbers, x)
        for name, one, total in zip(dict(A.named_parameters()), each, whole, strict=True):
            scale = one.norm() * len(x) + weights[-1] * (size + size**2)
            assert_equal_up_to_rounding(f"sum of gradients of {name}", one.sum(0), total, scale=scale)

    def test_directional_derivatives(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        multiply, numbers = functional(A)
        x, direction = vectors(A, 2, 3)
        with _forward_mode():
            y, change = jvp(lambda x: multiply(x, *numbers), (x,), (direction,))[:2]
        scale = torch.linalg.matrix_norm(A.to_dense()) * (x.norm() + direction.norm())
        assert_equal_up_to_rounding("value of jvp", y, A(x), scale=scale)
        assert_equal_up_to_rounding("derivative along a vector", change, A(direction), scale=scale)
        if not any(number.numel() for number in numbers):
            return
        # Forward and reverse mode must agree on the parameters: <J t, z> = <t, J* z>.
        tangents = tuple(torch.randn_like(number) for number in numbers)
        with _forward_mode():
            _, change = jvp(lambda *numbers: multiply(x, *numbers), numbers, tangents)[:2]
        z = vectors(A, 3, rows=True)
        back = torch.autograd.grad(multiply(x, *numbers), numbers, z, allow_unused=True)
        forward = torch.vdot(z.flatten(), change.flatten()).real
        pairs = [(t, g) for t, g in zip(tangents, back, strict=True) if g is not None]
        backward = sum(((t * g).sum() for t, g in pairs), torch.zeros((), dtype=torch.float64))
        size = z.norm() * change.norm() + sum(t.norm() * g.norm() for t, g in pairs)
        assert_equal_up_to_rounding("derivative along the parameters", forward, backward, scale=size)


@contextmanager
def _forward_mode() -> Iterator[None]:
    """Forward mode of torch, which deprecates a part of itself when it is first used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
