"""Boxes that are learned through the conformance suite.

Widths and starts are rounded to whole positions, straight through: their gradients are those of the mask that is not
rounded, and differ from differences of the product by design (``test_mask.py`` has them). So gradients are compared
with differences for the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kmatrix.structures import Gaudi, StructuredMatrix
from kmatrix.testing import StructureConformance
from kmatrix.testing._examples import Example, functional, vectors

Function = Callable[..., Tensor]


def _of_numbers(A: StructuredMatrix) -> tuple[Function, tuple[Tensor, ...]]:
    """``A`` as a function of a vector and of ``left`` and ``right``, its boxes where they are."""
    multiply, parameters = functional(A)
    moving = [name.rsplit(".", 1)[-1] in ("left", "right") for name, _ in A.named_parameters()]
    fixed = [value.detach() for value in parameters]

    def of_numbers(x: Tensor, *numbers: Tensor) -> Tensor:
        given = iter(numbers)
        return multiply(x, *(next(given) if m else value for m, value in zip(moving, fixed, strict=True)))

    return of_numbers, tuple(value for m, value in zip(moving, parameters, strict=True) if m)


class TestGaudi(StructureConformance):
    examples = (
        (Gaudi(nblocks=5, budget=0.6), 7, 9),
        (Gaudi(), 6, 5),
        (Gaudi(nblocks=1), 2, 5),
        (Gaudi(budget=2.0), 1, 1),
    )

    def trainable_numbers(self, matrix: StructuredMatrix) -> float:
        pairs = 2 if matrix.dtype.is_complex else 1
        named = dict(matrix.named_parameters())
        boxes = named["widths"].numel() + named["starts"].numel()
        return boxes + (named["left"].numel() + named["right"].numel()) / pairs

    def test_gradients_to_input_and_parameters(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        multiply, numbers = _of_numbers(A)
        assert len(numbers) == 2
        assert gradcheck(multiply, (vectors(A, 2).requires_grad_(), *numbers), fast_mode=True)

    def test_gradients_of_the_adjoint(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        multiply, numbers = _of_numbers(A.H)
        assert len(numbers) == 2
        assert gradcheck(multiply, (vectors(A, 2, rows=True).requires_grad_(), *numbers), fast_mode=True)

    def test_second_derivatives(self, first: Example, dtype: torch.dtype) -> None:
        A = self.member(first, dtype)
        multiply, numbers = _of_numbers(A)
        assert gradgradcheck(multiply, (vectors(A, 2).requires_grad_(), *numbers), fast_mode=True)
