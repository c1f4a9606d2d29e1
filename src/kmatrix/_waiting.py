"""Waiting for a GPU before a clock is read: its calls return long before they are done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

CPU = torch.device("cpu")


def waiting_for(device: torch.device) -> Callable[[], None]:
    """A function that returns when all work on a device is done; on a CPU it is done already."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else _nothing


def _nothing() -> None:
    """Nothing is under way."""
