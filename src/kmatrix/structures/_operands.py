"""What stands beside a matrix in an expression: numbers that multiply it, arrays that it multiplies."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import forward_ad

from kmatrix._checks import COMPLEX_OF
from kmatrix._errors import ArgumentError, DtypeError, complaint

_DTYPES = tuple(map(np.dtype, (np.float32, np.float64, np.complex64, np.complex128)))


def fixed_number(where: str, value: object) -> complex | None:
    """The number that a scalar stands for, None if it is no scalar.

    Raises:
        ArgumentError: if it is a tensor that is differentiated, or one on the meta device.
    """
    if isinstance(value, Tensor) and value.ndim == 0:
        _check_unwatched(where, value)
        return complex(value.item())
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return complex(value) if isinstance(value, numbers.Complex) else None


def _check_unwatched(where: str, scalar: Tensor) -> None:
    # A multiple keeps a plain number, so a gradient would be lost without a word.
    recorded = scalar.requires_grad and torch.is_grad_enabled()
    if recorded or forward_ad.unpack_dual(scalar).tangent is not None:  # type: ignore[no-untyped-call]
        reason = "multiples of a matrix keep a fixed number, without gradients"
        way_out = "multiply the result, c * (A @ x), or pass c.detach()"
        raise ArgumentError(complaint(where, "c", "a tensor that requires gradients", reason, way_out))
    if scalar.is_meta:
        reason, way_out = "has no value", "pass a number"
        raise ArgumentError(complaint(where, "c", "a tensor on the meta device", reason, way_out))


def times_array(
    where: str,
    multiply: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    device: torch.device,
    x: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """Call ``multiply`` of a matrix of ``dtype`` on ``device`` with a numpy array of any layout and precision."""
    if x.dtype.kind not in "fciub":
        raise DtypeError(complaint(where, "x.dtype", x.dtype, "not numeric", "pass a float or complex array"))
    # numpy users mix precisions freely, so the array follows the matrix; complex input stays complex.
    keep_complex = x.dtype.kind == "c" and not dtype.is_complex
    target = COMPLEX_OF.get(dtype, torch.complex64) if keep_complex else dtype
    # A copy, because torch takes neither negative strides nor foreign byte orders nor long doubles.
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    array = np.array(x, dtype=x.dtype if x.dtype in _DTYPES else wide, order="C")
    with torch.no_grad():
        y = multiply(torch.as_tensor(array).to(device, target))
        return _numpy(y)


def as_array(dense: Tensor, dtype: npt.DTypeLike | None, copy: bool | None) -> npt.NDArray[Any]:
    """Entries as a numpy array, as ``__array__`` promises them.

    Raises:
        ArgumentError: if numpy asks for the entries without a copy: a structured matrix has none to share.
    """
    if copy is False:
        reason, way_out = "the entries have to be computed", "leave copy out, or call A.to_dense()"
        raise ArgumentError(complaint("np.asarray(A)", "copy", copy, reason, way_out))
    array = _numpy(dense.detach())
    return array if dtype is None else array.astype(dtype, copy=False)


def _numpy(tensor: Tensor) -> npt.NDArray[Any]:
    tensor = tensor.resolve_conj().resolve_neg().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
