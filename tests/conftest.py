"""What every test starts from: one thread per process, fixed seeds, the same hypothesis examples."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads; test processes already fill the cores

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "kmatrix",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
)
hypothesis.settings.load_profile("kmatrix")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Make every test independent of which tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries under test may draw from the legacy generator)
