"""Small models and batches for tests of compression."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def mlp() -> nn.Sequential:
    """Three layers, the last too small to gain anything."""
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.fixture
def batches() -> list[Tensor]:
    """Inputs with a mean, some of them dead and most of their size in a few directions."""
    mix = torch.randn(24, 24) * torch.logspace(0, -2, 24)
    x = torch.randn(6, 40, 24) @ mix + 1.0
    x[..., 20:] = 0
    return list(x)
