"""What is trained on what: batches that depend on the step alone, the loss, and the quality that is reported."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Images, Text
from .models import MLP, Transformer

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Schedule:
    """A training run: AdamW, a linear warm-up, then half a cosine down to nothing."""

    steps: int
    batch: int
    lr: float
    warmup: int
    weight_decay: float
    half: bool = False
    """Products in bfloat16 (autocast); parameters and optimiser stay in float32."""


class Digits:
    """An MLP on MNIST. Training images are shifted by up to two pixels."""

    name = "mlp"
    measure = "accuracy"
    heal_lr = 2e-5
    """The heal's learning rate, chosen on the validation part with the plain SVD."""

    def __init__(self, images: Images, schedule: Schedule, width: int) -> None:
        self.images, self.schedule, self.width = images, schedule, width

    def build(self) -> nn.Module:
        return MLP(self.width)

    def batch(self, step: int, part: str = "train") -> Batch:
        """The batch of a step: the same one whenever it is asked for."""
        rng = torch.Generator().manual_seed(1_000_003 * step)
        chosen = torch.randint(
            0, len(getattr(self.images, part).labels), (self.schedule.batch,), generator=rng
        )
        padded = F.pad(scaled(getattr(self.images, part).images[chosen]), (2, 2, 2, 2))
        shifts = torch.randint(0, 5, (len(chosen), 2), generator=rng)
        rows = (shifts[:, :1] + torch.arange(28))[:, :, None]
        columns = (shifts[:, 1:] + torch.arange(28))[:, None, :]
        return padded[torch.arange(len(chosen))[:, None, None], rows, columns], getattr(
            self.images, part
        ).labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]).float(), batch[1])

    @torch.no_grad()
    def quality(self, model: nn.Module, part: str, most: int | None = None) -> dict[str, float]:
        """Accuracy in per cent and mean cross-entropy over all images of a part, or over so many, unshifted."""
        right, loss, labels = 0, 0.0, getattr(self.images, part).labels[:most]
        for images, wanted in zip(
            getattr(self.images, part).images[:most].split(500), labels.split(500), strict=True
        ):
            logits = model(scaled(images).to(device_of(model))).cpu()
            right += int((logits.argmax(1) == wanted).sum())
            loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
        return {"accuracy": 100 * right / len(labels), "loss": loss / len(labels)}

    def example(self, batch: int) -> tuple[Tensor]:
        return (scaled(self.images.train.images[:batch]),)


class Characters:
    """A transformer on the characters of a text."""

    name = "transformer"
    measure = "loss"
    heal_lr = 3e-5

    def __init__(self, text: Text, schedule: Schedule, width: int, layers: int, context: int) -> None:
        self.text, self.schedule = text, schedule
        self.width, self.layers, self.context = width, layers, context

    def build(self) -> nn.Module:
        return Transformer(self.text.symbols, self.width, self.layers, max(1, self.width // 64), self.context)

    def batch(self, step: int, part: str = "train") -> Batch:
        """Random windows of the text: the same ones whenever a step's batch is asked for."""
        rng = torch.Generator().manual_seed(1_000_003 * step)
        codes = getattr(self.text, part)
        starts = torch.randint(0, len(codes) - self.context, (self.schedule.batch,), generator=rng)
        windows = codes[starts[:, None] + torch.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1).float(), batch[1].flatten())

    @torch.no_grad()
    def quality(self, model: nn.Module, part: str, most: int | None = None) -> dict[str, float]:
        """Mean cross-entropy in nats per character over a part, or its beginning, in windows one after another."""
        codes = getattr(self.text, part)[:most]
        count = (len(codes) - 1) // self.context
        inputs = codes[: count * self.context].view(count, self.context)
        wanted = codes[1 : count * self.context + 1].view(count, self.context)
        loss = sum(
            float(
                F.cross_entropy(
                    model(x.to(device_of(model))).flatten(0, 1).float().cpu(), y.flatten(), reduction="sum"
                )
            )
            for x, y in zip(inputs.split(32), wanted.split(32), strict=True)
        )
        return {"loss": loss / wanted.numel()}

    def example(self, batch: int) -> tuple[Tensor]:
        return (self.text.train[: batch * self.context].view(batch, self.context),)


Task = Digits | Characters


def scaled(images: Tensor) -> Tensor:
    """Bytes as numbers of mean 0 and size 1."""
    return (images.float() / 255 - 0.1307) / 0.3081


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device
