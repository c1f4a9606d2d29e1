"""Folders of photographs as ImageNet has them: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, complaint
from .folder import bad

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
ENDINGS = (".jpeg", ".jpg", ".png")
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet's photographs, red, green, blue, as parts of white."""
RESIZED = 256 / 224
"""The shorter side of a test image before its middle is cut out, in sizes of what is cut out."""
ATTEMPTS = 10


@dataclass(frozen=True)
class Photographs:
    """Files and their classes; opened one at a time.

    Attributes:
        paths: of the files.
        labels: int64 ``(count,)``.
    """

    paths: Sequence[Path]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ImageNet:
    """Photographs in two parts.

    Attributes:
        train: to learn from.
        val: the validation set, on which results are reported.
        classes: names of their folders, sorted: label 0 is the first.
    """

    train: Photographs
    val: Photographs
    classes: tuple[str, ...]


def imagenet(folder: Path, classes: int | None = None) -> ImageNet:
    """The photographs of ``folder/train`` and ``folder/val``, or of those of a folder inside it, one folder a class.

    Args:
        folder: of the user's copy.
        classes: how many there must be, if that is known.

    Raises:
        DataError: if the folders are not there, differ in their classes, or have none or the wrong number of them.
    """
    root = next((f for f in (folder, *sorted(folder.glob("*"))) if (f / "train").is_dir()), folder)
    way_out = "put the photographs into train/<class>/*.JPEG and val/<class>/*.JPEG"
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise DataError(complaint("kmatrix recipe", "--data", folder, f"no folder {part}", way_out))
    names = _folders(root / "train")
    if names != _folders(root / "val"):
        loose = any(path.suffix.lower() in ENDINGS for path in (root / "val").iterdir())
        reason = "val has its files loose" if loose else "train and val have different classes"
        raise DataError(complaint("kmatrix recipe", "--data", root, reason, way_out))
    if not names or classes not in (None, len(names)):
        reason = f"{len(names)} classes" + (f" and not {classes}" if classes is not None else "")
        raise DataError(complaint("kmatrix recipe", "--data", root, reason, way_out))
    return ImageNet(_photographs(root / "train", names), _photographs(root / "val", names), names)


def training_image(
    path: Path, size: int, draw: torch.Generator, smallest: float = 0.08, flips: bool = True
) -> Tensor:
    """A random part of a photograph, brought to ``(3, size, size)``, mirrored half of the time, normalised.

    Args:
        path: of the file.
        size: of the result.
        draw: what is random.
        smallest: the least part of the area that is cut out.
        flips: whether half of the images are mirrored.

    Raises:
        DataError: if the file cannot be read.
    """
    picture = _opened(path)
    box = random_box(picture.width, picture.height, draw, smallest)
    x = _resized(picture, size, box, path)
    return x.flip(-1) if flips and torch.rand((), generator=draw) < 0.5 else x


def test_image(path: Path, size: int) -> Tensor:
    """The middle of a photograph, its shorter side scaled to 256 for 224, ``(3, size, size)``, normalised.

    Raises:
        DataError: if the file cannot be read.
    """
    picture = _opened(path)
    side = min(picture.width, picture.height) / RESIZED
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return _resized(picture, size, (left, top, left + side, top + side), path)


def random_box(width: int, height: int, draw: torch.Generator, smallest: float = 0.08) -> Box:
    """A part of an image whose share of the area is uniform and whose sides are in a ratio of 3/4 to 4/3.

    What does not fit into the image is drawn again, ten times, and then the middle is taken.
    """
    for _ in range(ATTEMPTS):
        share, ratio, x, y = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
        area = width * height * (smallest + (1 - smallest) * share)
        aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = x * (width - w), y * (height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * 4 / 3), min(height, width * 4 / 3)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))


def _photographs(folder: Path, names: Sequence[str]) -> Photographs:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in ENDINGS)
        if not found:
            raise bad(folder / name, f"no photographs ({', '.join(ENDINGS)})")
        paths += found
        labels += [label] * len(found)
    return Photographs(paths, torch.tensor(labels))


def _opened(path: Path) -> Image:
    try:
        import PIL.Image
    except ModuleNotFoundError:
        reason, way_out = "Pillow is missing", "pip install pillow"
        raise DataError(complaint("kmatrix recipe", "--data", path, reason, way_out)) from None
    try:
        return PIL.Image.open(path)
    except OSError as error:  # what Pillow does not know is one, too
        raise bad(path, f"unreadable: {error}") from None


def _resized(picture: Image, size: int, box: Box, path: Path) -> Tensor:
    """A part of a photograph brought to a size, its colours normalised."""
    from PIL.Image import Resampling

    try:
        # A photograph of ImageNet may be grey or have four colours.
        small = picture.convert("RGB").resize((size, size), Resampling.BILINEAR, box)
    except OSError as error:
        raise bad(path, f"unreadable: {error}") from None
    x = torch.from_numpy(np.array(small)).float().div_(255)
    return ((x - torch.tensor(MEAN)) / torch.tensor(SPREAD)).movedim(-1, 0)
