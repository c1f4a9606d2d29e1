"""What one program multiplies at a time: as much as registers and shared memory have room for.

Both are estimated; ``tests/ops/triton/compile_chains.py`` compiles what comes out and looks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from kmatrix.ops.definition import Pattern
from kmatrix.ops.schedule import Factor

SECTOR = 32  # bytes that memory delivers at least
LEAST = 16  # rows and columns of a matrix instruction
PROCESSORS = 132
_STACKED = 1 << 16  # numbers of weights of one program
_SUMS = 1 << 14  # the same where their gradients are summed in registers
_TALL = 512  # vectors that meet the same weights one after the other
_FEW, _MOST = 128, 230  # registers of a thread: with four warps, with eight
_MOST_BACKWARD = 150
# Outputs and inputs of a tile. Without matrix instructions a thread holds all inputs of a row at a time.
_WIDE, _DEEP = 128, 32
_STAGES, _STAGES_OF_PARTS = 3, 2  # of loads under way: of vectors, and where inputs come in parts
# Chunks in the second cache of a chain of two factors, and how many stages work side by side at a time.
_AS_OF_TWO, _AS_OF_TWO_BACKWARD = (2, 2), (4, 3)


class Tile(NamedTuple):
    """What one program multiplies: ``steps`` times so many vectors, diagonals, outputs and inputs of a group."""

    vectors: int
    diagonals: int
    outputs: int
    inputs: int
    steps: int
    warps: int


class Demand(NamedTuple):
    """What tiles are for.

    Attributes:
        batch: about how many vectors.
        dtype: of what.
        ring: bytes of vectors between factors; 0 for all vectors.
        backward: whether gradients are wanted.
        memory: bytes of shared memory that a program may have.
    """

    batch: int
    dtype: torch.dtype
    ring: int
    backward: bool
    memory: int

    @property
    def pairs(self) -> int:
        """Real numbers in an entry."""
        return 2 if self.dtype.is_complex else 1

    @property
    def itemsize(self) -> int:
        """Bytes of a real number."""
        return self.dtype.itemsize // self.pairs


def tile_for(factor: Factor, demand: Demand) -> Tile:
    """As many vectors as there is room for, as many diagonals as fill a sector of memory."""
    (_, b, c, d), _, tied_d = factor
    backward, itemsize, half = demand.backward, demand.itemsize, demand.itemsize == 2
    outputs = power_of_two(b * demand.pairs, _WIDE if half else _DEEP if backward else _WIDE // 2)
    inputs = power_of_two(c * demand.pairs, _WIDE if half else _DEEP)
    joint = d == 1 or tied_d
    if joint:
        diagonals = 1 if d == 1 else power_of_two(d, 16, 1)
        vectors, least = max(power_of_two(demand.batch, 128) // diagonals, 1), max(LEAST // diagonals, 1)
    else:
        room = (_SUMS if backward else _STACKED) * 2 // itemsize
        most = SECTOR // demand.dtype.itemsize
        diagonals = max(min(most, power_of_two(d, 64, 1), room // (outputs * inputs)), 1)
        vectors, least = power_of_two(demand.batch, 32), LEAST
    many, few = (_MOST if half else _MOST // 2), (_FEW if half else _FEW * 3 // 4)
    many = min(many, _MOST_BACKWARD if half else _MOST_BACKWARD // 2) if backward else many
    tile = Tile(vectors, diagonals, outputs, inputs, 1, 8)
    parts = c * demand.pairs > inputs
    while tile.vectors > least and (
        _registers(tile, joint, itemsize, backward) > many * 256
        or _memory(tile, joint, parts, demand) > demand.memory
    ):
        tile = tile._replace(vectors=tile.vectors // 2)
    while tile.diagonals > 1 and not joint and _memory(tile, joint, parts, demand) > demand.memory:
        tile = tile._replace(diagonals=tile.diagonals // 2)
    tile = tile._replace(steps=_steps(tile, factor.pattern, demand))
    return tile._replace(warps=4) if _registers(tile, joint, itemsize, backward) <= few * 128 else tile


def _steps(tile: Tile, pattern: Pattern, demand: Demand) -> int:
    """How often a program multiplies by the same weights: often, but a chunk has work for all processors."""
    a, b, _, d = pattern
    shelves, stages = _AS_OF_TWO_BACKWARD if demand.backward else _AS_OF_TWO
    chunk = demand.ring // (shelves * pattern.rows * demand.dtype.itemsize) if demand.ring else demand.batch
    across = a * -(-d // tile.diagonals) * -(-b * demand.pairs // tile.outputs)
    rows = min(min(demand.batch, chunk) * across * stages // PROCESSORS, _TALL)
    return 1 << max((rows // tile.vectors).bit_length() - 1, 0)


def spread(tile: Tile, pattern: Pattern, batch: int, pairs: int) -> Tile:
    """Smaller tiles where there are so few vectors that larger ones would leave processors idle."""
    a, b, _, d = pattern

    def programs() -> int:
        across = -(-batch // (tile.vectors * tile.steps)) * -(-b * pairs // tile.outputs)
        return a * across * -(-d // tile.diagonals)

    while programs() < PROCESSORS // 2 and tile.outputs > LEAST:
        tile = tile._replace(outputs=tile.outputs // 2, warps=4)
    while programs() < PROCESSORS // 2 and tile.diagonals > 1:
        tile = tile._replace(diagonals=tile.diagonals // 2, warps=4)
    return tile


def lowered(tile: Tile, factor: Factor, rows: int) -> Tile:
    """A tile of at most so many vectors, repeats included, if there is one that fills the matrix instructions."""
    joint = factor.pattern.d == 1 or factor.tied_d
    least = max(LEAST // tile.diagonals, 1) if joint else LEAST
    while tile.vectors * tile.steps > rows and tile.steps > 1:
        tile = tile._replace(steps=tile.steps // 2)
    while tile.vectors > max(rows, least):
        tile = tile._replace(vectors=tile.vectors // 2)
    return tile


def _registers(tile: Tile, joint: bool, itemsize: int, backward: bool) -> float:
    """About how many registers of a program hold sums and what is multiplied."""
    groups = 1 if joint else tile.diagonals
    rows = tile.vectors * tile.diagonals
    inputs, outputs, weights = rows * tile.inputs, rows * tile.outputs, groups * tile.inputs * tile.outputs
    # A register holds two halves; without matrix instructions, several threads hold the same operand.
    copies = 0.5 if itemsize == 2 else 2.0
    if backward:
        return inputs + weights + copies * (weights + inputs + outputs)
    return outputs + copies * (weights + inputs)


def _memory(tile: Tile, joint: bool, parts: bool, demand: Demand) -> int:
    """Bytes of shared memory of a program at most: loads under way, and weights that stay."""
    groups = 1 if joint else tile.diagonals
    rows, weights = tile.vectors * tile.diagonals, groups * tile.inputs * tile.outputs
    if demand.backward:
        numbers = _STAGES * rows * (tile.inputs + tile.outputs) + weights
    elif parts:
        numbers = _STAGES_OF_PARTS * (rows * tile.inputs + weights)
    else:
        numbers = _STAGES * rows * tile.inputs + weights
    return numbers * demand.itemsize


def power_of_two(size: int, most: int, least: int = LEAST) -> int:
    """The power of two from ``size`` on, within bounds."""
    return min(max(1 << (size - 1).bit_length(), least), most)
