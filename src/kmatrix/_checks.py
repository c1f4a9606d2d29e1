"""Argument checks shared by every floor; each raises the typed error with the one wording of ``_errors``."""

from __future__ import annotations

import operator

import torch

from kmatrix._errors import ArgumentError, DtypeError, complaint

REAL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
DTYPES = REAL_DTYPES + COMPLEX_DTYPES


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
