"""Arrays in files, of which nothing is believed before it is checked: ``.npy``, ``.npz`` and ``.safetensors``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from torch import Tensor

from kmatrix._errors import ArgumentError, FileFormatError, KMatrixError, complaint

# 2**27 numbers are 1 GiB in float64: an operator or file above this is refused before anything is allocated.
MAX_NUMBERS = 2**27

CheckShape = Callable[[tuple[int, ...], str], None]
"""Raises for a shape, of the source that is named, that is no matrix to fit."""


def read_file(path: Path, name: str | None, check_shape: CheckShape) -> npt.NDArray[Any] | Tensor:
    """The array in a file, by the suffix of the file; the shape is checked before memory is spent on it.

    Raises:
        ArgumentError: if there is no such file or array, or ``check_shape`` says so.
        FileFormatError: if the file cannot be read as what its suffix says.
    """
    readers: dict[str, Callable[[Path, str | None, CheckShape], npt.NDArray[Any] | Tensor]]
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        way_out = "save it as .npy, .npz or .safetensors"
        raise FileFormatError(complaint("fit", "target", path, f"unknown suffix {path.suffix!r}", way_out))
    if not path.is_file():
        raise ArgumentError(complaint("fit", "target", path, "no such file", "check the path"))
    try:
        return readers[path.suffix](path, name, check_shape)
    except KMatrixError:
        raise
    except Exception as error:  # numpy, zipfile and tokenize raise almost anything on a damaged file
        reason = f"cannot be read: {error}"
        raise FileFormatError(complaint("fit", "target", path, reason, "save the matrix again")) from error


def _read_npy(path: Path, name: str | None, check_shape: CheckShape) -> npt.NDArray[Any]:
    if name is not None:
        raise ArgumentError(
            complaint("fit", "name", repr(name), "a .npy file holds one array", "leave it out")
        )
    with path.open("rb") as file:
        _check_npy(path, file, path.stat().st_size, path.name, check_shape)
    return np.asarray(np.load(path, allow_pickle=False))


def _check_npy(path: Path, file: IO[bytes], size: int, source: str, check_shape: CheckShape) -> None:
    """Read the header alone, so that a hostile shape or a cut file is seen before memory is spent."""

    def refuse(reason: str, way_out: str = "save it with numpy.save") -> FileFormatError:
        return FileFormatError(complaint("fit", "target", path, reason, way_out))

    what = "" if source == path.name else f"{source}: "
    if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        raise refuse(f"{what}not an .npy file")
    version = tuple(file.read(2))
    # Versions 2 and 3 differ in the letters that the names of fields may have, and matrices have no fields.
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise refuse(f"{what}an .npy file of unknown version {version}")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise refuse(f"{what}holds pickled objects, which are never loaded", "save an array of numbers")
    check_shape(shape, source)
    promised, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if promised != held:
        way_out = "save it again, one array to a file"
        raise refuse(f"{what}its header promises {promised:,} bytes, the file holds {held:,}", way_out)


def _choose(path: Path, names: list[str], name: str | None) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        shown = ", ".join(sorted(names)[:8]) or "none"
        raise ArgumentError(
            complaint("fit", "name", name, f"{path.name} holds: {shown}", "name one of these")
        )
    return name


def _read_npz(path: Path, name: str | None, check_shape: CheckShape) -> npt.NDArray[Any]:
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = _choose(path, list(members), name)
            # 16 bytes a number: the claim of the archive, checked before numpy believes it.
            if members[chosen].file_size > 16 * MAX_NUMBERS + 4096:
                raise ArgumentError(
                    complaint("fit", "target", path, f"{chosen} claims too many bytes", "fit it in blocks")
                )
            with archive.open(members[chosen]) as member:
                size = members[chosen].file_size
                _check_npy(path, member, size, f"{path.name}[{chosen}]", check_shape)
        with np.load(path, allow_pickle=False) as archive_arrays:
            return np.asarray(archive_arrays[chosen])
    except BadZipFile as error:
        raise FileFormatError(
            complaint("fit", "target", path, f"not an .npz archive: {error}", "save it again")
        ) from error


def _read_safetensors(path: Path, name: str | None, check_shape: CheckShape) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as archive:
            chosen = _choose(path, list(archive.keys()), name)
            check_shape(tuple(archive.get_slice(chosen).get_shape()), f"{path.name}[{chosen}]")
            tensor: Tensor = archive.get_tensor(chosen)
            return tensor
    except SafetensorError as error:
        raise FileFormatError(
            complaint("fit", "target", path, f"not a safetensors file: {error}", "save it again")
        ) from error
