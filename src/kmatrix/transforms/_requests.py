"""What users ask of a transform: norms, number types, kernels; checked once, each with a typed error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix._checks import COMPLEX_DTYPES, REAL_DTYPES, as_tensor, check_dtype, complex_of, finite_in_double
from kmatrix._errors import ArgumentError, DtypeError, complaint

Norm = Literal["backward", "ortho", "forward"]
Numbers = Tensor | npt.NDArray[Any] | Sequence[Any]

# What a transform is multiplied by is a power of its size: n**EXPONENT[norm].
EXPONENT: dict[Norm, float] = {"backward": 0.0, "ortho": -0.5, "forward": -1.0}
INVERSE: dict[Norm, Norm] = {"backward": "forward", "ortho": "ortho", "forward": "backward"}


def check_norm(where: str, norm: Norm | None) -> Norm:
    """The norm by name; None is ``"backward"``, as in scipy."""
    if norm is None:
        return "backward"
    if norm not in EXPONENT:
        reason, way_out = "not a norm", "use 'backward', 'ortho' or 'forward'"
        raise ArgumentError(complaint(where, "norm", repr(norm), reason, way_out))
    return norm


def complex_dtype(where: str, dtype: torch.dtype | None) -> torch.dtype:
    """A complex type, by default the one of torch's default precision."""
    chosen = dtype or complex_of(torch.get_default_dtype())
    if chosen not in COMPLEX_DTYPES:
        way_out = "use torch.complex64 or torch.complex128, or a real transform such as dct"
        raise DtypeError(complaint(where, "dtype", chosen, "the transform is complex", way_out))
    return chosen


def real_dtype(where: str, dtype: torch.dtype | None) -> torch.dtype:
    """A real type, by default torch's."""
    chosen = dtype or torch.get_default_dtype()
    if chosen not in REAL_DTYPES:
        way_out = "use a real type; a real matrix also takes complex vectors"
        raise DtypeError(complaint(where, "dtype", chosen, "the transform is real", way_out))
    return chosen


def number_dtype(where: str, dtype: torch.dtype | None) -> torch.dtype:
    """Any type a matrix can hold, by default torch's."""
    return check_dtype(where, dtype or torch.get_default_dtype())


class Kernel(NamedTuple):
    """Numbers a user gave, widened to double precision, and the type and device of the matrix asked for."""

    numbers: npt.NDArray[Any]
    dtype: torch.dtype
    device: torch.device | str | None

    @property
    def size(self) -> int:
        """Length of a vector."""
        return len(self.numbers)

    @property
    def tensor(self) -> Tensor:
        """The numbers as they will be stored."""
        return torch.from_numpy(self.numbers).to(device=self.device, dtype=self.dtype)

    def joined(self, other: Kernel, numbers: npt.NDArray[Any]) -> Kernel:
        """Numbers made of two kernels, in a type that holds both, where this one is."""
        return Kernel(numbers, torch.promote_types(self.dtype, other.dtype), self.device)


def take_kernel(
    where: str,
    name: str,
    value: Numbers,
    *,
    ndim: int = 1,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Kernel:
    """Check numbers that define a matrix: finite, ``ndim`` axes, not empty, real for a real type."""
    tensor = as_tensor(where, name, value)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        tensor = tensor.to(torch.get_default_dtype())
    chosen = check_dtype(where, dtype or tensor.dtype)
    shape = tuple(tensor.shape)
    if len(shape) != ndim or 0 in shape:
        reason = f"must have {ndim} axis, not empty" if ndim == 1 else f"must have {ndim} axes, none empty"
        raise ArgumentError(complaint(where, f"{name}.shape", shape, reason, "reshape it"))
    numbers = finite_in_double(where, name, tensor)
    if tensor.is_complex() and not chosen.is_complex:
        way_out = f"use dtype={complex_of(chosen)}, or pass {name}.real"
        raise DtypeError(complaint(where, "dtype", chosen, f"{name} is complex", way_out))
    return Kernel(numbers, chosen, tensor.device if device is None and isinstance(value, Tensor) else device)
