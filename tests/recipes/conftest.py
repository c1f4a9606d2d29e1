"""Models that tests of more than one file begin with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kmatrix.cli.recipe import recipes


@pytest.fixture
def made() -> Callable[..., Any]:
    """Makes a small model of the recipe of translation whose biases and norms are no longer zeros and ones."""
    package = recipes().__name__
    model, families = (
        importlib.import_module(f"{package}.translation.{name}") for name in ("model", "families")
    )
    small = model.Size(32, 64, 4, (3, 5), (3, 7), 50, 40)

    def make(family: str = "dense", everywhere: bool = False, size: Any = small) -> Any:
        net = model.Translator(size)
        families.replace(net, family, everywhere)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return net.eval()

    return make
