"""Images for the network: synthetic ones, sign digits, ImageNet; cropped, mirrored, normalised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ..common import Run, data
from .settings import Settings, Width

TEST_BATCH = 256
MEAN, SPREAD = 0.5, 0.25
Labelled = tuple[Tensor, Tensor]


class Batches(ABC):
    """What a network is trained and tested with.

    Attributes:
        steps: optimisation steps in an epoch.
    """

    steps: int

    @abstractmethod
    def train(self, step: int) -> Labelled:
        """This process's images and labels of a step, which depend on nothing else."""

    @abstractmethod
    def validation(self) -> Iterator[Labelled] | None:
        """Images to choose by; None if there are none."""

    @abstractmethod
    def test(self) -> Iterator[Labelled]:
        """Images to report on."""


def batches(settings: Settings, width: Width, run: Run) -> Batches:
    """The data of the settings.

    Raises:
        DataError: if they are not there, or not what they should be.
    """
    if run.dry:
        # A few images are enough for a step, and a batch of the paper's size is too large for most machines.
        return InMemory(_synthetic(settings, 4 * run.world), settings, 4 * run.world, run)
    if settings.data == "synthetic":
        return InMemory(_synthetic(settings, 2 * width.batch), settings, width.batch, run)
    if settings.data == "sign digits":
        return InMemory(data.sign_digits(run.data()), settings, width.batch, run)
    from .folders import Folders

    return Folders(settings, width.batch, run)


class InMemory(Batches):
    """Images that are all in memory, cut and mirrored a whole batch at a time."""

    def __init__(self, images: data.Images, settings: Settings, batch: int, run: Run) -> None:
        self.images, self.settings, self.batch, self.run = images, settings, batch, run
        self.steps = len(images.train) // batch

    def train(self, step: int) -> Labelled:
        epoch, place = divmod(step, self.steps)
        order = torch.randperm(len(self.images.train), generator=generator(self.run.seed, epoch))
        chosen = order[place * self.batch : (place + 1) * self.batch]
        # Everybody draws for the whole batch, so that the crops do not depend on the number of processes.
        boxes = crops(len(chosen), self.settings, generator(self.run.seed, epoch, place))
        mine = self.run.share(torch.arange(len(chosen)))
        x = normalised(self.images.train.images[chosen[mine]])
        x = functional.grid_sample(
            x, functional.affine_grid(boxes[mine], list(x.shape), align_corners=False), align_corners=False
        )
        return x.to(self.run.device), self.images.train.labels[chosen[mine]].to(self.run.device)

    def validation(self) -> Iterator[Labelled]:
        return self._all(self.images.validation)

    def test(self) -> Iterator[Labelled]:
        return self._all(self.images.test)

    def _all(self, split: data.Split) -> Iterator[Labelled]:
        for first in range(0, len(split), TEST_BATCH):
            x, y = (part[first : first + TEST_BATCH] for part in (split.images, split.labels))
            yield normalised(x).to(self.run.device), y.to(self.run.device)


def normalised(images: Tensor) -> Tensor:
    """Bytes ``(N, H, W, 3)`` to numbers around zero ``(N, 3, H, W)``."""
    return (images.float() / 255 - MEAN).div_(SPREAD).movedim(-1, 1)


def generator(*numbers: int) -> torch.Generator:
    """A generator for a few numbers that name what is drawn."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 62)
    return torch.Generator().manual_seed(seed)


def crops(count: int, settings: Settings, draw: torch.Generator) -> Tensor:
    """Random crops as affine maps ``(count, 2, 3)``: a part of the area, sides of 3:4 to 4:3, mirrored or not."""
    area = torch.empty(count).uniform_(settings.smallest, 1.0, generator=draw)
    ratio = torch.empty(count).uniform_(-1.0, 1.0, generator=draw).mul_(torch.tensor(4 / 3).log()).exp_()
    wide, high = (area * ratio).sqrt_().clamp_(max=1), (area / ratio).sqrt_().clamp_(max=1)
    left, top = (torch.empty(count).uniform_(-1.0, 1.0, generator=draw) for _ in range(2))
    mirrored = torch.rand(count, generator=draw) < 0.5
    sign = torch.where(mirrored & torch.tensor(settings.flips), -1.0, 1.0)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 0, 2] = sign * wide, left * (1 - wide)
    maps[:, 1, 1], maps[:, 1, 2] = high, top * (1 - high)
    return maps


def _synthetic(settings: Settings, count: int) -> data.Images:
    """Noise whose mean colour tells the class, the same for every seed."""
    draw = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 128, (settings.classes, 3), generator=draw)

    def split() -> data.Split:
        labels = torch.randint(settings.classes, (count,), generator=draw)
        noise = torch.randint(0, 128, (count, settings.size, settings.size, 3), generator=draw)
        return data.Split((noise + colours[labels, None, None]).to(torch.uint8), labels)

    return data.Images(split(), split(), split())
