"""How numbers are stored: complex ones as trailing real pairs, as optimisers and conversions take them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kmatrix._checks import COMPLEX_OF
from kmatrix._errors import DtypeError, complaint


def to_pairs(numbers: Tensor) -> Tensor:
    """How numbers are stored: complex ones as a trailing axis of real pairs, real ones as they are."""
    return torch.view_as_real(numbers.resolve_conj()).contiguous() if numbers.is_complex() else numbers


def from_pairs(stored: Tensor, is_complex: bool) -> Tensor:
    """The numbers that ``to_pairs`` stored, as a view (gradients flow to the stored pairs)."""
    return torch.view_as_complex(stored) if is_complex else stored


def stored_dtype(where: str, stored: Tensor, is_complex: bool) -> torch.dtype:
    """Number type of a stored parameter; complex half precision is refused, torch cannot compute with it."""
    if not is_complex:
        return stored.dtype
    if stored.dtype not in COMPLEX_OF:
        way_out = "keep complex matrices in float32 or float64 parts"
        raise DtypeError(
            complaint(where, "dtype", stored.dtype, "no complex arithmetic in this type", way_out)
        )
    return COMPLEX_OF[stored.dtype]


def empty_parameter(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None
) -> nn.Parameter:
    """An uninitialised parameter for numbers of ``dtype`` (real pairs if complex)."""
    if dtype.is_complex:
        return nn.Parameter(torch.empty(*shape, 2, dtype=dtype.to_real(), device=device))
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device))


def fill_normal(
    stored: Tensor, std: float, is_complex: bool, generator: torch.Generator | None, mean: float = 0.0
) -> None:
    """Fill with independent normal numbers: E|w - mean|^2 = std^2, complex parts N(0, std^2 / 2) each."""
    with torch.no_grad():
        stored.normal_(0.0, std / 2**0.5 if is_complex else std, generator=generator)
        (stored[..., 0] if is_complex else stored).add_(mean)


def in_order(fn: Callable[[Tensor], Tensor], stored: Tensor) -> Tensor:
    """What a conversion makes of stored numbers, without a layout that is meant for images.

    ``model.to(memory_format=torch.channels_last)`` takes every weight of four axes for the filters of a convolution,
    which would send factors past the kernels, and fails on the five axes of complex ones.
    """
    try:
        changed = fn(stored)
    except RuntimeError:
        if stored.ndim != 5:
            raise
        changed = fn(stored.flatten(0, 1)).contiguous().view(stored.shape)
    return changed.contiguous() if changed.ndim in (4, 5) and stored.is_contiguous() else changed
