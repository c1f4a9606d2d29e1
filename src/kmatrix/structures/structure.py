"""What a structure is: a class of matrices and its hyper-parameters, without numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from kmatrix._checks import check_dtype, check_size, freeze_fields

if TYPE_CHECKING:
    from kmatrix.structures.base import StructuredMatrix


class Structure(ABC):
    """A class of matrices and its hyper-parameters; subclasses are frozen dataclasses and hold no numbers."""

    def __post_init__(self) -> None:
        """Turn fields given as lists into tuples; a subclass with checks of its own calls this before them."""
        freeze_fields(self)

    @abstractmethod
    def check(self, m: int, n: int) -> None:
        """Raise ``ArgumentError`` if no ``m x n`` matrix has this structure."""

    @abstractmethod
    def num_params(self, m: int, n: int) -> int:
        """How many numbers an ``m x n`` member holds; a complex number counts as one."""

    @abstractmethod
    def flops(self, m: int, n: int) -> int:
        """Operations to multiply one vector; a multiply and an add are two, in the matrix's own field."""

    @abstractmethod
    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StructuredMatrix:
        """Make a member whose numbers are not set yet (what ``km.load`` fills, also on the meta device)."""

    def random(
        self,
        m: int,
        n: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> StructuredMatrix:
        """Draw a random ``m x n`` member at the initialisation recommended for training it.

        Args:
            m: rows (outputs).
            n: columns (inputs).
            dtype: number type; the default dtype of torch if not given.
            device: where the numbers live.
            generator: source of randomness, for a reproducible draw.

        Raises:
            ArgumentError: if no ``m x n`` matrix has this structure.
        """
        matrix = self.empty(m, n, dtype=dtype, device=device)
        matrix.reset_parameters(generator)
        return matrix

    def _admit(self, m: int, n: int, dtype: torch.dtype | None) -> torch.dtype:
        """Check a request for an ``m x n`` member and settle its dtype."""
        name = type(self).__name__
        self.check(check_size(name, "m", m), check_size(name, "n", n))
        return check_dtype(name, dtype or torch.get_default_dtype())
