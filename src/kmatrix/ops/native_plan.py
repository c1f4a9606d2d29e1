"""How the native kernels run a chain: which factors share a pass, how many rows a tile holds, which kernel.

A pass reads and writes the tile once, so the rule takes the fewest passes, and of those the one with the widest
first, which reads whole vectors of the rows, and the others as even as can be: 4+3+3 is a few per cent faster than
4+4+2, and a quarter faster than 3+3+4. A tile stays in the cache of one core together with its
copy. A few rows do not pay for packing: they take the kernel that reads the weights where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch

from kmatrix.ops.definition import Patterns, flatten_patterns
from kmatrix.ops.native_layout import HALF
from kmatrix.ops.native_module import DTYPE_CODES, native_part

Kernel = Literal["rows", "tiles"]

TILE_BYTES = 2**18  # of a tile and its copy: what a core keeps close
MOST_VECTORS = 2  # of rows in a tile; more gains nothing
FIRST_CACHE = 2**14  # of a tile that goes through 2x2 blocks: two vectors gain only where they are close
# Chains of 2x2 blocks of these lengths run as fast without packing on the widest vectors: below, tiles stay in the
# first cache; beyond, the weights do not stay in the second ...
UNPACKED = range(512, 1025)
WIDEST = 16  # numbers in a register
PAIRS_FROM = 64  # bytes of a register: there the backward pass takes stages of 2x2 blocks in pairs
IN_CACHE = 2**19  # ... as long as all vectors together are no more numbers than this


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

    Of equally few passes those whose first is widest, then those with the smallest sum of squares, then those in
    descending order.
    """
    k, fuses = len(patterns), _fusible(patterns, dtype)
    return _shortest(k, fuses, lambda first, count: (1, 0 if first else -count, count * count))


@lru_cache(maxsize=1024)
def backward_passes(patterns: Patterns, dtype: torch.dtype) -> tuple[int, ...]:
    """The passes that are cheapest to go back through: few, of an even number of stages, the widest last.

    The largest register files take stages back in pairs, and what enters the last pass is found without
    multiplying by it. Where stages go back one by one, the passes of the product are as good.
    """
    if dtype.is_complex or _lanes(dtype) * _real(dtype).itemsize < PAIRS_FROM:
        return best_passes(patterns, dtype)
    k, fuses = len(patterns), _fusible(patterns, dtype)
    found = _shortest(k, lambda end, count: fuses(k - end - count, count), lambda _, count: (1, count % 2))
    return found[::-1]


def _fusible(patterns: Patterns, dtype: torch.dtype) -> Callable[[int, int], bool]:
    """Whether ``count`` factors from ``first`` on can share a pass."""
    module, isa, _ = native_part()
    if module is None:
        return lambda first, count: count == 1
    code, flat, chain = DTYPE_CODES[dtype], flatten_patterns(patterns), module.Chain
    return lambda first, count: count == 1 or chain.can_fuse(code, flat, first, count, isa)


def _shortest(
    k: int, fuses: Callable[[int, int], bool], cost: Callable[[int, int], tuple[int, ...]]
) -> tuple[int, ...]:
    """The cheapest path over "factors done", an edge being a run that fuses; of equal ones wide runs come first.

    Costs are added entry by entry and compared from the first entry on.
    """
    best: list[tuple[tuple[int, ...], tuple[int, ...]] | None] = [None] * (k + 1)
    best[0] = ((), ())
    for start in range(k):
        here = best[start]
        assert here is not None  # one factor is always a pass
        for count in range(1, k - start + 1):
            if not fuses(start, count):
                break
            price = cost(start, count)
            total = tuple(a + b for a, b in zip(here[0], price, strict=True)) if here[0] else price
            there, longer = best[start + count], (total, (*here[1], -count))
            best[start + count] = longer if there is None else min(there, longer)
    end = best[k]
    assert end is not None
    return tuple(-width for width in end[1])


def _suits_rows(patterns: Patterns, dtype: torch.dtype, batch: int, selects: bool) -> bool:
    """Whether the weights are best read where they are.

    A tile is never less than a register of rows, so half of that many are faster one by one. Tiles select faster.
    """
    lanes = _lanes(dtype)
    if 2 * batch <= lanes or selects or lanes < WIDEST:
        return 2 * batch <= lanes
    length = max(patterns[0].cols, patterns[-1].rows)
    small = all(p.b == p.c == 2 for p in patterns)
    return small and dtype == torch.float32 and length in UNPACKED and length * batch <= IN_CACHE


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
    each = widest * numbers * lanes * _real(dtype).itemsize  # of a tile, one vector of rows high
    close = FIRST_CACHE if all(p.b == p.c == 2 for p in patterns) else TILE_BYTES // 2  # with its copy
    height = 1
    while 2 * height <= MOST_VECTORS and 2 * height * each <= close and height * lanes < batch:
        height *= 2
    return height


def _real(dtype: torch.dtype) -> torch.dtype:
    """The type of the arithmetic, or of the parts of a complex number."""
    return torch.float32 if dtype in HALF else dtype.to_real() if dtype.is_complex else dtype


def _lanes(dtype: torch.dtype) -> int:
    """How many rows one register holds."""
    module, isa, _ = native_part()
    return (module.limits(isa)[0] if module else 32) // _real(dtype).itemsize
