"""Argument checks shared by every floor; each raises the typed error with the one wording of ``_errors``."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
import torch

from kmatrix._errors import ArgumentError, DtypeError, complaint

REAL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
DTYPES = REAL_DTYPES + COMPLEX_DTYPES
HALF_DTYPES = (torch.float16, torch.bfloat16)
# The complex type whose parts are of the type; complex half precision is no type that torch computes with.
COMPLEX_OF = {torch.float32: torch.complex64, torch.float64: torch.complex128}
REAL_OF = {
    whole: part for part, whole in COMPLEX_OF.items()
}  # to_real() is nothing that torch.compile traces


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


def check_dtype(where: str, dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype``, or raise if no structured matrix can hold it."""
    if dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise DtypeError(
            complaint(where, "dtype", dtype, "not a floating or complex type", f"use one of {names}")
        )
    return dtype


def check_last_dim(where: str, x: torch.Tensor, size: int) -> None:
    """Raise unless the last dimension of ``x`` is ``size``."""
    if x.ndim == 0 or x.shape[-1] != size:
        shape = tuple(x.shape)
        raise ArgumentError(
            complaint(
                where, "x.shape", shape, f"the last dimension must be {size}", f"pass x of shape (*, {size})"
            )
        )


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
