"""Chains of two factors whose blocks stay on the chip while all vectors pass: when that is possible, and the launch.

What a program needs of shared memory and registers was found by compiling, and ``tests/ops/triton/compile_chains.py``
checks it. There is nothing between the factors that other programs see, so there are no rings, counters or waits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.packing import Packed
from kmatrix.ops.triton.plan import LEAST, Plan, Step

MANY = 4096
"""Vectors from which on it pays that every program loads all blocks."""

DTYPES = (torch.bfloat16, torch.float32)
_FACTORS = 2
_WIDEST = {2: 128, 4: 32}  # blocks of float32, which have no matrix instructions, are held more than once
_LONGEST = {2: 1024, 4: 512}  # numbers of a vector, of which 16 have room in registers
_EACH = 4096  # numbers of a tile at least
_PER_THREAD = {2: 32, 4: 16}  # numbers of a tile
_WARPS = 16  # of all programs of a processor, with 128 registers for each thread
_STAGES = 3  # tiles in shared memory at a time: two are on their way while one is multiplied

Constants = tuple[int, ...]


class Chip(NamedTuple):
    """What a GPU has: processors, and bytes of shared memory of one program."""

    processors: int
    shared: int


class Residence(NamedTuple):
    """How the kernel runs: vectors of a tile, warps, stages, and programs of one processor."""

    vectors: int
    warps: int
    stages: int
    programs: int


_INTERPRETER = Chip(2, 232_448)  # few processors, so that each program has several tiles


@lru_cache(maxsize=16)
def chip(device: torch.device) -> Chip:
    """The device, or what stands for it in the interpreter."""
    if device.type != "cuda":
        return _INTERPRETER
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", 0)
    return Chip(found.multi_processor_count, shared)


@lru_cache(maxsize=1024)
def residence(steps: tuple[Step, ...], dtype: torch.dtype, shared: int) -> Residence | None:
    """How two factors stay in so many bytes of shared memory, if they do."""
    if len(steps) != _FACTORS or dtype not in DTYPES:
        return None
    itemsize = dtype.itemsize
    patterns = [step.factor.pattern for step in steps]
    if any(size & (size - 1) for pattern in patterns for size in pattern):
        return None
    sides = [side for pattern in patterns for side in (pattern.b, pattern.c)]
    if min(sides) < LEAST or max(sides) > _WIDEST[itemsize]:
        return None
    longest = max(patterns[0].cols, patterns[0].rows, patterns[1].rows)
    if longest > _LONGEST[itemsize]:
        return None
    vectors = max(_EACH // longest, LEAST)
    numbers = longest * vectors
    warps = min(max(numbers // (32 * _PER_THREAD[itemsize]), 4), _WARPS)
    blocks = sum(step.factor.numel for step in steps) * itemsize
    spare = int(
        any(step.factor.tied_a and step.factor.tied_d for step in steps)
    )  # one product for all vectors
    for stages in (_STAGES, _STAGES - 1):
        needed = blocks + (stages + spare) * numbers * itemsize
        if needed <= shared:
            return Residence(vectors, warps, stages, max(min(_WARPS // warps, shared // needed), 1))
    return None


def applies(x: Tensor, plan: Plan, n_out: int) -> bool:
    """Whether these rows, neither padded nor gathered, go through the kernel on their way to so many entries."""
    if len(x) < MANY or x.dtype not in DTYPES or len(plan.steps) != _FACTORS:
        return False
    first, second = [step.factor.pattern for step in plan.steps]
    if x.shape[1] != first.cols or n_out != second.rows:
        return False
    return residence(plan.steps, x.dtype, chip(x.device).shared) is not None


def constants(step: Step, place: int) -> Constants:
    """What the kernel calls ``F``: ``a, b, c, d``, how many groups and diagonals are held, and the place."""
    pattern, tied_a, tied_d = step.factor
    return *pattern, 1 if tied_a else pattern.a, 1 if tied_d else pattern.d, place


def multiply(x: Tensor, plan: Plan, packed: Packed, *, bias: Tensor | None, activation: str) -> Tensor:
    """Rows times a packed chain to which the kernel ``applies``."""
    from kmatrix.ops.triton.kernels import resident as kernels

    here = chip(x.device)
    how = residence(plan.steps, x.dtype, here.shared)
    assert how is not None
    first, second = [constants(step, place) for step, place in zip(plan.steps, packed.places, strict=True)]
    y = x.new_empty(len(x), plan.steps[1].factor.pattern.rows)
    programs = min(-(-len(x) // how.vectors), here.processors * how.programs)
    kernels.resident_kernel[(programs,)](
        x, x.stride(0), y, y.stride(0), packed.buffer, bias, len(x), FIRST=first, SECOND=second, BT=how.vectors,
        BIASED=bias is not None, ACTIVATION=activation, PRECISION=precision(),
        num_warps=how.warps, num_stages=how.stages,
    )  # fmt: skip
    return y
