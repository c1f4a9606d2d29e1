"""Measuring plans for the GPU, and what was learned: kept in the same file as what the CPU has taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.triton.available import triton_is_here
from kmatrix.ops.triton.chip import chip
from kmatrix.ops.triton.plan import Choice, by_rule, plan
from kmatrix.ops.wisdom import entry

_WIDTHS = (16, 32, 64, 128)
_RINGS = (8 * 2**20, 16 * 2**20, 32 * 2**20, 0)


def question(patterns: Patterns, dtype: torch.dtype, batch: int, device: torch.device) -> str:
    """What a measurement answers, in words: the key of the file."""
    chain = " ".join(".".join(map(str, p)) for p in patterns)
    name = str(dtype).removeprefix("torch.")
    return f"{_device_name(device)} | {triton_is_here().reason} | {name} | batch {batch} | {chain}"


def _device_name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "Triton's interpreter"


@lru_cache(maxsize=1024)
def learned(patterns: Patterns, dtype: torch.dtype, batch: int, device: torch.device) -> Choice | None:
    """What was measured to be best, if anything was and it makes sense."""
    match entry(question(patterns, dtype, batch, device)):
        case {"kernel": "triton", "widest": int(widest), "ring": int(ring)}:
            if widest in _WIDTHS and ring in _RINGS:
                return Choice(widest, ring)
    return None


def candidates(
    patterns: Patterns,
    shapes: Sequence[tuple[int, ...]],
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Choice]:
    """The rule first, then every choice whose plan differs from those before."""
    found: dict[object, Choice] = {}
    memory = chip(device).shared
    for choice in [by_rule(dtype), *[Choice(width, ring) for width in _WIDTHS for ring in _RINGS]]:
        found.setdefault(plan(patterns, tuple(shapes), batch, dtype, choice=choice, memory=memory), choice)
    return list(found.values())


def trial(x: Tensor, weights: Sequence[Tensor], patterns: Patterns, choice: Choice) -> Callable[[], object]:
    """A function that multiplies by one plan."""
    from kmatrix.ops.triton.backend import batch_class
    from kmatrix.ops.triton.launch import forward

    shapes = tuple([tuple(w.shape) for w in weights])
    found = plan(patterns, shapes, batch_class(len(x)), x.dtype, choice=choice, memory=chip(x.device).shared)
    return lambda: forward(x, weights, patterns, found)
