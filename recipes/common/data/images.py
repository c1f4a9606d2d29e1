"""Small images in three parts: training, validation (for choices), test (for what is reported)."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, complaint
from .folder import bad, find, found


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes:
        images: bytes, ``(count, height, width)`` if grey and ``(count, height, width, 3)`` if not.
        labels: int64 ``(count,)``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A data set of images.

    Attributes:
        train: to learn from.
        validation: the last part of the official training set, to choose by.
        test: the official test set.
    """

    train: Split
    validation: Split
    test: Split

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, self.validation, self.test))


def mnist(folder: Path) -> Images:
    """MNIST, 55,000, 5,000 and 10,000 images of 28 x 28, from ``mnist.npz`` or the four idx files, plain or gzip.

    Raises:
        DataError: if they are not there, or not what they should be.
    """
    archive = found(folder, ("mnist.npz",))
    if archive is not None:
        arrays = _npz(archive)
        parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
    else:
        parts = [(_idx(folder, f"{p}-images", 3), _idx(folder, f"{p}-labels", 1)) for p in ("train", "t10k")]
    (x, y), (x_test, y_test) = parts
    if x.shape != (60_000, 28, 28) or x_test.shape != (10_000, 28, 28):
        raise bad(folder, f"MNIST has {x.shape} and {x_test.shape} images")
    return _parted(x, y, x_test, y_test, 5_000)


def sign_digits(folder: Path) -> Images:
    """Ten hand signs, 1,450, 200 and 412 colour images of 64 x 64, from ``signdigits64.npz`` (arrays x_train, ...).

    Raises:
        DataError: if they are not there, or not what they should be.
    """
    path = find(folder, ("signdigits64.npz",), "sign digits")
    arrays = _npz(path)
    x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    if x.shape[1:] != (64, 64, 3) or x_test.shape[1:] != (64, 64, 3):
        raise bad(path, f"images of {x.shape[1:]} and {x_test.shape[1:]}")
    if len(x) != len(y):
        raise bad(path, f"{len(x)} images with {len(y)} labels")
    # They come sorted by class: the last 200 would be of two of the ten alone.
    order = np.random.default_rng(0).permutation(len(x))
    return _parted(x[order], y[order], x_test, y_test, 200)


def cifar10(folder: Path) -> Images:
    """CIFAR-10, 45,000, 5,000 and 10,000 colour images of 32 x 32, from the files of its binary version.

    Raises:
        DataError: if they are not there, or not what they should be; the Python version of the data set holds pickles,
            which are not read.
    """
    if any((f / "data_batch_1").is_file() for f in (folder, *folder.glob("*")) if f.is_dir()):
        reason = "the Python version of CIFAR-10 holds pickles, which could run any code"
        way_out = "get the binary version, cifar-10-binary.tar.gz"
        raise DataError(complaint("kmatrix recipe", "--data", folder, reason, way_out))
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    found = [_cifar_file(find(folder, (name,), "binary CIFAR-10")) for name in names]
    x, y = (np.concatenate([part[k] for part in found[:5]]) for k in range(2))
    return _parted(x, y, *found[5], 5_000)


def _cifar_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if raw.size != 10_000 * 3_073:
        raise bad(path, f"{raw.size} bytes and not {10_000 * 3_073}")
    records = raw.reshape(10_000, 3_073)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise bad(path, f"unreadable: {error}") from None


def _idx(folder: Path, stem: str, dims: int) -> np.ndarray:
    """An array of bytes in the format of the original MNIST files."""
    names = [f"{stem}{dot}idx{dims}-ubyte{end}" for end in ("", ".gz") for dot in ("-", ".")]
    path = find(folder, ["mnist.npz", *names], "MNIST")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind, *shape = struct.unpack(f">{1 + dims}I", raw[: 4 * (1 + dims)])
    except (OSError, EOFError, struct.error) as error:
        raise bad(path, f"unreadable: {error}") from None
    numbers = np.frombuffer(raw, dtype=np.uint8, offset=4 * (1 + dims))
    if kind != 0x800 + dims or numbers.size != np.prod(shape):
        raise bad(path, f"no idx file of {dims} dimensions, or cut short")
    return numbers.reshape(shape)


def _parted(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, last: int) -> Images:
    x, x_test = np.ascontiguousarray(x, dtype=np.uint8), np.ascontiguousarray(x_test, dtype=np.uint8)
    images, labels = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
    test = Split(torch.from_numpy(x_test), torch.from_numpy(y_test.astype(np.int64)))
    if len(images) != len(labels) or len(test.images) != len(test.labels):
        reason = f"{len(images)} images with {len(labels)} labels"
        raise DataError(complaint("kmatrix recipe", "--data", "", reason, "get a fresh copy"))
    return Images(Split(images[:-last], labels[:-last]), Split(images[-last:], labels[-last:]), test)
