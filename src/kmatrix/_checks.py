"""Argument checks shared by every floor; each raises the typed error with the one wording of ``_errors``."""

from __future__ import annotations

import dataclasses
import math
import operator
import os
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kmatrix._errors import ArgumentError, DtypeError, complaint

REAL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
DTYPES = REAL_DTYPES + COMPLEX_DTYPES
HALF_DTYPES = (torch.float16, torch.bfloat16)
# The complex type whose parts are of the type; complex half precision is no type that torch computes with.
COMPLEX_OF = {torch.float32: torch.complex64, torch.float64: torch.complex128}
# Beside dtype.to_real(), which torch.compile does not trace.
REAL_OF = {whole: part for part, whole in COMPLEX_OF.items()}


def check_size(where: str, name: str, value: object, *, minimum: int = 1) -> int:
    """Return ``value`` as an int, or raise if it is not a whole number of at least ``minimum``."""
    try:
        size = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise DtypeError(complaint(where, name, repr(value), "not a whole number", "pass an int")) from None
    if isinstance(value, bool) or size < minimum:
        reason = f"must be a whole number of at least {minimum}"
        raise ArgumentError(complaint(where, name, value, reason, f"pass {minimum} or more"))
    return size


def check_seconds(where: str, name: str, value: object) -> float:
    """Return ``value`` as a float, or raise if it is not a positive, finite number of seconds."""
    seconds = _as_number(value)
    if not 0 < seconds < math.inf:
        reason = "must be a positive, finite number of seconds"
        raise ArgumentError(complaint(where, name, repr(value), reason, "pass a number such as 0.5"))
    return seconds


def check_positive(where: str, name: str, value: object) -> float:
    """The value as a float, or raise if it is not a positive, finite number."""
    number = _as_number(value)
    if not 0 < number < math.inf:
        way_out = "pass a number such as 0.3"
        raise ArgumentError(complaint(where, name, repr(value), "not a positive, finite number", way_out))
    return number


def check_finite(where: str, name: str, value: object) -> float:
    """The value as a float, or raise if it is not a finite number."""
    number = _as_number(value)
    if not math.isfinite(number):
        way_out = "pass a number such as 0.3"
        raise ArgumentError(complaint(where, name, repr(value), "not a finite number", way_out))
    return number


def _as_number(value: object) -> float:
    """A real number as a float, infinite if it is too large for one; NaN for what is none."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def check_module(where: str, model: object, name: str = "model", way_out: str = "pass the model") -> None:
    """Raise unless something is an ``nn.Module``."""
    if not isinstance(model, torch.nn.Module):
        raise DtypeError(complaint(where, name, type(model).__name__, "not an nn.Module", way_out))


def check_dtype(where: str, dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype``, or raise if no structured matrix can hold it."""
    if dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise DtypeError(
            complaint(where, "dtype", dtype, "not a floating or complex type", f"use one of {names}")
        )
    return dtype


def check_path(where: str, name: str, path: object) -> Path:
    """Return the name of a file or folder as a ``Path``, or raise if it is none."""
    if not isinstance(path, str | os.PathLike):
        way_out = "pass a str or a pathlib.Path"
        raise DtypeError(complaint(where, name, repr(path), "not the name of a file or folder", way_out))
    return Path(path)


def check_tensor(where: str, name: str, x: object) -> None:
    """Raise unless something is a tensor."""
    if not isinstance(x, torch.Tensor):
        way_out = f"pass torch.as_tensor({name}); A @ {name} of a matrix A takes a numpy array too"
        raise DtypeError(complaint(where, name, type(x).__name__, "not a tensor", way_out))


def check_last_dim(where: str, x: torch.Tensor, size: int) -> None:
    """Raise unless ``x`` is a tensor whose last dimension is ``size``."""
    check_tensor(where, "x", x)
    if x.ndim == 0 or x.shape[-1] != size:
        shape = tuple(x.shape)
        raise ArgumentError(
            complaint(
                where, "x.shape", shape, f"the last dimension must be {size}", f"pass x of shape (*, {size})"
            )
        )


def complex_of(dtype: torch.dtype) -> torch.dtype:
    """The complex type of the precision of ``dtype``; complex64 for half precisions."""
    return dtype if dtype.is_complex else COMPLEX_OF.get(dtype, torch.complex64)


def as_tensor(where: str, name: str, value: object) -> torch.Tensor:
    """Numbers a user gave, in any form, as a tensor without gradients."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        return torch.as_tensor(np.array(value))  # a copy: torch takes no negative strides
    except (TypeError, ValueError):
        got, way_out = type(value).__name__, "pass an array or tensor of numbers"
        raise DtypeError(complaint(where, name, got, "not an array of numbers", way_out)) from None


def finite_in_double(where: str, name: str, tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The numbers of a tensor in double precision, or raise if one is infinite or not a number."""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    numbers: npt.NDArray[Any] = tensor.to("cpu", wide).resolve_conj().resolve_neg().numpy()
    if not np.isfinite(numbers).all():
        reason, way_out = "holds numbers that are not finite", "remove the NaNs and infinities"
        raise ArgumentError(complaint(where, name, f"array{numbers.shape}", reason, way_out))
    return numbers


def freeze_fields(item: Any) -> None:
    """Turn lists and arrays in the fields of a frozen dataclass into tuples, so that it can be hashed and compared."""
    for field in dataclasses.fields(item):
        if field.init:
            value = getattr(item, field.name)
            frozen = _frozen(value)
            if frozen is not value:
                object.__setattr__(item, field.name, frozen)


def _frozen(value: object) -> object:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return tuple([_frozen(item) for item in value])
    if isinstance(value, tuple):
        items = [_frozen(item) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else tuple(items)
    return value
