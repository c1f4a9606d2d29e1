"""What is left when the largest terms are kept: the arithmetic behind every truncation."""

from __future__ import annotations

from torch import Tensor, nn


def tails(energies: Tensor) -> Tensor:
    """Energy left after the first ``k = 0, 1, ..., len`` terms, along the last axis: ``tails[..., k]``.

    Args:
        energies: squares of what is kept or thrown away, largest first.

    Example:
        >>> import torch
        >>> tails(torch.tensor([4.0, 2.0, 1.0])).tolist()
        [7.0, 3.0, 1.0, 0.0]
    """
    sums = energies.flip(-1).cumsum(-1).flip(-1)
    return nn.functional.pad(sums, (0, 1))


def fewest(left: Tensor, allowed: float) -> int:
    """How many terms to keep, at least one, so that the energy ``left`` after them (``tails``) is allowed."""
    return max(1, int((left > allowed).sum()))
