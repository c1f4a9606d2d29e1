"""Two untied factors as tiles: which rows, columns and values between them belong together.

Blocks of the second factor own rows, blocks of the first own columns; the values that run between a pair of blocks
are the rank of their tile. Tiles share no numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kmatrix._permutations import Index, inverse
from kmatrix.structures import ChainMatrix
from kmatrix.structures.chain import Factor


@dataclass(frozen=True)
class Tiling:
    """How two factors cut a matrix, padded to the size of their chain, into tiles of a rank.

    Attributes:
        first, second: the factors in order of application.
        rows: rows of the padded matrix, ``(blocks of rows, rows of each)``.
        columns: likewise, ``(blocks of columns, columns of each)``.
        middle: the order in which the second factor reads what the first one gives.
        groups: of every rank, the tiles ``(count,)`` that have it and the values between, ``(count, rank)``.
    """

    first: Factor
    second: Factor
    rows: Index
    columns: Index
    middle: Index
    groups: tuple[tuple[int, Tensor, Tensor], ...]

    @classmethod
    def of(cls, empty: ChainMatrix) -> Tiling:
        """Of a chain of two factors; its weights do not matter."""
        first, second = empty.layout.factors
        columns, middle, outer = orders_of(empty)
        # Blocks are (a, d) pairs.
        row_blocks = np.arange(second.rows).reshape(second.a, second.b, second.d).swapaxes(1, 2)
        column_blocks = np.arange(first.cols).reshape(first.a, first.c, first.d).swapaxes(1, 2)
        # Where the first factor puts a value names it.
        source = _blocks_of_positions(first.a, first.b, first.d)
        sink = np.empty_like(source)
        sink[middle] = _blocks_of_positions(second.a, second.c, second.d)
        tile_of_value = sink * (first.a * first.d) + source
        values = np.argsort(tile_of_value, kind="stable")
        used, starts, counts = np.unique(tile_of_value[values], return_index=True, return_counts=True)
        groups = []
        for rank in np.unique(counts):
            these = counts == rank
            places = values[starts[these][:, None] + np.arange(rank)]
            groups.append((int(rank), torch.from_numpy(used[these]), torch.from_numpy(places)))
        return cls(
            first,
            second,
            inverse(outer)[row_blocks.reshape(-1, second.b)],
            columns[column_blocks.reshape(-1, first.c)],
            middle,
            tuple(groups),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks of rows and blocks of columns."""
        return len(self.rows), len(self.columns)

    def weights(self, left: Tensor, right: Tensor) -> list[Tensor]:
        """The weights of the factors from the two vectors of every value between them.

        Args:
            left: ``(values, rows of a block)``, what a value adds to its block of rows.
            right: ``(values, columns of a block)``, how it is read from its block of columns.
        """
        first, second = self.first, self.second
        first_weight = right.reshape(first.a, first.b, first.d, first.c).permute(0, 1, 3, 2)
        at_second = left[torch.from_numpy(self.middle)]
        second_weight = at_second.reshape(second.a, second.c, second.d, second.b).permute(0, 3, 1, 2)
        return [first_weight.contiguous(), second_weight.contiguous()]


def orders_of(matrix: ChainMatrix) -> list[Index]:
    """The order in which values reach the first factor, every next one, and the output."""
    orders = [np.arange(matrix.layout.cols, dtype=np.int64)]
    permutation = 0
    for stage in matrix.layout.stages:
        if isinstance(stage, Factor):
            orders.append(np.arange(stage.rows, dtype=np.int64))
        else:
            orders[-1] = orders[-1][matrix.permutation(permutation).numpy()]
            permutation += 1
    return orders


def _blocks_of_positions(a: int, inside: int, d: int) -> Index:
    """The number of the ``(a, d)`` block of every position of a vector indexed ``(a, inside, d)``."""
    blocks = np.arange(a * d, dtype=np.int64).reshape(a, 1, d)
    return np.ascontiguousarray(np.broadcast_to(blocks, (a, inside, d))).reshape(-1)
