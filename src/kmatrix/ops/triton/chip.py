"""What a GPU has, as far as plans depend on it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

SHARED = 232_448
"""Bytes of shared memory that a program may have on an H100 or H200."""


class Chip(NamedTuple):
    """Processors; bytes of shared memory of one program, and of one processor."""

    processors: int
    shared: int
    memory: int


_INTERPRETER = Chip(2, SHARED, 1 << 18)  # few processors, so that each program has several tiles


@lru_cache(maxsize=16)
def chip(device: torch.device) -> Chip:
    """The device, or what stands for it in the interpreter."""
    if device.type != "cuda":
        return _INTERPRETER
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", found.shared_memory_per_block)
    return Chip(found.multi_processor_count, shared, found.shared_memory_per_multiprocessor)
