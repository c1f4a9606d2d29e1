"""ImageNet for the network: photographs read and cut by worker processes while it computes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..common import Run
from ..common.data.imagenet import Photographs, imagenet, test_image, training_image
from .batches import TEST_BATCH, Batches, Labelled, generator
from .settings import Settings

WORKERS = 8


class Folders(Batches):
    """Photographs from folders.

    Args:
        settings: of the preset.
        batch: images in a step, of all processes together.
        run: who shares them.
    """

    def __init__(self, settings: Settings, batch: int, run: Run) -> None:
        self.photographs = imagenet(run.data(), settings.classes)
        self.settings, self.batch, self.run = settings, batch, run
        order = torch.randperm(len(self.photographs.train), generator=generator(0))
        self.held_out = order[: settings.held_out]
        self.learned = order[settings.held_out :]
        self.steps = len(self.learned) // batch
        self._coming: Iterator[Labelled] = iter(())
        self._next = -1

    def train(self, step: int) -> Labelled:
        if step != self._next:
            # The first step, or the first one after an interruption: workers read ahead from here on.
            chosen = _Chosen(self.photographs.train, self.settings, self.run.seed)
            self._coming = iter(_loader(chosen, _Steps(self, step)))
        self._next = step + 1
        return self._here(next(self._coming))

    def validation(self) -> Iterator[Labelled] | None:
        """Of the training photographs, those that are held out: none unless settings are searched."""
        return self._whole(self.photographs.train, self.held_out) if len(self.held_out) else None

    def test(self) -> Iterator[Labelled]:
        return self._whole(self.photographs.val, torch.arange(len(self.photographs.val)))

    def _whole(self, photographs: Photographs, numbers: Tensor) -> Iterator[Labelled]:
        parts = [numbers[first : first + TEST_BATCH] for first in range(0, len(numbers), TEST_BATCH)]
        places = [[(0, int(i)) for i in part] for part in parts]
        for both in _loader(_Whole(photographs, self.settings.size), places):
            yield self._here(both)

    def _here(self, both: Labelled) -> Labelled:
        return both[0].to(self.run.device), both[1].to(self.run.device)


class _Steps(Sequence[list[tuple[int, int]]]):
    """Epoch and number of the photographs of this process in each step from one on."""

    def __init__(self, source: Folders, first: int) -> None:
        self.source, self.first = source, first
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return self.source.settings.epochs * self.source.steps - self.first

    def __getitem__(self, k: int) -> list[tuple[int, int]]:  # type: ignore[override]
        if not 0 <= k < len(self):
            raise IndexError(k)
        source = self.source
        epoch, place = divmod(self.first + k, source.steps)
        if epoch != self._epoch:
            draw = torch.randperm(len(source.learned), generator=generator(source.run.seed, epoch))
            self._epoch, self._order = epoch, source.learned[draw]
        batch = self._order[place * source.batch : (place + 1) * source.batch]
        return [(epoch, int(i)) for i in source.run.share(batch)]


class _Chosen(Dataset[tuple[Tensor, Tensor]]):
    """Training photographs by epoch and number; what is random depends on these and on the seed alone."""

    def __init__(self, photographs: Photographs, settings: Settings, seed: int) -> None:
        self.photographs, self.settings, self.seed = photographs, settings, seed

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        path, draw = self.photographs.paths[place[1]], generator(self.seed, *place)
        x = training_image(path, self.settings.size, draw, self.settings.smallest, self.settings.flips)
        return x, self.photographs.labels[place[1]]


class _Whole(Dataset[tuple[Tensor, Tensor]]):
    """Test photographs by number."""

    def __init__(self, photographs: Photographs, size: int) -> None:
        self.photographs, self.size = photographs, size

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return test_image(self.photographs.paths[place[1]], self.size), self.photographs.labels[place[1]]


def _loader(
    photographs: Dataset[tuple[Tensor, Tensor]], batches: Sequence[list[tuple[int, int]]]
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        photographs, batch_sampler=batches, num_workers=min(WORKERS, os.cpu_count() or 1),
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
