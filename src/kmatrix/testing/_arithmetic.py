"""Conformance tests of what a matrix is: products, adjoints, the algebra, and the input it takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.testing._examples import Example, Examples, assert_product, refuses, vectors
from kmatrix.testing.reference import assert_equal_up_to_rounding, dottest


class Arithmetic(Examples):
    """Is it a linear map, and the same one however it is asked?"""

    def test_products_of_every_shape_are_those_of_the_dense_matrix(
        self, example: Example, dtype: torch.dtype
    ) -> None:
        A = self.member(example, dtype)
        dense = A.to_dense().detach()
        assert tuple(dense.shape) == A.shape == example[1:], f"to_dense has shape {tuple(dense.shape)}"
        assert dense.dtype == A.dtype == dtype, f"{dense.dtype} in a matrix of {A.dtype}, asked for {dtype}"
        assert bool(dense.abs().amax() > 0), "a generic member is zero"
        for batch in ((), (1,), (5,), (2, 3)):
            x = vectors(A, *batch)
            assert_product(f"A(x) for x of shape {tuple(x.shape)}", A(x), dense, x)
        assert_product("A @ vector", A @ vectors(A), dense, vectors(A))
        assert_product("A @ matrix", (A @ vectors(A, 4).mT).mT, dense, vectors(A, 4))
        assert_product("A @ batch of matrices", (A @ vectors(A, 2, 4).mT).mT, dense, vectors(A, 2, 4))
        assert_product("rforward", A.rforward(vectors(A, 3, rows=True)), dense.mT, vectors(A, 3, rows=True))

    def test_it_is_linear(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        x, y = vectors(A, 2, 3)
        scale = torch.linalg.matrix_norm(A.to_dense()) * (x.norm() + y.norm())
        assert_equal_up_to_rounding("A(2x - 3y)", A(2 * x - 3 * y), 2 * A(x) - 3 * A(y), scale=3 * scale)

    def test_real_and_complex_mix_within_a_precision(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        other = dtype.to_real() if dtype.is_complex else dtype.to_complex()
        x = vectors(A, 3, dtype=other)
        assert_product(f"{dtype} matrix, {other} vectors", A(x), A.to_dense(), x)
        x = vectors(A, 3, rows=True, dtype=other)
        assert_product(f"{dtype} adjoint, {other} vectors", A.H(x), A.to_dense().mH, x)

    def test_the_adjoint_is_the_adjoint(self, example: Example, dtype: torch.dtype) -> None:
        dottest(self.member(example, dtype))
        dottest(self.member(example, dtype).T)

    def test_transposes_agree_with_those_of_the_dense_matrix(
        self, example: Example, dtype: torch.dtype
    ) -> None:
        A = self.member(example, dtype)
        dense = A.to_dense().detach()
        scale = torch.linalg.matrix_norm(dense)
        cases = {
            "A.T": (A.T, dense.mT),
            "A.H": (A.H, dense.mH),
            "A.T.T": (A.T.T, dense),
            "A.H.H": (A.H.H, dense),
            "A.T.H": (A.T.H, dense.conj()),
            "A.H.T": (A.H.T, dense.conj()),
            "A.T.H.T": (A.T.H.T, dense.mH),
            "A.H.T.H": (A.H.T.H, dense.mT),
        }
        for what, (B, want) in cases.items():
            assert B.shape == tuple(want.shape), f"{what} has shape {B.shape}"
            assert (B.dtype, B.num_params) == (A.dtype, A.num_params), f"{what} has other numbers than A"
            assert_equal_up_to_rounding(what, B.to_dense(), want.resolve_conj(), scale=scale)

    def test_sums_products_and_multiples(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        dense = A.to_dense().detach()
        size = torch.linalg.matrix_norm(dense)
        cases = {
            "A + A": (A + A, 2 * dense, size),
            "A - 3 A": (A - 3 * A, -2 * dense, 4 * size),
            "-A": (-A, -dense, size),
            "A @ A.T": (A @ A.T, dense @ dense.mT, size**2),
            "A.H @ A": (A.H @ A, dense.mH @ dense, size**2),
            "(2 A).T": ((2 * A).T, 2 * dense.mT, size),
        }
        for what, (B, want, scale) in cases.items():
            assert_equal_up_to_rounding(what, B.to_dense(), want, scale=scale)
            assert B.shape == tuple(want.shape), f"{what} has shape {B.shape}"

    def test_empty_batches(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        m, n = A.shape
        for batch in ((0,), (2, 0)):
            x = vectors(A, *batch).requires_grad_()
            y = A(x)
            assert y.shape == (*batch, m) and y.dtype == dtype, f"{batch}: {tuple(y.shape)}, {y.dtype}"
            torch.autograd.backward(y.abs().sum())
            assert x.grad is not None and x.grad.shape == x.shape, f"{batch}: no gradient"
        empty = A @ torch.empty(n, 0, dtype=dtype)
        assert empty.shape == (m, 0), f"A @ (n, 0) has shape {tuple(empty.shape)}"
        back = A.H(torch.empty(0, m, dtype=dtype))
        assert back.shape == (0, n), f"A.H of no vectors has shape {tuple(back.shape)}"

    def test_inputs_of_any_memory_layout(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        n = A.shape[1]
        wide = vectors(A, 6, 4).repeat(1, 1, 3)
        layouts = {
            "transposed": vectors(A, 4).mT.contiguous().mT,
            "every third number": wide[..., ::3][..., :n],
            "every second vector": wide[::2, :, :n],
            "one vector expanded": vectors(A, 1).expand(5, n),
            "middle axes swapped": wide[..., :n].transpose(0, 1),
            "not at the start of its storage": wide.reshape(-1)[n : 2 * n],
        }
        if dtype.is_complex:
            layouts["lazily conjugated"] = vectors(A, 3).conj()
            layouts["lazily negated"] = vectors(A, 3, dtype=dtype).conj().imag.neg()
        for what, x in layouts.items():
            before = x.clone()
            assert_product(what, A(x), A.to_dense(), before.resolve_conj().resolve_neg())
            assert torch.equal(x, before), f"{what}: the input was changed"
        rows = vectors(A, 3, rows=True)
        for what, y in {"conjugated": rows.conj(), "expanded": rows[:1].expand(4, -1)}.items():
            assert_product(f"adjoint, {what}", A.H(y), A.to_dense().mH.resolve_conj(), y.resolve_conj())

    def test_the_output_does_not_share_memory_with_the_input(
        self, example: Example, dtype: torch.dtype
    ) -> None:
        A = self.member(example, dtype)
        for B in (A, A.T, A.H):
            x = vectors(B, 3)
            before = x.clone()
            with torch.no_grad():
                B(x).zero_()
            assert torch.equal(x, before), "writing to the output changed the input"

    def test_wrong_input_is_refused(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        n = A.shape[1]
        with refuses("a vector that is too long", ArgumentError):
            A(torch.zeros(2, n + 1, dtype=dtype))
        with refuses("a scalar", ArgumentError):
            A(torch.zeros((), dtype=dtype))
        with refuses("a matrix with too many rows", ArgumentError):
            A @ torch.zeros(n + 1, 3, dtype=dtype)
        with refuses("integers", DtypeError):
            A(torch.zeros(n, dtype=torch.int64))
        with refuses("another precision", DtypeError):
            A(torch.zeros(n, dtype=torch.float32))
        with refuses("half precision", DtypeError):
            A(torch.zeros(n, dtype=torch.bfloat16))

    def test_wrong_sizes_and_dtypes_are_refused(self, example: Example) -> None:
        structure, m, n = example
        dtype = self.dtypes[0]
        for sides in ((0, n), (m, -1)):
            with refuses(f"shape {sides}", ArgumentError):
                structure.random(*sides, dtype=dtype)
        with refuses("a side that is no whole number", DtypeError):
            structure.random(m, 2.5, dtype=dtype)  # type: ignore[arg-type]
        with refuses("integers", DtypeError):
            structure.random(m, n, dtype=torch.int64)

    def test_numpy_arrays(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        dense = A.to_dense().detach().numpy()
        x = vectors(A, 4).numpy().T
        for what, array in {
            "vector": x[:, 0],
            "matrix": x,
            "reversed": x[::-1],
            "single": x.astype("F"),
        }.items():
            y = A @ array
            assert isinstance(y, np.ndarray), f"{what}: {type(y).__name__} instead of an array"
            tolerance = 1e-5 if what == "single" else 1e-11
            np.testing.assert_allclose(y, dense @ array, atol=tolerance, rtol=tolerance, err_msg=what)
        ones = A @ np.ones(A.shape[1], dtype=np.int32)
        np.testing.assert_allclose(ones, dense.sum(1), atol=1e-12, err_msg="integers follow the matrix")
        with refuses("text", DtypeError):
            A @ np.full(A.shape[1], "a")
        operator = A.aslinearoperator()
        np.testing.assert_allclose(operator @ x, dense @ x, atol=1e-12, err_msg="scipy, forward")
        y = vectors(A, rows=True).numpy()
        np.testing.assert_allclose(operator.H @ y, dense.conj().T @ y, atol=1e-12, err_msg="scipy, adjoint")

    def test_lower_precisions(self, example: Example, lower: torch.dtype) -> None:
        exact = self.member(example, torch.complex128 if lower.is_complex else torch.float64)
        A = exact.to(lower)
        assert A.dtype == lower, f"converted to {lower}, holds {A.dtype}"
        dense = _in_double(A.to_dense())
        x = vectors(A, 3)
        assert_product(f"product in {lower}", A(x), dense.to(lower), x)
        y = vectors(A, 3, rows=True)
        assert_product(f"adjoint in {lower}", A.H(y), dense.mH.resolve_conj().to(lower), y)
        array = A @ np.ones(A.shape[1])
        assert array.shape == (A.shape[0],), f"numpy array of shape {array.shape}"

    def test_conversions_keep_real_matrices_real(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        if dtype.is_complex:
            assert A.to(torch.complex64).dtype == torch.complex64, "to(complex64)"
            assert A.to(torch.complex128).dtype == torch.complex128, "to(complex128)"
            assert A.float().dtype == torch.complex64, "float()"
            assert torch.nn.Sequential(A).double()[0].dtype == torch.complex128, "as part of a model"
        else:
            with refuses("complex numbers in a real matrix", DtypeError):
                A.to(torch.complex64)
            assert A.float().double().dtype == torch.float64, "float().double()"


def _in_double(x: Tensor) -> Tensor:
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64)
