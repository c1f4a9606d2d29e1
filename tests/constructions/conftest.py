"""Shared by the tests of the constructions: random members and a look at the numbers of a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import pytest
import torch

from kmatrix import Kaleidoscope, StructuredMatrix

Draw = Callable[..., StructuredMatrix]


@pytest.fixture
def draw() -> Draw:
    """Draw a random K-matrix of a shape, width and expansion in double precision."""
    generator = torch.Generator().manual_seed(7)

    def drawn(
        m: int, n: int, width: int = 1, expansion: int = 1, dtype: torch.dtype = torch.float64
    ) -> StructuredMatrix:
        structure = Kaleidoscope(width=width, expansion=expansion)
        return structure.random(m, n, dtype=dtype, generator=generator)

    return drawn


@pytest.fixture
def dense() -> Callable[[StructuredMatrix], npt.NDArray[Any]]:
    """The matrix as a numpy array."""
    return lambda matrix: matrix.to_dense().detach().numpy()
