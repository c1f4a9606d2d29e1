"""The product with boxes: what it means, how it is differentiated, transformed and refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kmatrix._errors import ArgumentError, BackendUnavailableError, DtypeError
from kmatrix.ops import segments_gradients, segments_matmul, use_backend
from kmatrix.ops.segments_definition import reference_segments_matmul
from kmatrix.ops.segments_library import decomposition


class Sum:
    """Boxes and numbers, and the dense matrix written entry by entry from the meaning of a box."""

    def __init__(self, m: int, n: int, boxes: list[tuple[int, int, int, int]], dtype=torch.float64) -> None:
        self.m, self.n = m, n
        self.places = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4).T.contiguous()
        self.left = torch.randn(int(self.places[1].sum()), dtype=dtype)
        self.right = torch.randn(int(self.places[3].sum()), dtype=dtype)

    def dense(self) -> Tensor:
        matrix = torch.zeros(self.m, self.n, dtype=self.left.dtype)
        at_left = at_right = 0
        for row, height, col, width in self.places.T.tolist():
            for i in range(height):
                for j in range(width):
                    entry = self.left[at_left + i] * self.right[at_right + j]
                    matrix[(row + i) % self.m, (col + j) % self.n] += entry
            at_left, at_right = at_left + height, at_right + width
        return matrix

    def __call__(self, x: Tensor) -> Tensor:
        return segments_matmul(x, self.left, self.right, self.places, self.m)


CASES = {
    "one box": (5, 7, [(1, 3, 2, 4)]),
    "around both ends": (5, 7, [(4, 3, 5, 6)]),
    "whole": (4, 6, [(0, 4, 0, 6), (2, 4, 3, 6)]),
    "overlapping": (9, 8, [(0, 5, 1, 4), (3, 6, 2, 5), (8, 2, 7, 3), (2, 1, 0, 8)]),
    "some empty": (6, 5, [(0, 0, 0, 0), (1, 2, 3, 0), (2, 0, 1, 3), (4, 3, 4, 2)]),
    "one entry": (1, 1, [(0, 1, 0, 1)]),
    "no box": (3, 4, []),
}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest, dtype: torch.dtype) -> Sum:
    return Sum(*CASES[request.param], dtype=dtype)


@pytest.fixture
def few(dtype: torch.dtype) -> Sum:
    return Sum(*CASES["overlapping"], dtype=dtype)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (40,), (0,)], ids=str)
def test_it_is_the_product_with_the_sum_of_boxes(case: Sum, batch: tuple[int, ...]) -> None:
    x = torch.randn(*batch, case.n, dtype=case.left.dtype)
    torch.testing.assert_close(case(x), x @ case.dense().T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["portable", "reference"])
def test_other_backends_agree(case: Sum, backend: str) -> None:
    x = torch.randn(3, case.n, dtype=case.left.dtype)
    with use_backend(backend):
        torch.testing.assert_close(case(x), x @ case.dense().T, rtol=1e-12, atol=1e-12)


def test_backward_needs_only_what_is_asked(few: Sum) -> None:
    x = torch.randn(3, few.n, dtype=few.left.dtype, requires_grad=True)
    upstream = torch.randn(3, few.m, dtype=few.left.dtype)
    (grad,) = torch.autograd.grad(few(x), x, upstream)  # numbers frozen: the product with the adjoint
    torch.testing.assert_close(grad, upstream @ few.dense().conj(), rtol=1e-12, atol=1e-12)
    few.right.requires_grad_()
    (grad,) = torch.autograd.grad(few(x.detach()), few.right, upstream)
    few.right.requires_grad_(False)
    assert grad.shape == few.right.shape


def test_derivatives(few: Sum) -> None:
    inputs = [torch.randn(2, few.n, dtype=few.left.dtype), few.left, few.right]
    inputs = [t.clone().requires_grad_() for t in inputs]

    def multiply(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return segments_matmul(x, left, right, few.places, few.m)

    assert gradcheck(multiply, inputs, check_batched_grad=True)
    assert gradgradcheck(multiply, inputs)


@pytest.mark.parametrize("vectors", [1, 3, 40])
@pytest.mark.parametrize("many", [1, 2**40], ids=["gathered", "dense"])
def test_both_ways_to_the_gradients_agree(
    case: Sum, vectors: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_gradients, "MANY_ENTRIES", many)
    x = torch.randn(vectors, case.n, dtype=case.left.dtype)
    upstream = torch.randn(vectors, case.m, dtype=case.left.dtype)
    inputs = [t.clone().requires_grad_() for t in (x, case.left, case.right)]
    got = torch.autograd.grad(segments_matmul(*inputs, case.places, case.m), inputs, upstream)
    again = [t.detach().requires_grad_() for t in inputs]
    want = torch.autograd.grad(reference_segments_matmul(*again, case.places, case.m), again, upstream)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_derivatives_through_the_operator(few: Sum) -> None:
    inputs = [torch.randn(2, few.n, dtype=few.left.dtype), few.left, few.right]
    inputs = [t.clone().requires_grad_() for t in inputs]
    assert gradcheck(
        lambda x, left, right: torch.ops.kmatrix.segments_matmul(x, left, right, few.places, few.m), inputs
    )


def test_the_operator_is_registered_properly() -> None:
    few = Sum(*CASES["overlapping"])
    x = torch.randn(2, few.n, dtype=few.left.dtype, requires_grad=True)
    arguments = (x, few.left.clone().requires_grad_(), few.right, few.places, few.m)
    torch.library.opcheck(torch.ops.kmatrix.segments_matmul.default, arguments)


@pytest.mark.parametrize("dims", [(0, None, None), (None, 0, None), (1, 0, 0), (None, None, 0)], ids=str)
def test_vmap_over_vectors_and_numbers(few: Sum, dims: tuple[int | None, ...]) -> None:
    x, left, right = torch.randn(4, few.n, dtype=few.left.dtype), few.left, few.right
    drawn = [
        t if d is None else torch.randn(3, *t.shape, dtype=t.dtype)
        for t, d in zip((x, left, right), dims, strict=True)
    ]
    mapped = [t if d is None else t.movedim(0, d) for t, d in zip(drawn, dims, strict=True)]
    got = torch.func.vmap(
        lambda x, left, right: segments_matmul(x, left, right, few.places, few.m), in_dims=dims
    )(*mapped)
    for k in range(3):
        one = [t if d is None else t[k] for t, d in zip(drawn, dims, strict=True)]
        want = segments_matmul(*one, few.places, few.m)
        torch.testing.assert_close(got[k], want, rtol=1e-12, atol=1e-12)


def test_vmap_over_boxes(few: Sum) -> None:
    others = few.places.clone()
    others[0], others[2] = (others[0] + 4) % few.m, (others[2] + 3) % few.n
    places = torch.stack([few.places, others])
    x, left = torch.randn(3, few.n, dtype=few.left.dtype), torch.randn(2, len(few.left), dtype=few.left.dtype)

    def loss(x: Tensor, left: Tensor, places: Tensor) -> Tensor:
        return segments_matmul(x, left, few.right, places, few.m).abs().square().sum()

    for function in (
        lambda x, left, places: segments_matmul(x, left, few.right, places, few.m),
        torch.func.grad(loss, argnums=1) if not few.left.is_complex() else loss,
    ):
        got = torch.func.vmap(function, in_dims=(None, 0, 0))(x, left, places)
        for k in range(2):
            torch.testing.assert_close(got[k], function(x, left[k], places[k]), rtol=1e-12, atol=1e-12)


def test_decomposition_is_the_operator(few: Sum) -> None:
    x = torch.randn(3, few.n, dtype=few.left.dtype)
    torch.testing.assert_close(
        decomposition(x, few.left, few.right, few.places, few.m), few(x), rtol=1e-12, atol=1e-12
    )


def test_strided_conjugated_and_negated_arguments(few: Sum) -> None:
    x = torch.randn(few.n, 6, dtype=few.left.dtype)
    torch.testing.assert_close(few(x.T), x.T @ few.dense().T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(few(x.T[::2]), x.T[::2] @ few.dense().T, rtol=1e-12, atol=1e-12)
    spread = torch.stack([few.left, few.left], 1)[:, 0].conj()
    got = segments_matmul(x.T, spread, few.right, few.places, few.m)
    want = segments_matmul(x.T, few.left.conj().resolve_conj(), few.right, few.places, few.m)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"x": torch.zeros(2, 9)}, DtypeError, "left.dtype"),
        ({"x": torch.zeros((), dtype=torch.float64)}, ArgumentError, "x.shape"),
        ({"x": torch.zeros(3, dtype=torch.int64)}, DtypeError, "left.dtype"),
        ({"x": [1.0, 2.0]}, DtypeError, "x="),
        ({"left": torch.zeros(2, 7, dtype=torch.float64)}, ArgumentError, "left.shape"),
        ({"left": torch.zeros(13, dtype=torch.float64)}, ArgumentError, "left.shape"),
        ({"right": torch.zeros(1, dtype=torch.float64)}, ArgumentError, "right.shape"),
        ({"places": torch.zeros(3, 4, dtype=torch.int64)}, ArgumentError, "places.shape"),
        ({"places": torch.zeros(4, 4)}, DtypeError, "places.dtype"),
        ({"rows": -1}, ArgumentError, "rows"),
        ({"rows": 2}, ArgumentError, "box"),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [2, 20])
def test_what_does_not_fit_is_refused(change: dict[str, object], error: type, word: str, batch: int) -> None:
    one = Sum(*CASES["overlapping"])
    good = {"x": torch.zeros(batch, one.n, dtype=torch.float64), "left": one.left, "right": one.right}
    with pytest.raises(error, match=word):
        segments_matmul(**(good | {"places": one.places, "rows": one.m} | change))


@pytest.mark.parametrize("batch", [2, 20])
@pytest.mark.parametrize(
    ("row", "value"), [(0, 9), (0, -1), (2, 8), (1, 10), (3, -1), (3, 2**62), (0, 2**63 - 1)]
)
def test_boxes_outside_are_refused_before_memory_is_touched(batch: int, row: int, value: int) -> None:
    one = Sum(*CASES["overlapping"])
    one.places[row, 1] = value
    with pytest.raises(ArgumentError, match=r"box 1"):
        one(torch.zeros(batch, one.n, dtype=torch.float64))


def test_a_backend_that_cannot_run_is_named() -> None:
    one = Sum(*CASES["overlapping"], dtype=torch.complex128)
    with use_backend("native"), pytest.raises(BackendUnavailableError, match="segments_matmul"):
        one(torch.zeros(3, one.n, dtype=torch.complex128))
