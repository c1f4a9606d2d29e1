"""How the native kernels run a chain: which factors share a pass, how many rows a tile holds, which kernel.

A pass reads and writes the tile once, so the rule takes the fewest passes, and of those the one with the widest
first, which reads whole vectors of the rows, and the others as even as can be: 4+3+3 is a few per cent faster than
4+4+2, and a quarter faster than 3+3+4. A tile stays in the cache of one core together with its
copy. A few rows do not pay for packing: they take the kernel that reads the weights where they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch

from kmatrix.ops.definition import Patterns, flatten_patterns
from kmatrix.ops.native_layout import HALF
from kmatrix.ops.native_module import DTYPE_CODES, native_part

Kernel = Literal["rows", "tiles"]

TILE_BYTES = 2**18  # of a tile and its copy: what a core keeps close
MOST_VECTORS = 2  # of rows in a tile; more gains nothing
LONG = 512  # from this length on, chains of 2x2 blocks run as fast without packing ...
IN_CACHE = 2**18  # ... as long as all vectors together are no more numbers than this
UNCACHED_BATCH = 1024  # from here on packing the weights is about a hundredth of the work


class Schedule(NamedTuple):
    """One way to run a chain natively: the kernel, how many factors each pass takes, and the height of a tile."""

    kernel: Kernel
    passes: tuple[int, ...]
    tile_vectors: int


def batch_class(batch: int) -> int:
    """Batches of one class share a schedule: the next power of two, up to 4096."""
    return min(1 << (batch - 1).bit_length(), 4096)


@lru_cache(maxsize=1024)
def default_schedule(patterns: Patterns, dtype: torch.dtype, batch: int, selects: bool = False) -> Schedule:
    """The rule; ``batch`` is a batch class, and ``selects`` says whether index arrays are folded in."""
    kernel: Kernel = "rows" if _suits_rows(patterns, dtype, batch, selects) else "tiles"
    return Schedule(kernel, best_passes(patterns, dtype), _tile_vectors(patterns, dtype, batch))


@lru_cache(maxsize=1024)
def best_passes(patterns: Patterns, dtype: torch.dtype) -> tuple[int, ...]:
    """The fewest passes the kernels can make of these factors, the widest first and the others even.

    The shortest path over "factors done", an edge being a run that fuses; of equally short ones the one whose
    first pass is widest, then the one with the smallest sum of squares, then the one in descending order.
    """
    module, isa, _ = native_part()
    if module is None:
        return (1,) * len(patterns)
    code, flat, k = DTYPE_CODES[dtype], flatten_patterns(patterns), len(patterns)
    # For every number of factors done: how many passes, minus the first one's width, squares, minus all widths.
    best: list[tuple[int, int, int, tuple[int, ...]]] = [(0, 0, 0, ()), *[(k + 1, 0, 0, ())] * k]
    for start in range(k):
        passes, first, squares, path = best[start]
        for count in range(1, k - start + 1):
            if count > 1 and not module.Chain.can_fuse(code, flat, start, count, isa):
                break
            longer = (passes + 1, first if path else -count, squares + count * count, (*path, -count))
            best[start + count] = min(best[start + count], longer)
    return tuple([-width for width in best[-1][-1]])


def _suits_rows(patterns: Patterns, dtype: torch.dtype, batch: int, selects: bool) -> bool:
    """Whether the weights are best read where they are.

    A tile is never less than a register of rows, so half of that many are faster one by one. Long chains of
    2x2 blocks in float32 gain nothing from packing until the vectors leave the cache, but tiles select faster.
    """
    if 2 * batch <= _lanes(dtype) or selects:
        return 2 * batch <= _lanes(dtype)
    length = max(patterns[0].cols, patterns[-1].rows)
    small = all(p.b == p.c == 2 for p in patterns)
    return small and dtype == torch.float32 and length >= LONG and length * batch <= IN_CACHE


def tile_heights(dtype: torch.dtype, batch: int) -> list[int]:
    """Heights worth trying: powers of two up to what the batch fills, in vectors of rows."""
    lanes = _lanes(dtype)
    heights = [1]
    while heights[-1] < 16 and heights[-1] * lanes < batch:
        heights.append(2 * heights[-1])
    return heights


def _tile_vectors(patterns: Patterns, dtype: torch.dtype, batch: int) -> int:
    lanes = _lanes(dtype)
    widest = max(max(p.rows, p.cols) for p in patterns)
    numbers = 2 if dtype.is_complex else 1
    each = (
        2 * widest * numbers * lanes * _real(dtype).itemsize
    )  # a tile and its copy, one vector of rows high
    height = 1
    while 2 * height <= MOST_VECTORS and 2 * height * each <= TILE_BYTES and height * lanes < batch:
        height *= 2
    return height


def _real(dtype: torch.dtype) -> torch.dtype:
    """The type of the arithmetic, or of the parts of a complex number."""
    return torch.float32 if dtype in HALF else dtype.to_real() if dtype.is_complex else dtype


def _lanes(dtype: torch.dtype) -> int:
    """How many rows one register holds."""
    module, isa, _ = native_part()
    return (module.limits(isa)[0] if module else 32) // _real(dtype).itemsize
