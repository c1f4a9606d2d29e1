"""What commands are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def low_rank(tmp_path: Path) -> Path:
    """A file with a 30 x 20 matrix of rank 2."""
    rng = np.random.default_rng(0)
    path = tmp_path / "W.npy"
    np.save(path, rng.standard_normal((30, 2)) @ rng.standard_normal((2, 20)))
    return path
