"""The two subjects of the study: a vision transformer on MNIST, a character transformer on Shakespeare."""

from pathlib import Path

import torch
from shared import Batch, Characters, Digits, Schedule, Transformer, data, scaled
from torch import nn
from vit import ViT

SUBJECTS = ("vit", "characters")


class Patches(Digits):
    """The vision transformer on MNIST, images as they are: a short run sees each of them once at most."""

    name = "vit"

    def __init__(self, images: data.Images, schedule: Schedule, width: int, layers: int, patch: int) -> None:
        super().__init__(images, schedule, width)
        self.layers, self.patch = layers, patch

    def batch(self, step: int, part: str = "train") -> Batch:
        """The batch of a step: the same one whenever it is asked for."""
        rng = torch.Generator().manual_seed(1_000_003 * step)
        chosen = torch.randint(0, len(self.images.labels[part]), (self.schedule.batch,), generator=rng)
        return scaled(self.images.images[part][chosen]), self.images.labels[part][chosen]

    def build(self) -> nn.Module:
        return ViT(self.width, self.layers, max(1, self.width // 32), patch=self.patch)


class Letters(Characters):
    """The character transformer, with heads of 32."""

    name = "characters"

    def build(self) -> nn.Module:
        heads = max(1, self.width // 32)
        return Transformer(self.text.symbols, self.width, self.layers, heads, self.context)


Subject = Patches | Letters


def load_subject(name: str, preset: str, folder: Path | None) -> Subject:
    """A subject by name. ``full`` wants the data's folder, ``smoke`` makes its own data and ends in seconds."""
    if preset == "smoke":
        if name == "vit":
            return Patches(data.synthetic_images(500), Schedule(12, 16, 3e-3, 2, 0.01), 32, 1, patch=7)
        return Letters(data.synthetic_text(4000), Schedule(12, 8, 3e-3, 2, 0.01), 32, 1, context=16)
    folder = data.data_folder(folder)
    if name == "vit":
        return Patches(data.mnist(folder), Schedule(1000, 32, 3e-3, 100, 0.01), 96, 2, patch=7)
    return Letters(data.shakespeare(folder), Schedule(360, 16, 3e-3, 36, 0.01), 128, 3, context=64)
