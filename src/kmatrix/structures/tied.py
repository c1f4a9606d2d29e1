"""Matrices given by one tensor of free numbers that are not factors of a chain: what their families share."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.base import (
    Structure,
    StructuredMatrix,
    empty_parameter,
    from_pairs,
    stored_dtype,
    to_pairs,
)

M = TypeVar("M", bound="NumbersMatrix")


class NumbersMatrix(StructuredMatrix):
    """A matrix whose entries all come from one tensor of numbers.

    Attributes:
        stored: the numbers as they are kept, real pairs if complex.
    """

    stored: nn.Parameter

    def __init__(
        self,
        structure: Structure,
        shape: tuple[int, int],
        size: tuple[int, ...],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape)
        self._is_complex = dtype.is_complex
        self.stored = empty_parameter(size, dtype, device)

    @classmethod
    def from_numbers(cls: type[M], structure: Structure, shape: tuple[int, int], numbers: Tensor) -> M:
        """Make a member from given numbers.

        Args:
            structure: the family.
            shape: ``(m, n)``.
            numbers: what the attribute ``numbers`` of a member holds, of the same shape.

        Raises:
            ArgumentError: if the numbers have another shape than a member holds.
        """
        matrix = structure.empty(*shape, dtype=numbers.dtype, device=numbers.device)
        name = type(structure).__name__
        if not isinstance(matrix, cls):
            reason = f"its members are {type(matrix).__name__}, not {cls.__name__}"
            way_out = f"call {type(matrix).__name__}.from_numbers"
            raise ArgumentError(complaint("from_numbers", "structure", name, reason, way_out))
        expected, got = tuple(matrix.numbers.shape), tuple(numbers.shape)
        if got != expected:
            reason = f"a {shape[0]} x {shape[1]} {name} holds {expected}"
            way_out = "pass numbers of that shape"
            raise ArgumentError(complaint("from_numbers", "numbers.shape", got, reason, way_out))
        with torch.no_grad():
            matrix.stored.copy_(to_pairs(numbers))
        return matrix

    @property
    def numbers(self) -> Tensor:
        """The numbers of the matrix, complex if it is."""
        return from_pairs(self.stored, self._is_complex)

    @property
    def dtype(self) -> torch.dtype:
        return stored_dtype(type(self.structure).__name__, self.stored, self._is_complex)

    @property
    def device(self) -> torch.device:
        return self.stored.device


def output_scale(m: int, n: int) -> float:
    """Standard deviation of entries that gives an ``m x n`` matrix a spectral norm of about ``sqrt(m / n)``."""
    return min(1.0, math.sqrt(m / n)) / math.sqrt(n)
