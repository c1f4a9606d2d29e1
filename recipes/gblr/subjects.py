"""The two subjects: a vision transformer on images, a transformer on a text, with their data."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common import Run, data
from ..common.data.synthetic import synthetic_images, synthetic_text
from ..common.data.wikitext import wikitext
from ..common.models import Transformer
from ..common.tasks import Batch, Characters, Digits, device_of, scaled
from .photographs import Views
from .settings import Settings, Size
from .vit import ViT


class Patches(Digits):
    """The vision transformer on MNIST, images as they are: a short run sees each of them once at most."""

    def __init__(self, images: data.Images, size: Size) -> None:
        super().__init__(images, size.schedule, size.width)
        self.size = size

    def batch(self, step: int, part: str = "train") -> Batch:
        """The batch of a step: the same one whenever it is asked for."""
        rng = torch.Generator().manual_seed(1_000_003 * step)
        split = getattr(self.images, part)
        chosen = torch.randint(0, len(split), (self.schedule.batch,), generator=rng)
        return scaled(split.images[chosen]), split.labels[chosen]

    def build(self) -> nn.Module:
        return ViT(self.width, self.size.layers, max(1, self.width // 32), patch=self.size.piece)


class Letters(Characters):
    """The transformer on a text, with heads of 32."""

    def __init__(self, text: data.Text, size: Size) -> None:
        super().__init__(text, size.schedule, size.width, size.layers, size.piece)

    def build(self) -> nn.Module:
        heads = max(1, self.width // 32)
        return Transformer(self.text.symbols, self.width, self.layers, heads, self.context)


class Shapes:
    """Random images or symbols of the right shape: what a dry run sees."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model, self.drawn = model, batch

    def build(self) -> nn.Module:
        return self.model

    def batch(self, step: int, part: str = "train") -> Batch:
        return self.drawn

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())

    def quality(self, model: nn.Module, part: str, most: int | None = None) -> dict[str, float]:
        x, y = (numbers.to(device_of(model)) for numbers in self.drawn)
        return {"loss": float(self.loss(model, (x, y)))}


Subject = Patches | Letters | Views | Shapes


def subject_of(name: str, settings: Settings, run: Run) -> Subject:
    """A subject with its data; a dry run needs none."""
    if run.dry and settings.preset != "smoke":
        return _shapes(name, settings)
    if name == "vit":
        if settings.preset == "paper":
            return Views(settings.vit, settings.classes, run)
        images = synthetic_images(500) if settings.preset == "smoke" else data.mnist(run.data())
        return Patches(images, settings.vit)
    if settings.preset == "paper":
        return Letters(wikitext(run.data(), settings.pieces, run.shared()), settings.characters)
    text = synthetic_text(4000) if settings.preset == "smoke" else data.tiny_shakespeare(run.data())
    return Letters(text, settings.characters)


def _shapes(name: str, settings: Settings) -> Shapes:
    paper = settings.preset == "paper"
    rng = torch.Generator().manual_seed(0)
    if name == "vit":
        size, side, channels, classes = (
            settings.vit,
            224 if paper else 28,
            3 if paper else 1,
            settings.classes if paper else 10,
        )
        model = ViT(size.width, size.layers, max(1, size.width // 64), side, size.piece, classes, channels)
        shape = (2, side, side, channels) if channels > 1 else (2, side, side)
        return Shapes(model, (torch.randn(shape, generator=rng), torch.randint(classes, (2,), generator=rng)))
    size, symbols = settings.characters, settings.pieces if paper else 65
    codes = torch.randint(symbols, (1, size.piece + 1), generator=rng)
    text = Transformer(symbols, size.width, size.layers, max(1, size.width // 64), size.piece)
    return Shapes(text, (codes[:, :-1], codes[:, 1:]))
