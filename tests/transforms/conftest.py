"""What the tests of the transforms share: how far a matrix is from the truth, in units of rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from kmatrix import StructuredMatrix

Array = npt.NDArray[Any]
Units = Callable[[StructuredMatrix, Array], float]


@pytest.fixture
def units() -> Units:
    """``|A - truth| / (|truth| eps log2 n)``, Frobenius norms, with eps of the precision of A."""

    def measure(matrix: StructuredMatrix, truth: Array) -> float:
        got = matrix.to_dense().detach().resolve_conj().numpy().astype(complex)
        assert got.shape == truth.shape == matrix.shape
        eps = torch.finfo(matrix.dtype).eps
        error = np.linalg.norm(got - truth) / np.linalg.norm(truth)
        return float(error / (eps * max(1.0, np.log2(max(truth.shape)))))

    return measure
