"""Comparisons in units of rounding: against a matrix, against plain torch, and of a matrix with its adjoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kmatrix.structures import StructuredMatrix

ROUNDINGS = 64.0

Function = Callable[..., Tensor | tuple[Tensor, ...]]


def assert_equal_up_to_rounding(
    what: str, got: Tensor, want: Tensor, *, scale: float | Tensor = 0.0, roundings: float = ROUNDINGS
) -> None:
    """Raise unless ``|got - want| <= roundings * eps * (scale + |want|)`` in norm, for the dtype of ``got``.

    Args:
        what: what is compared, for the message.
        got: the result.
        want: what it should be; of the same shape, perhaps of higher precision.
        scale: size of the numbers that were added up to the result, such as ``|A| |x|`` for a product.
        roundings: how many units of rounding are tolerated.

    Raises:
        AssertionError: if the shapes differ, a number is not finite, or the error is too large.

    Example:
        >>> import torch
        >>> from kmatrix.testing import assert_equal_up_to_rounding
        >>> assert_equal_up_to_rounding("a third", torch.tensor(1 / 3), torch.tensor(1 / 3).double())
    """
    _same_shape(what, got, want)
    if not bool(torch.isfinite(got).all()):
        raise AssertionError(f"{what}: not finite")
    with torch.no_grad():
        wide = _wide(want)
        error = float(torch.linalg.vector_norm(_wide(got) - wide))
        unit = torch.finfo(got.dtype).eps * float(
            torch.as_tensor(scale).detach() + torch.linalg.vector_norm(wide)
        )
    if error > roundings * unit:
        units = error / unit if unit else math.inf
        raise AssertionError(f"{what}: off by {units:.3g} units of rounding, {roundings:g} allowed")


def assert_matches_reference(
    fn: Function, reference: Function, inputs: Sequence[Tensor], dtype: torch.dtype, *, times: float = 2.0
) -> None:
    """Raise unless ``fn`` is at most ``times`` as wrong as plain torch in the same dtype, both against float64.

    Args:
        fn: what is tested, such as a kernel; takes the inputs, returns a tensor or a tuple of tensors.
        reference: the same in plain torch.
        inputs: arguments of both; the floating ones are rounded to ``dtype`` first, so that all three
            evaluations see the same numbers.
        dtype: the type to test in, real or complex.
        times: how many times the error of plain torch is tolerated; one unit of rounding always is, and 64 in
            double precision, where there is nothing more precise to compare with.

    Raises:
        AssertionError: if the shapes or dtypes differ, or the error is too large or not finite.

    Example:
        >>> import torch
        >>> from kmatrix.testing import assert_matches_reference
        >>> x = torch.randn(5, 7, dtype=torch.float64)
        >>> assert_matches_reference(lambda x: x.sum(0), lambda x: torch.ones(5, dtype=x.dtype) @ x, [x], torch.float32)
    """
    rounded = [_as(x, dtype) for x in inputs]
    with torch.no_grad():
        truths = _results(reference(*[_wide(x) for x in rounded]))
        plains, results = _results(reference(*rounded)), _results(fn(*rounded))
    if not len(truths) == len(plains) == len(results):
        raise AssertionError(f"{len(results)} results, the reference has {len(truths)}")
    for k, (got, plain, truth) in enumerate(zip(results, plains, truths, strict=True)):
        what = f"result {k}"
        _same_shape(what, got, truth)
        if got.dtype != plain.dtype:
            raise AssertionError(f"{what}: {got.dtype}, the reference gives {plain.dtype}")
        if not bool(torch.isfinite(got).all()):
            raise AssertionError(f"{what}: not finite")
        errors = [float(torch.linalg.vector_norm(_wide(y) - truth)) for y in (got, plain)]
        unit = torch.finfo(got.dtype).eps * float(torch.linalg.vector_norm(truth))
        # In double precision plain torch is the truth itself, and has no error to compare with.
        free = ROUNDINGS if truth.dtype == got.dtype else 1.0
        if errors[0] > times * errors[1] + free * unit:
            raise AssertionError(
                f"{what}: error {errors[0]:.3g} in {dtype}, plain torch has {errors[1]:.3g} and {times:g} times "
                f"that is allowed"
            )


def dottest(A: StructuredMatrix, *, roundings: float = ROUNDINGS, seed: int = 0) -> None:
    """Raise unless ``<A x, y> = <x, A* y>`` for random vectors, real and complex: is ``A.H`` the adjoint?

    Args:
        A: the matrix.
        roundings: how many units of rounding, relative to ``|A x| |y| + |x| |A* y|``, are tolerated.
        seed: for the vectors.

    Raises:
        AssertionError: if the two differ.

    Example:
        >>> import kmatrix as km
        >>> from kmatrix.testing import dottest
        >>> dottest(km.Butterfly().random(12, 20))
    """
    m, n = A.shape
    dtypes = {A.dtype}
    if A.dtype in (torch.float32, torch.float64):
        dtypes.add(A.dtype.to_complex())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for dtype in sorted(dtypes, key=str):
            wide = torch.complex128 if dtype.is_complex else torch.float64
            x, y = (torch.randn(size, dtype=wide, generator=generator).to(A.device, dtype) for size in (n, m))
            ax, ay = A(x), A.H(y)
            forward, backward = torch.vdot(_wide(y), _wide(ax)), torch.vdot(_wide(ay), _wide(x))
            norms = [float(torch.linalg.vector_norm(_wide(v))) for v in (x, y, ax, ay)]
            unit = torch.finfo(A.dtype).eps * (norms[2] * norms[1] + norms[0] * norms[3])
            error = float((forward - backward).abs())
            if not error <= roundings * unit:
                raise AssertionError(
                    f"<A x, y> and <x, A* y> differ by {error:.3g}, {error / unit:.3g} units of rounding "
                    f"({dtype} vectors); {roundings:g} allowed"
                )


def _wide(x: Tensor) -> Tensor:
    """In double precision, if it is a floating or complex tensor."""
    return x.to(torch.complex128) if x.is_complex() else x.double() if x.is_floating_point() else x


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to the precision of ``dtype``, real numbers staying real."""
    if x.is_complex():
        return x.to(dtype)
    real = dtype.to_real() if dtype.is_complex else dtype
    return x.to(real) if x.is_floating_point() else x


def _results(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def _same_shape(what: str, got: Tensor, want: Tensor) -> None:
    if got.shape != want.shape:
        raise AssertionError(f"{what}: shape {tuple(got.shape)}, expected {tuple(want.shape)}")
