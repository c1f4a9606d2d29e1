"""The two data sets as tensors, in three parts: training, validation (for choices), test (for what is reported)."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER_VARIABLE = "KMATRIX_DATA"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Images:
    """Images (count, 28, 28) as bytes and their digits, by part."""

    images: dict[str, Tensor]
    labels: dict[str, Tensor]


@dataclass(frozen=True)
class Text:
    """Characters as numbers, by part, and how many different ones there are."""

    codes: dict[str, Tensor]
    symbols: int


def data_folder(given: Path | None) -> Path:
    """The folder with the data: the one given, or the one that the environment names."""
    named = os.environ.get(FOLDER_VARIABLE)
    if given is None and not named:
        raise SystemExit(f"where is the data? Give --data FOLDER or set {FOLDER_VARIABLE} (see README.md)")
    folder = given if given is not None else Path(str(named))
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not a folder")
    return folder


def find(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of some file names in a folder or in a folder inside it."""
    for name in names:
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    raise SystemExit(f"none of {', '.join(names)} in {folder} or in its folders (see README.md)")


def mnist(folder: Path) -> Images:
    """MNIST: 55,000 training images, the last 5,000 of the official training set for validation, 10,000 to test."""
    with np.load(find(folder, ("mnist.npz",)), allow_pickle=False) as arrays:
        x, y = torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"]).long()
        x_test, y_test = torch.from_numpy(arrays["x_test"]), torch.from_numpy(arrays["y_test"]).long()
    images = {"train": x[:-5000], "validation": x[-5000:], "test": x_test}
    return Images(images, {"train": y[:-5000], "validation": y[-5000:], "test": y_test})


def shakespeare(folder: Path) -> Text:
    """Tiny Shakespeare by characters: the first 90 % to train, the next 5 % for validation, the last 5 % to test."""
    path = find(folder, ("tinyshakespeare.txt.gz", "tinyshakespeare.txt", "input.txt"))
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    alphabet = {symbol: code for code, symbol in enumerate(sorted(set(text)))}
    return split_text(torch.tensor([alphabet[symbol] for symbol in text]), len(alphabet))


def split_text(codes: Tensor, symbols: int) -> Text:
    """90 %, 5 % and 5 % of a text, in this order."""
    first, second = int(len(codes) * 0.90), int(len(codes) * 0.95)
    parts = {"train": codes[:first], "validation": codes[first:second], "test": codes[second:]}
    return Text(parts, symbols)


def synthetic_images(count: int = 512) -> Images:
    """Ten random patterns under noise: something to learn in seconds, for the smoke preset."""
    rng = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 200, (10, 28, 28), generator=rng)
    images, labels = {}, {}
    for part in PARTS:
        labels[part] = torch.randint(0, 10, (count,), generator=rng)
        noise = torch.randint(0, 56, (count, 28, 28), generator=rng)
        images[part] = (patterns[labels[part]] + noise).to(torch.uint8)
    return Images(images, labels)


def synthetic_text(length: int = 20_000, symbols: int = 17) -> Text:
    """A noisy walk around a circle of symbols: the next one is likely one further."""
    rng = torch.Generator().manual_seed(0)
    steps = torch.where(
        torch.rand(length, generator=rng) < 0.8, 1, torch.randint(0, symbols, (length,), generator=rng)
    )
    return split_text(steps.cumsum(0) % symbols, symbols)
