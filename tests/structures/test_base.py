"""What all matrices share: input of every kind, conversions, storage of complex numbers, complaints."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import Butterfly, Circulant, Dense, Permutation, Structure, StructuredMatrix, Toeplitz
from kmatrix.structures.base import empty_parameter, fill_normal, from_pairs, stored_dtype, to_pairs
from kmatrix.structures.compose import ScaledMatrix, SumMatrix

f32, f64, c64, c128 = torch.float32, torch.float64, torch.complex64, torch.complex128
bf16, f16 = torch.bfloat16, torch.float16


def given(dense: Tensor) -> StructuredMatrix:
    """A dense matrix of given numbers."""
    A = Dense().empty(*dense.shape, dtype=dense.dtype)
    with torch.no_grad():
        A.get_parameter("factors.0").copy_(to_pairs(dense.reshape(1, *dense.shape, 1)))
    return A


def test_the_two_classes_are_abstract() -> None:
    for kind in (Structure, StructuredMatrix):
        with pytest.raises(TypeError, match="abstract"):
            kind()  # type: ignore[abstract]


def test_the_dense_family_holds_its_matrix() -> None:
    dense = torch.randn(4, 7, dtype=c128)
    torch.testing.assert_close(given(dense).to_dense(), dense, rtol=0, atol=0)


# Scalars


@pytest.mark.parametrize(
    "scalar", [2, True, -0.5, np.float64(2), np.float32(0.1), np.int64(3), Fraction(1, 3)]
)
def test_scalars_multiply_from_both_sides(scalar: Any) -> None:
    dense = torch.randn(3, 4, dtype=f64)
    A = given(dense)
    for product in (scalar * A, A * scalar):
        assert isinstance(product, ScaledMatrix)
        torch.testing.assert_close(product.to_dense(), float(scalar) * dense)


@pytest.mark.parametrize("other", ["2", None, [1, 2], torch.ones(3)])
def test_what_is_no_scalar_is_refused(other: Any) -> None:
    A = Dense().random(3, 3)
    operations: list[Callable[[], object]] = [
        lambda: other * A,
        lambda: A * other,
        lambda: A + other,
        lambda: A - other,
    ]
    for operation in operations:
        with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
            operation()


@pytest.mark.parametrize(
    "scalar",
    [
        torch.tensor(0.5, dtype=f64),
        torch.tensor(3),
        np.array(0.25),
        np.array(2),
        torch.tensor(2.0, dtype=bf16),
    ],
    ids=repr,
)
def test_tensors_and_arrays_without_axes_are_scalars(scalar: Any) -> None:
    dense = torch.randn(3, 4, dtype=f64)
    A = given(dense)
    for product in (scalar * A, A * scalar):
        assert isinstance(product, ScaledMatrix)
        assert torch.equal(product.to_dense(), float(scalar) * dense)
    torch.testing.assert_close((A / scalar).to_dense(), dense / float(scalar))


def test_complex_tensors_scale_complex_matrices_alone() -> None:
    scalar = torch.tensor(1 - 2j)
    dense = torch.randn(2, 2, dtype=c128)
    torch.testing.assert_close((scalar * given(dense)).to_dense(), (1 - 2j) * dense)
    with pytest.raises(ArgumentError, match="real matrix"):
        scalar * given(dense.real)


def test_a_scalar_that_is_learnt_is_refused_where_its_gradient_would_be_lost() -> None:
    A = Dense().random(2, 2)
    scalar = torch.tensor(2.0, requires_grad=True)
    operations: list[Callable[[], object]] = [
        lambda: scalar * A,
        lambda: A * scalar,
        lambda: A / scalar,
        lambda: scalar.exp() * A,
    ]
    for operation in operations:
        with pytest.raises(ArgumentError, match=r"requires gradients.*c \* \(A @ x\)"):
            operation()
    with torch.no_grad():
        torch.testing.assert_close((scalar * A).to_dense(), 2 * A.to_dense())
    torch.testing.assert_close((scalar.detach() * A).to_dense(), 2 * A.to_dense())
    with pytest.raises(ArgumentError, match="requires gradients"):
        torch.func.grad(lambda c: (c * A).to_dense().sum())(torch.tensor(2.0))


# torch builds its own forward-mode rules with torch.jit.script on first use
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_scalar_with_a_tangent_is_refused() -> None:
    A = Dense().random(2, 2)
    with pytest.raises(ArgumentError, match="requires gradients"):
        torch.func.jvp(lambda c: (c * A).to_dense(), (torch.tensor(2.0),), (torch.tensor(1.0),))


def test_a_scalar_without_a_value_is_refused() -> None:
    with pytest.raises(ArgumentError, match="meta device"):
        torch.tensor(2.0, device="meta") * Dense().random(2, 2)


@pytest.mark.parametrize("scalar", [2, -0.5, np.float32(4), Fraction(1, 3), True])
def test_matrices_are_divided_by_scalars(scalar: Any) -> None:
    dense = torch.randn(3, 4, dtype=f64)
    torch.testing.assert_close((given(dense) / scalar).to_dense(), dense / float(scalar))


def test_division_is_by_numbers_other_than_zero() -> None:
    A = Dense().random(2, 2)
    for zero in (0, 0.0, np.float64(0), torch.tensor(0.0)):
        with pytest.raises(ArgumentError, match=r"A / c.*division by zero"):
            A / zero
    for other in (A, "2", torch.ones(2), np.ones(2)):
        with pytest.raises(TypeError, match=r"unsupported operand|does not support"):
            A / other  # type: ignore[operator]
    with pytest.raises(TypeError, match="unsupported operand"):
        2 / A  # type: ignore[operator]


def test_python_sums_matrices() -> None:
    a, b, c = torch.randn(3, 3, 3, dtype=f64)
    total = sum([given(a), given(b), given(c)])
    assert isinstance(total, SumMatrix) and len(total.members) == 3
    torch.testing.assert_close(total.to_dense(), a + b + c)
    A = given(a)
    assert sum([A]) is A
    for other in (1, 0.0, False, torch.tensor(0)):
        with pytest.raises(TypeError, match="unsupported operand"):
            other + A  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (5, 2, 3), (0, 3)])
@pytest.mark.parametrize("dtype", [f64, c128])
def test_tensors_and_arrays_multiply_from_the_left(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    dense = torch.randn(3, 4, dtype=dtype)
    A, x = given(dense), torch.randn(shape, dtype=f64)
    want = x.to(dtype) @ dense
    torch.testing.assert_close(x @ A, want)
    y = x.numpy() @ A
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, want.numpy(), rtol=1e-12)
    np.testing.assert_allclose(x.numpy()[..., ::-1] @ A, (x.flip(-1).to(dtype) @ dense).numpy(), rtol=1e-12)


def test_products_from_the_left_are_differentiable() -> None:
    dense = torch.randn(3, 4, dtype=f64)
    A, x = given(dense), torch.randn(2, 3, dtype=f64, requires_grad=True)
    (x @ A).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, dense.sum(1).expand(2, 3))
    numbers = A.get_parameter("factors.0").grad
    assert numbers is not None
    torch.testing.assert_close(numbers.reshape(3, 4), x.detach().sum(0).unsqueeze(1).expand(3, 4))
    parameter = nn.Parameter(x.detach())
    torch.testing.assert_close(parameter @ A, x @ A)


def test_products_from_the_left_fit() -> None:
    A = Dense().random(3, 4)
    for left in (np.ones((2, 4), dtype=np.float32), torch.ones(4)):
        with pytest.raises(ArgumentError, match="last dimension must be 3"):
            left @ A
    for left in (torch.tensor(1.0), np.ones((), dtype=np.float32)):
        with pytest.raises(ArgumentError, match=r"x @ A.*c \* A"):
            left @ A
    with pytest.raises(DtypeError, match="convert"):
        torch.ones(3, dtype=f64) @ A
    with pytest.raises(DtypeError, match=r"x @ A.*not numeric"):
        np.array([None, None, None]) @ A
    for left in ([1.0, 2.0, 3.0], "x"):
        with pytest.raises(TypeError, match="unsupported operand"):
            left @ A  # type: ignore[operator]


def test_scalars_are_no_vectors() -> None:
    A = Dense().random(3, 1)
    for scalar in (torch.tensor(1.0), np.ones((), dtype=np.float32)):
        with pytest.raises(ArgumentError, match=r"c \* A"):
            A @ scalar


# numpy


@pytest.mark.parametrize("dtype", [">f8", ">c16", "<f2", "g", "G", "u1", "i8", "?"])
def test_arrays_of_every_number_type(dtype: str) -> None:
    dense = torch.randn(3, 4, dtype=f64)
    x = np.arange(8).reshape(4, 2).astype(dtype)
    y = given(dense) @ x
    assert y.dtype == (np.complex128 if x.dtype.kind == "c" else np.float64)
    np.testing.assert_allclose(y, dense.numpy() @ x.astype(y.dtype))


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (2, 4, 3)])
def test_arrays_of_any_layout(shape: tuple[int, ...]) -> None:
    dense = torch.randn(3, 4, dtype=f64)
    x = np.random.default_rng(0).standard_normal(shape)
    for array in (x[..., ::-1], x[::-1].copy()[::-1], np.asfortranarray(x)):
        array.flags.writeable = False
        np.testing.assert_allclose(given(dense) @ array, dense.numpy() @ array)


@pytest.mark.parametrize(("half", "out"), [(bf16, np.float32), (f16, np.float16)])
def test_numpy_knows_no_bfloat16(half: torch.dtype, out: type) -> None:
    dense = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=half)
    y = given(dense) @ np.array([1.0, 1.0])
    assert y.dtype == out
    assert y.tolist() == [3.0, 7.0]
    assert given(dense).aslinearoperator().dtype == np.float32


def test_numpy_results_under_autocast() -> None:
    with torch.autocast("cpu", dtype=bf16):
        assert (given(torch.eye(2)) @ np.ones(2)).tolist() == [1.0, 1.0]


def test_complex_arrays_stay_complex() -> None:
    y = given(torch.eye(2)) @ np.array([1j, 2.0])
    assert y.dtype == np.complex64
    assert y.tolist() == [1j, 2.0]


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(DtypeError, match="not numeric"):
        Dense().random(2, 2) @ np.array([None, None])


def test_scipy_solves_with_a_matrix() -> None:
    dense = torch.eye(9, dtype=f64) + 0.1 * torch.randn(9, 9, dtype=f64)
    operator = given(dense).aslinearoperator()
    right = np.arange(9.0)
    x = scipy.sparse.linalg.lsqr(operator, right, atol=1e-14, btol=1e-14)[0]
    np.testing.assert_allclose(x, np.linalg.solve(dense.numpy(), right), atol=1e-10)


# Complex numbers


def test_results_are_conjugated_for_good() -> None:
    A = Butterfly().random(4, 6, dtype=c128)
    x = torch.randn(4, dtype=c128)
    for result in (A.H(x), A.H @ x, A.H.to_dense(), A.T.H.to_dense(), (A.H @ A).to_dense()):
        assert not result.is_conj()
        result.detach().numpy()


def test_pairs_come_back() -> None:
    numbers = torch.randn(3, 2, dtype=c64).conj()
    stored = to_pairs(numbers)
    assert (stored.dtype, stored.shape, stored.is_contiguous()) == (f32, (3, 2, 2), True)
    assert torch.equal(from_pairs(stored, True), numbers.resolve_conj())
    real = torch.randn(3)
    assert to_pairs(real) is real and from_pairs(real, False) is real


def test_gradients_flow_to_the_pairs() -> None:
    stored = empty_parameter((2, 3), c128, None)
    assert (stored.dtype, stored.shape) == (f64, (2, 3, 2))
    fill_normal(stored, 1.0, True, None)
    from_pairs(stored, True).imag.sum().backward()
    assert stored.grad is not None
    assert torch.equal(stored.grad[..., 1], torch.ones(2, 3, dtype=f64))
    assert torch.count_nonzero(stored.grad[..., 0]) == 0


def test_normal_numbers_have_the_variance_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    for is_complex, size in ((False, (40_000,)), (True, (40_000, 2))):
        stored = torch.empty(size, dtype=f64)
        fill_normal(stored, 0.5, is_complex, generator, mean=3.0)
        numbers = from_pairs(stored, is_complex)
        # Six standard errors.
        assert abs(complex(numbers.mean()) - 3) < 6 * 0.5 / 200
        assert float((numbers - 3).abs().square().mean()) == pytest.approx(0.25, rel=6 * 2**0.5 / 200)


def test_complex_half_precision_is_refused_when_it_is_used() -> None:
    A = Butterfly().random(4, 4, dtype=c64).half()
    with pytest.raises(DtypeError, match="no complex arithmetic"):
        A(torch.ones(4, dtype=f16))
    assert A.float().dtype == c64
    with pytest.raises(DtypeError, match="float64 parts"):
        stored_dtype("here", torch.empty(0, dtype=bf16), True)


def test_models_of_complex_matrices_convert() -> None:
    model = nn.Sequential(Butterfly().random(4, 4, dtype=c64), nn.Identity())
    x = torch.randn(2, 4, dtype=c128)
    want = model(x.to(c64))
    with pytest.warns(UserWarning, match="Complex modules"):
        model.to(c128)
    assert {p.dtype for p in model.parameters()} == {f64}
    torch.testing.assert_close(model(x), want.to(c128), rtol=1e-6, atol=1e-6)
    other = torch.empty(0, dtype=c64)
    assert {p.dtype for p in model[0].to(other).parameters()} == {f32}
    assert {p.dtype for p in model[0].to(dtype=c128).parameters()} == {f64}


def test_models_of_real_matrices_stay_real() -> None:
    model = nn.Sequential(Butterfly().random(4, 4))
    with (
        pytest.warns(UserWarning, match="Complex modules"),
        pytest.raises(DtypeError, match="the matrix is real"),
    ):
        model.to(c64)


# Autocast


@pytest.mark.parametrize("structure", [Butterfly(), Circulant(), Toeplitz(), Permutation()])
def test_autocast_mixes_the_precisions_it_casts_and_no_others(structure: Structure) -> None:
    single, double = (structure.random(4, 4, dtype=dtype) for dtype in (f32, f64))
    with torch.autocast("cpu", dtype=bf16):
        for dtype in (f32, bf16, f16):
            assert single(torch.ones(4, dtype=dtype)).is_floating_point()
            with pytest.raises(DtypeError, match="convert"):
                double(torch.ones(4, dtype=dtype))
        assert double(torch.ones(4, dtype=f64)).dtype == f64
        for x in (torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=f64), torch.ones(4, dtype=c128)):
            with pytest.raises(DtypeError, match="convert"):
                single(x)
        assert single(torch.ones(4, dtype=c64)).dtype == c64


def test_precisions_do_not_mix_without_autocast() -> None:
    A = Dense().random(3, 3)
    for dtype in (f64, bf16, f16, c128):
        with pytest.raises(DtypeError, match=rf"x\.dtype={dtype}.*x\.to\(torch\.float32\)"):
            A(torch.ones(3, dtype=dtype))


def test_operators_mirror_their_mathematics() -> None:
    a, b = torch.randn(2, 3, 3, dtype=f64)
    A, B = given(a), given(b)
    for got, want in ((A - B, a - b), (-A, -a), (A + B - 2 * A @ B.T, a + b - 2 * a @ b.T)):
        torch.testing.assert_close(got.to_dense(), want)


def test_a_representation_says_what_matters() -> None:
    text = repr(Butterfly().random(4, 6))
    for part in ("Butterfly(radices=None, ranks=1)", "shape=(4, 6)", "num_params=24", "dtype=torch.float32"):
        assert part in text
