"""What the processes of a group (``torchrun``) tell each other; nothing where there is one process alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def together() -> bool:
    """Whether there are other processes to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def leads() -> bool:
    """Whether this process decides for all."""
    return not together() or dist.get_rank() == 0


def add_up_(tensor: Tensor) -> None:
    """Put the sum over all processes in the place of a tensor."""
    if not together():
        return
    carried = _carried(tensor)
    dist.all_reduce(carried)
    if carried is not tensor:
        tensor.copy_(carried)


def take_from_first_(tensor: Tensor) -> None:
    """Put what the first process has in the place of a tensor."""
    if not together() or tensor.numel() == 0:
        return
    carried = _carried(tensor)
    dist.broadcast(carried.reshape(-1).view(torch.uint8), 0)  # of any number type
    if carried is not tensor:
        tensor.copy_(carried)


def sums(values: Sequence[float]) -> list[float]:
    """The sums of numbers over all processes."""
    shared = torch.tensor(values, dtype=torch.float64)
    add_up_(shared)
    return shared.tolist()


def from_first(values: Sequence[float]) -> list[float]:
    """The numbers of the first process; the others give as many, whatever they are."""
    shared = torch.tensor(values, dtype=torch.float64)
    take_from_first_(shared)
    return shared.tolist()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if together() else 1


def _carried(tensor: Tensor) -> Tensor:
    """A tensor as the group can send it: NCCL takes those of its device alone, and all take whole ones alone."""
    whole = tensor.detach().contiguous()
    return whole.cuda() if dist.get_backend() == "nccl" and not whole.is_cuda else whole
