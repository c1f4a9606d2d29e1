"""Blocks on the diagonal, each with a structure: what grouped layers hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.base import Structure, StructuredMatrix
from kmatrix.structures.compose import CompoundMatrix


@dataclass(frozen=True)
class Grouped(Structure):
    """Block-diagonal matrices of ``groups`` equal blocks, each of which is a member of ``of``.

    Args:
        of: structure of each block; an ``m x n`` matrix has blocks of shape ``(m / groups, n / groups)``.
        groups: how many blocks.

    Raises:
        ArgumentError: if the number of groups is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.Grouped(km.LowRank(rank=2), groups=4).num_params(64, 128)  # 4 * 2 * (16 + 32)
        384
    """

    of: Structure
    groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("Grouped", "groups", self.groups)

    def block(self, m: int, n: int) -> tuple[int, int]:
        """Shape of each block of an ``m x n`` member."""
        for name, size in (("m", m), ("n", n)):
            if size % self.groups:
                reason, way_out = f"not divisible by groups={self.groups}", "choose a common divisor"
                raise ArgumentError(complaint("Grouped", name, size, reason, way_out))
        return m // self.groups, n // self.groups

    def check(self, m: int, n: int) -> None:
        self.of.check(*self.block(m, n))

    def num_params(self, m: int, n: int) -> int:
        return self.groups * self.of.num_params(*self.block(m, n))

    def flops(self, m: int, n: int) -> int:
        return self.groups * self.of.flops(*self.block(m, n))

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StructuredMatrix:
        self._admit(m, n, dtype)
        block = self.block(m, n)
        return GroupedMatrix([self.of.empty(*block, dtype=dtype, device=device) for _ in range(self.groups)])


class GroupedMatrix(CompoundMatrix):
    """A block-diagonal matrix with ``parts`` on its diagonal, all of one structure and shape."""

    def __init__(self, parts: Sequence[StructuredMatrix]) -> None:
        kinds = {(part.structure, part.shape, part.dtype) for part in parts}
        if len(kinds) != 1:
            got = [f"{part.structure} {part.shape}" for part in parts]
            reason = "the blocks are not of one structure, shape and dtype" if parts else "empty"
            raise ArgumentError(complaint("Grouped", "parts", got, reason, "pass equal blocks"))
        rows, cols = parts[0].shape
        structure = Grouped(parts[0].structure, len(parts))
        super().__init__(structure, (len(parts) * rows, len(parts) * cols), parts)

    def _matmul(self, x: Tensor) -> Tensor:
        pieces = torch.split(x, self.members[0].shape[1], -1)
        return torch.cat([part(piece) for part, piece in zip(self.members, pieces, strict=True)], -1)

    def _rmatmul(self, x: Tensor) -> Tensor:
        pieces = torch.split(x, self.members[0].shape[0], -1)
        return torch.cat([part.rforward(piece) for part, piece in zip(self.members, pieces, strict=True)], -1)
