"""Families made of blocks: dense, low rank, block diagonal, tiles of low rank, tiles that share factors.

Each is a rule of a few lines that writes a chain; where blocks do not divide a size, the last ones are
padded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kmatrix._checks import check_size
from kmatrix.ops.apply import chain_apply
from kmatrix.structures._grids import Grid, as_pair, balanced_factors, ceil_div, check_grid
from kmatrix.structures.base import fill_normal
from kmatrix.structures.butterfly import tile_chain
from kmatrix.structures.chain import ChainMatrix, ChainStructure, Factor, Layout, Permute


@dataclass(frozen=True)
class Dense(ChainStructure):
    """All matrices: the baseline that every other family is measured against.

    Example:
        >>> import kmatrix as km
        >>> km.Dense().num_params(768, 1000)
        768000
    """

    def layout(self, m: int, n: int) -> Layout:
        return Layout((Factor(1, m, n, 1),))


@dataclass(frozen=True)
class LowRank(ChainStructure):
    """Matrices ``U V`` of rank at most ``rank``: ``U`` is ``m x rank``, ``V`` is ``rank x n``.

    Args:
        rank: size between the two factors; over ``min(m, n)`` it is redundant but allowed.

    Raises:
        ArgumentError: if the rank is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.LowRank(rank=8).num_params(100, 200)  # rank * (m + n)
        2400
    """

    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("LowRank", "rank", self.rank)

    def layout(self, m: int, n: int) -> Layout:
        return Layout((Factor(1, self.rank, n, 1), Factor(1, m, self.rank, 1)))


@dataclass(frozen=True)
class BlockDiagonal(ChainStructure):
    """Matrices with ``nblocks`` blocks of shape ``(ceil(m / nblocks), ceil(n / nblocks))`` on the diagonal.

    Args:
        nblocks: how many blocks.

    Raises:
        ArgumentError: if the number of blocks is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.BlockDiagonal(nblocks=4).num_params(64, 128)  # m * n / nblocks
        2048
    """

    nblocks: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("BlockDiagonal", "nblocks", self.nblocks)

    def layout(self, m: int, n: int) -> Layout:
        return Layout((Factor(self.nblocks, ceil_div(m, self.nblocks), ceil_div(n, self.nblocks), 1),))


@dataclass(frozen=True)
class Diagonal(ChainStructure):
    """Diagonal matrices; a rectangular one has ``min(m, n)`` numbers on its leading diagonal.

    Example:
        >>> import kmatrix as km
        >>> km.Diagonal().num_params(5, 3)
        3
    """

    def layout(self, m: int, n: int) -> Layout:
        return Layout((Factor(1, 1, 1, min(m, n)),))

    def check(self, m: int, n: int) -> None:
        """Every shape has diagonal members; the chain is the square part of the matrix."""

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ChainMatrix:
        dtype = self._admit(m, n, dtype)
        return DiagonalMatrix(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


class DiagonalMatrix(ChainMatrix):
    """A square diagonal chain, cropping its input and filling up its output with zeros."""

    def _matmul(self, x: Tensor) -> Tensor:
        return self._product(x, self.shape[0])

    def _rmatmul(self, x: Tensor) -> Tensor:
        return self._product(x, self.shape[1])

    def _product(self, x: Tensor, rows: int) -> Tensor:
        size = self.layout.rows
        y = chain_apply(x[..., :size], self.weights, self.layout.patterns)
        return nn.functional.pad(y, (0, rows - size))


class _Tiles(ChainStructure):
    """What the two families of low-rank tiles share: how their members start."""

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ChainMatrix:
        dtype = self._admit(m, n, dtype)
        return TiledMatrix(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


class TiledMatrix(ChainMatrix):
    """A chain of two factors whose product has tiles of low rank."""

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start at tile rank one and its spectral scale; the other ranks switch on in training.

        The second factor is zero on every rank but the first, the first factor is random on all of them.
        Reference: arXiv 2406.06248, the initialisation of its released code for ranks over one.
        """
        super().reset_parameters(generator)
        first, second = self.layout.factors
        tiles = first.a
        std = min(1.0, (second.b / tiles) ** 0.5) / tiles**0.5
        stored = self.factors[1]
        with torch.no_grad():
            by_rank = stored.unflatten(2, (tiles, second.c // tiles))
            fill_normal(by_rank, std, self._is_complex, generator)
            by_rank[:, :, :, 1:] = 0


@dataclass(frozen=True)
class BlockTensorTrain(_Tiles):
    """Two-core block tensor-trains: a grid of tiles of rank at most ``rank``, strided in the rows.

    With a ``(p, q)`` grid, tile ``(o, k)`` holds the rows ``i = o (mod p)`` and the ``k``-th of ``q`` blocks
    of columns. The strided rows make it a chain of two factors without a permutation.

    Args:
        nblocks: the grid, ``(row tiles, column tiles)`` or one number for both; near the square roots of the
            shape if not given.
        rank: rank of every tile.

    Raises:
        ArgumentError: if the grid or rank is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.BlockTensorTrain(nblocks=16, rank=2).num_params(256, 256)  # rank * (p * n + q * m)
        16384

    Reference: arXiv 2406.06248 (two cores).
    """

    nblocks: Grid | None = None
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nblocks is not None:
            check_grid("BlockTensorTrain", "nblocks", self.nblocks)
        check_size("BlockTensorTrain", "rank", self.rank)

    def layout(self, m: int, n: int) -> Layout:
        p, q = tile_grid(self.nblocks, m, n)
        return Layout(tile_chain(((p, ceil_div(n, q)), (ceil_div(m, p), q)), (self.rank,)))


@dataclass(frozen=True)
class BlockLowRank(_Tiles):
    """Block low rank matrices: a grid of contiguous tiles of rank at most ``rank``.

    The same class as ``BlockTensorTrain`` up to the order of the rows, and the same counts.

    Args:
        nblocks: the grid, ``(row tiles, column tiles)`` or one number for both; near the square roots of the
            shape if not given.
        rank: rank of every tile.

    Raises:
        ArgumentError: if the grid or rank is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.BlockLowRank(nblocks=(2, 4), rank=3).num_params(60, 80)
        1200
    """

    nblocks: Grid | None = None
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nblocks is not None:
            check_grid("BlockLowRank", "nblocks", self.nblocks)
        check_size("BlockLowRank", "rank", self.rank)

    def layout(self, m: int, n: int) -> Layout:
        p, q = tile_grid(self.nblocks, m, n)
        height = ceil_div(m, p)
        factors = tile_chain(((p, ceil_div(n, q)), (height, q)), (self.rank,))
        return Layout((*factors, Permute(height * p, "stride", height)))


def tile_grid(nblocks: Grid | None, m: int, n: int) -> tuple[int, int]:
    """The grid asked for, or one near the square roots of the shape."""
    if nblocks is None:
        return balanced_factors(m, 2)[0], balanced_factors(n, 2)[0]
    return as_pair(nblocks)


@dataclass(frozen=True)
class BLAST(ChainStructure):
    """Block-level adaptive structured matrices: tiles ``U_i diag(s_ij) V_j`` on a grid.

    All tiles of a row share ``U_i``, all tiles of a column share ``V_j``. Contains low rank (all couplings
    one), block diagonal, and block low rank of tile rank ``rank / nblocks``.

    Args:
        nblocks: the grid, ``(row tiles, column tiles)`` or one number for both.
        rank: length of every coupling ``s_ij``.

    Raises:
        ArgumentError: if the grid or rank is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.BLAST(nblocks=4, rank=8).num_params(64, 64)  # rank * (m + n + nblocks**2)
        1152

    Reference: arXiv 2410.21262.
    """

    nblocks: Grid
    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid("BLAST", "nblocks", self.nblocks)
        check_size("BLAST", "rank", self.rank)

    def layout(self, m: int, n: int) -> Layout:
        p, q = as_pair(self.nblocks)
        right = Factor(q, self.rank, ceil_div(n, q), 1)
        coupling = Factor(1, p, q, self.rank)
        left = Factor(p, ceil_div(m, p), self.rank, 1)
        return Layout((right, coupling, left))
