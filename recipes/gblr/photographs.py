"""The vision transformer on ImageNet: photographs are read and cut by threads while it waits."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common import Run
from ..common.data.imagenet import Photographs, imagenet, test_image, training_image
from ..common.tasks import Batch
from .settings import Size
from .vit import ViT

SIDE = 224
HELD_OUT = 10_000
"""Training photographs to choose by."""
AT_ONCE = 64
READERS = 16


class Views:
    """The vision transformer on ImageNet; the validation set is what is reported.

    Args:
        size: of the transformer.
        classes: that there must be.
        run: who shares the batches.
    """

    shared = True
    """Batches are this process's part already: what others look at is not read here."""

    def __init__(self, size: Size, classes: int, run: Run) -> None:
        found = imagenet(run.data(), classes)
        order = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(0))
        held = min(HELD_OUT, len(order) // 10)
        self.size, self.classes, self.run = size, classes, run
        self.learned = (found.train, order[held:])
        self.parts = {
            "validation": (found.train, order[:held]),
            "test": (found.val, torch.arange(len(found.val))),
        }

    def build(self) -> nn.Module:
        heads = max(1, self.size.width // 64)
        return ViT(self.size.width, self.size.layers, heads, SIDE, self.size.piece, self.classes, 3)

    def batch(self, step: int, part: str = "train") -> Batch:
        """This process's part of the batch of a step: the same one whenever it is asked for."""
        source, numbers = self.learned
        rng = torch.Generator().manual_seed(1_000_003 * step)
        chosen = torch.randint(0, len(numbers), (self.size.schedule.batch,), generator=rng)
        seeds = torch.randint(2**62, (len(chosen),), generator=rng)
        mine = self.run.share(torch.arange(len(chosen)))
        places = numbers[chosen[mine]].tolist()

        def read(place: int, seed: int) -> Tensor:
            draw = torch.Generator().manual_seed(seed)
            return training_image(source.paths[place], SIDE, draw)

        with ThreadPoolExecutor(READERS) as readers:
            images = list(readers.map(read, places, seeds[mine].tolist()))
        return torch.stack(images).movedim(1, -1), source.labels[places]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    @torch.no_grad()
    def quality(self, model: nn.Module, part: str, most: int | None = None) -> dict[str, float]:
        """Accuracy in per cent and mean cross-entropy, the middle of every photograph."""
        source, numbers = self.parts[part]
        right, loss, chosen = 0, 0.0, numbers[:most].tolist()
        for first in range(0, len(chosen), AT_ONCE):
            images, labels = _middles(source, chosen[first : first + AT_ONCE])
            logits = model(images.to(self.run.device)).cpu()
            right += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        return {"accuracy": 100 * right / len(chosen), "loss": loss / len(chosen)}


def _middles(source: Photographs, places: Sequence[int]) -> Batch:
    with ThreadPoolExecutor(READERS) as readers:
        images = list(readers.map(lambda place: test_image(source.paths[place], SIDE), places))
    return torch.stack(images).movedim(1, -1), source.labels[list(places)]
