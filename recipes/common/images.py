"""What recipes do with images: training images moved and mirrored, and the share that is classified as it should be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE = 1_000


def jittered(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each of the images ``(k, h, w, channels)`` moved by up to ``shift`` pixels, and half of them mirrored.

    What comes from outside is zero.
    """
    k, h, w, _ = images.shape
    down, right = torch.randint(-shift, shift + 1, (2, k, 1), generator=generator)
    flip = torch.rand(k, 1, generator=generator) < 0.5
    rows, columns = torch.arange(h) + down, torch.arange(w) + right
    columns = torch.where(flip, w - 1 - columns, columns)
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    moved = images[
        torch.arange(k)[:, None, None], rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None]
    ]
    kept: Tensor = moved * inside.unsqueeze(-1)
    return kept


@torch.no_grad()
def accuracy(scores: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """Per cent of images whose highest score is that of their label.

    Args:
        scores: of a part of the images, ``(count, classes)``, on any device.
        images: as ``scores`` takes them.
        labels: the classes.
    """
    right = 0
    for part, wanted in zip(torch.split(images, AT_ONCE), torch.split(labels, AT_ONCE), strict=True):
        right += int((scores(part).argmax(1).cpu() == wanted).sum())
    return 100 * right / len(labels)
