"""Helpers for training on several machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from kmatrix._checks import check_size

if TYPE_CHECKING:
    from torch.distributed.tensor import Shard


def shard_placement(world_size: int) -> Callable[[nn.Parameter], Shard | None]:
    """Where FSDP2 cuts each parameter: along its longest axis that the processes divide.

    ``fully_shard`` cuts along the first axis, which is 1 for the factors of a low-rank matrix: one process would hold
    all of it. Pass the result as ``fully_shard(layer, shard_placement_fn=...)``.

    Args:
        world_size: how many processes share each parameter.

    Returns:
        A function from a parameter to its placement; None (the first axis) where no axis divides.

    Example:
        >>> import kmatrix as km
        >>> tuple(km.LowRank(6).random(16, 8).factors[1].shape)  # on 2 processes cut into (1, 8, 6, 1)
        (1, 16, 6, 1)
        >>> place = km.nn.shard_placement(2)
    """
    check_size("shard_placement", "world_size", world_size)

    def place(parameter: nn.Parameter) -> Shard | None:
        from torch.distributed.tensor import Shard

        sizes = [(size, -axis) for axis, size in enumerate(parameter.shape) if size % world_size == 0]
        return Shard(-max(sizes)[1]) if sizes else None

    return place
