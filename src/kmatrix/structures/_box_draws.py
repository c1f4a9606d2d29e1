"""Random widths with a given sum."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_widths(count: int, size: int, total: int, generator: torch.Generator | None = None) -> Tensor:
    """``count`` random widths between 1 and ``size`` that add up to ``total``, about uniform up to twice their mean.

    ``total`` lies between ``count`` and ``count * size``.

    Example:
        >>> draw_widths(4, 10, 40).tolist()
        [10, 10, 10, 10]
    """
    device = torch.device("cpu") if generator is None else generator.device
    if not count:
        return torch.zeros(0, dtype=torch.int64, device=device)
    drawn = torch.rand(count, dtype=torch.float64, generator=generator, device=device)
    widths = (drawn * (2 * total / count)).long().clamp(1, size)
    missing = total - int(widths.sum())
    if not missing:
        return widths
    # What is missing or too much is shared in proportion to the room that each has.
    room = size - widths if missing > 0 else widths - 1
    everything = int(room.sum())
    share = abs(missing) * room
    part = share // everything
    rest = abs(missing) - int(part.sum())
    part[torch.argsort(share % everything, descending=True, stable=True)[:rest]] += 1
    return widths + (part if missing > 0 else -part)
