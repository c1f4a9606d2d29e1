"""The two models that are compressed, with their data, and the batches that compression looks at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from ..common.data import mnist, tiny_shakespeare
from ..common.data.synthetic import synthetic_images, synthetic_text
from ..common.tasks import Characters, Digits, Schedule, Task

FOLDER_VARIABLE = "KMATRIX_DATA"


def data_folder(given: Path | None) -> Path:
    """The folder with the data: the one given, or the one that the environment names."""
    named = os.environ.get(FOLDER_VARIABLE)
    if given is None and not named:
        raise SystemExit(f"where is the data? Give --data DATA or set {FOLDER_VARIABLE} (see README.md)")
    folder = given if given is not None else Path(str(named))
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not a folder")
    return folder


def load_task(name: str, preset: str, folder: Path | None) -> Task:
    """A task by name. The preset ``full`` wants the data's folder, ``smoke`` makes its own data and ends in seconds."""
    if preset == "smoke":
        if name == "mlp":
            return Digits(synthetic_images(), Schedule(40, 64, 1e-3, 5, 0.01), width=64)
        return Characters(synthetic_text(), Schedule(40, 16, 3e-3, 5, 0.1), width=32, layers=2, context=16)
    folder = data_folder(folder)
    if name == "mlp":
        return Digits(mnist(folder), Schedule(4000, 128, 1e-3, 100, 0.05), width=2048)
    schedule = Schedule(2000, 32, 1e-3, 100, 0.1, half=True)
    return Characters(tiny_shakespeare(folder), schedule, width=256, layers=6, context=64)


def calibration(task: Task, batches: int) -> Callable[[], Iterator[Tensor]]:
    """The inputs of some training batches, none of which training has seen in this order."""

    def inputs() -> Iterator[Tensor]:
        for step in range(batches):
            yield task.batch(10_000_000 + step)[0]

    return inputs
