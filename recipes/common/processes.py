"""Several processes under torchrun: who this is among them, and what all must agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")
LONGEST = timedelta(days=30)
"""That processes wait for each other."""


@dataclass(frozen=True)
class Processes:
    """This process's number and how many there are."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """What the first process has."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            distributed.barrier()


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun has started, in a group of their own; one alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # One may be done with its runs long before the others are with theirs.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
