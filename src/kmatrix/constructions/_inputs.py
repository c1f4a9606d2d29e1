"""What the constructions take and give back: checked arrays in double precision, number types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix._checks import COMPLEX_DTYPES, as_tensor, check_dtype, complex_of, finite_in_double
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix._permutations import Index, is_permutation

Array = npt.NDArray[Any]
ArrayLike = Tensor | Array | Sequence[Any]


class Like(NamedTuple):
    """Number type and device of the result."""

    dtype: torch.dtype
    device: torch.device


def like(where: str, dtype: torch.dtype | None, *, is_complex: bool = False) -> Like:
    """The number type a caller asked for, or torch's default; complex forms refuse real types."""
    default = torch.get_default_dtype()
    chosen = check_dtype(where, dtype or (complex_of(default) if is_complex else default))
    if is_complex and chosen not in COMPLEX_DTYPES:
        way_out = "pass torch.complex64 or torch.complex128"
        raise DtypeError(complaint(where, "dtype", chosen, "the factors are complex", way_out))
    return Like(chosen, torch.device("cpu"))


def joint(likes: Sequence[Like]) -> Like:
    """The number type that holds all of them, on the device of the first."""
    dtype = likes[0].dtype
    for other in likes[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    return Like(dtype, likes[0].device)


def take_array(where: str, name: str, value: ArrayLike, ndim: int | None) -> tuple[Array, Like]:
    """Check an array of finite numbers with ``ndim`` axes, none empty; return it widened, and its type."""
    array, kind = widen(where, name, value)
    if array.ndim == 0 or array.size == 0 or (ndim is not None and array.ndim != ndim):
        reason = f"must have {ndim or 'some'} axes, none of them empty"
        raise ArgumentError(complaint(where, f"{name}.shape", array.shape, reason, "reshape it"))
    return array, kind


def widen(where: str, name: str, value: ArrayLike) -> tuple[Array, Like]:
    """Check that all numbers are finite; return them in double precision, and their own type.

    Integers and plain Python numbers have no floating type of their own and take torch's default.
    """
    tensor = as_tensor(where, name, value)
    dtype = tensor.dtype
    if not (tensor.is_floating_point() or tensor.is_complex()) or not hasattr(value, "dtype"):
        default = torch.get_default_dtype()
        dtype = complex_of(default) if tensor.is_complex() else default
    check_dtype(where, dtype)
    return finite_in_double(where, name, tensor), Like(dtype, tensor.device)


def take_permutation(where: str, name: str, value: ArrayLike) -> Index:
    """Check an index array that holds each of 0 .. n-1 once."""
    array = as_tensor(where, name, value).cpu().numpy()
    whole = array.ndim == 1 and array.size > 0 and array.dtype.kind in "iu"
    if not whole or not is_permutation(array.astype(np.int64)):
        reason = "not a permutation of 0..n-1"
        raise ArgumentError(
            complaint(where, name, f"array{array.shape}", reason, "pass each index exactly once")
        )
    return array.astype(np.int64)
