"""What all tests of the GPU kernels share.

Scripts that tests run in processes of their own, without the interpreter, are no modules to be collected here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

collect_ignore = ["ahead_of_time.py", "compile_chains.py", "compile_segments.py"]


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh memory holds NaN, so that what no kernel writes is seen."""

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() or tensor.is_complex() else tensor

    new, empty = torch.Tensor.new_empty, torch.empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: poison(new(self, *a, **k)))
    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    yield
