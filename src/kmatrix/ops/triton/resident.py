"""Chains of two factors whose blocks stay on the chip while all vectors pass: when that is done, and the launch.

There is nothing between the factors that other programs see, so there are no rings, counters or waits.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.chip import chip
from kmatrix.ops.triton.packing import Packed
from kmatrix.ops.triton.plan import Plan, Step
from kmatrix.ops.triton.residence import DTYPES, MANY, Residence, residence

Constants = tuple[int, ...]


@lru_cache(maxsize=1024)
def how(steps: tuple[Step, ...], dtype: torch.dtype, shared: int) -> Residence | None:
    """How these steps stay in so many bytes of shared memory, if they do."""
    return residence([step.factor for step in steps], dtype, shared)


def applies(x: Tensor, plan: Plan, n_out: int) -> bool:
    """Whether these rows, neither padded nor gathered, go through the kernel on their way to so many entries."""
    if not plan.held or len(x) < MANY or x.dtype not in DTYPES:
        return False
    first, last = plan.steps[0].factor.pattern, plan.steps[-1].factor.pattern
    if x.shape[1] != first.cols or n_out != last.rows:
        return False
    return how(plan.steps, x.dtype, chip(x.device).shared) is not None


def constants(step: Step, place: int) -> Constants:
    """What the kernel calls ``F``: ``a, b, c, d``, how many groups and diagonals are held, and the place."""
    pattern, tied_a, tied_d = step.factor
    return *pattern, 1 if tied_a else pattern.a, 1 if tied_d else pattern.d, place


def multiply(x: Tensor, plan: Plan, packed: Packed, *, bias: Tensor | None, activation: str) -> Tensor:
    """Rows times a packed chain to which the kernel ``applies``."""
    from kmatrix.ops.triton.kernels import resident as kernels

    here = chip(x.device)
    told = how(plan.steps, x.dtype, here.shared)
    assert told is not None
    first, second = [constants(step, place) for step, place in zip(plan.steps, packed.places, strict=True)]
    y = x.new_empty(len(x), plan.steps[1].factor.pattern.rows)
    programs = min(-(-len(x) // told.vectors), here.processors * told.programs)
    kernels.resident_kernel[(programs,)](
        x, x.stride(0), y, y.stride(0), packed.buffer, bias, len(x), FIRST=first, SECOND=second, BT=told.vectors,
        BIASED=bias is not None, ACTIVATION=activation, PRECISION=precision(),
        num_warps=told.warps, num_stages=told.stages,
    )  # fmt: skip
    return y
