"""Which two factors stay on the chip together, whole, while all vectors pass.

What a program needs of shared memory and registers was found by compiling, and ``tests/ops/triton/compile_chains.py``
checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kmatrix.ops.schedule import Factor
from kmatrix.ops.triton.chip import SHARED

MANY = 4096
"""Vectors from which on it pays that every program loads all blocks."""

DTYPES = (torch.bfloat16, torch.float32)
_FACTORS = 2
_NARROWEST = 16  # what a matrix instruction takes at least
_WIDEST = {2: 128, 4: 32}  # blocks of float32, which have no matrix instructions, are held more than once
_LONGEST = {2: 1024, 4: 512}  # numbers of a vector, of which 16 have room in registers
_WIDE = 1 << 16  # numbers of a vector times the wider side of a block: beyond, registers are spilled
_VECTORS, _EACH = 16, 4096  # vectors and numbers of a tile at least
_PER_THREAD = {2: 32, 4: 16}  # numbers of a tile
_WARPS = 16  # of all programs of a processor, with 128 registers for each thread
_STAGES = 3  # tiles in shared memory at a time: two are on their way while one is multiplied


class Residence(NamedTuple):
    """How the kernel runs: vectors of a tile, warps, stages, and programs of one processor."""

    vectors: int
    warps: int
    stages: int
    programs: int


def residence(factors: Sequence[Factor], dtype: torch.dtype, shared: int = SHARED) -> Residence | None:
    """How these factors stay in so many bytes of shared memory, if they do.

    Example:
        >>> from kmatrix.ops import Pattern
        >>> monarch = Factor(Pattern(32, 32, 32, 1), False, True), Factor(Pattern(1, 32, 32, 32), True, False)
        >>> residence(monarch, torch.bfloat16)
        Residence(vectors=16, warps=16, stages=3, programs=1)
    """
    if len(factors) != _FACTORS or dtype not in DTYPES:
        return None
    itemsize = dtype.itemsize
    patterns = [factor.pattern for factor in factors]
    if any(size & (size - 1) for pattern in patterns for size in pattern):
        return None
    sides = [side for pattern in patterns for side in (pattern.b, pattern.c)]
    if min(sides) < _NARROWEST or max(sides) > _WIDEST[itemsize]:
        return None
    longest = max(patterns[0].cols, patterns[0].rows, patterns[1].rows)
    if longest > _LONGEST[itemsize] or longest * max(sides) > _WIDE:
        return None
    vectors = max(_EACH // longest, _VECTORS)
    numbers = longest * vectors
    warps = min(max(numbers // (32 * _PER_THREAD[itemsize]), 4), _WARPS)
    blocks = sum(factor.numel for factor in factors) * itemsize
    spare = int(any(factor.tied_a and factor.tied_d for factor in factors))  # one product for all vectors
    for stages in (_STAGES, _STAGES - 1):
        needed = blocks + (stages + spare) * numbers * itemsize
        if needed <= shared:
            return Residence(vectors, warps, stages, max(min(_WARPS // warps, shared // needed), 1))
    return None
