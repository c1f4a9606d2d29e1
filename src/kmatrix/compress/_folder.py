"""The folder of a saved model: ``model.safetensors`` with the numbers, ``structure.json`` with what they belong to.

The two name each other by a digest of the numbers, so that files of two different saves are not taken for a pair.
Nothing here knows about modules beyond their names; whatever is read is checked before anything is made of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from kmatrix._checks import check_path
from kmatrix._errors import ArgumentError, FileFormatError, complaint
from kmatrix._files import write_together
from kmatrix.structures._safetensors import (
    MAX_HEADER_BYTES,
    Header,
    Unreadable,
    packed,
    parse_json,
    raw_bytes,
    read_header,
    short,
)
from kmatrix.structures._tree import UPGRADE, check_description, check_keys

FORMAT_VERSION = 1
NUMBERS, STRUCTURE = "model.safetensors", "structure.json"
MAX_LAYERS = 2**16
_DESCRIPTION = {"format_version", "kmatrix_version", "digest", "layers", "aliases"}
_COMMON = {"names", "kind"}
# What the description says of a layer, beside its names and kind.
LAYER_KEYS = {
    "linear": {"matrix", "bias"},
    "conv2d": {"matrix", "bias", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"},
    "embedding": {"matrix", "padding_idx"},
    "matrix": {"matrix"},
    "attention": set[str](),
}


@dataclass(frozen=True)
class Folder:
    """What the files of a folder say, checked in itself.

    Attributes:
        layers: one description for each structured layer.
        aliases: names of tensors that share the numbers of another one, and its name.
        header: what is in the file of numbers.
        kmatrix_version: version of the library that wrote it.
        certificate: what was kept beside it.
        file: the open file of numbers.
    """

    layers: tuple[dict[str, Any], ...]
    aliases: Mapping[str, str]
    header: Header
    kmatrix_version: str
    certificate: dict[str, Any] | None
    file: BinaryIO

    def stored(self, name: str) -> str | None:
        """The name under which the numbers of a tensor lie in the file; None if they do not."""
        name = self.aliases.get(name, name)
        return name if name in self.header.tensors else None


def write_folder(path: Path, tensors: Mapping[str, Tensor], description: dict[str, Any]) -> None:
    """Write both files, or leave what was there.

    Raises:
        ArgumentError: if the folder cannot be made or written.
        ValueError: if a tensor cannot be stored, or the description grows too long.
    """
    digest = hashlib.sha256()
    for name, raw in raw_bytes(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(raw)
    written = {**description, "format_version": FORMAT_VERSION, "digest": digest.hexdigest()}
    text = json.dumps(written, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"its description takes {len(text)} bytes, more than {MAX_HEADER_BYTES}")
    numbers = packed(tensors, {"format": "pt", "kmatrix_digest": digest.hexdigest()})
    made = _make_folder(path)
    try:
        write_together("save", {path / NUMBERS: numbers, path / STRUCTURE: [text]})
    except BaseException:
        if made:
            path.rmdir()
        raise


def _make_folder(path: Path) -> bool:
    """Make the folder if there is none; whether that was so."""
    if path.is_dir():
        return False
    try:
        path.mkdir()
    except OSError as error:
        reason = f"no folder can be made there: {error.strerror or error}"
        raise ArgumentError(
            complaint("save", "path", path, reason, "pass the name of a folder, for a model is two files")
        ) from error
    return True


@contextmanager
def opened_folder(where: str, path: str | Path) -> Iterator[Folder]:
    """Read the description and the header of a folder, with all that can be wrong worded as a typed error."""
    folder = check_path(where, "path", path)
    try:
        description = _description(folder / STRUCTURE)
        with (folder / NUMBERS).open("rb") as file:
            header = read_header(file, os.fstat(file.fileno()).st_size)
            if header.metadata.get("kmatrix_digest") != description["digest"]:
                way_out = (
                    "save again; this is what a save leaves that was stopped half way, or two mixed ones"
                )
                raise Unreadable(f"{NUMBERS} and {STRUCTURE} are not of one save", way_out)
            aliases = _aliases(description["aliases"], header)
            layers = _layers(description["layers"])
            yield Folder(
                layers,
                aliases,
                header,
                description["kmatrix_version"],
                description.get("certificate"),
                file,
            )
    except Unreadable as problem:
        way_out = problem.way_out.replace("a file", "a folder").replace("km.load(path,", _again(where))
        raise FileFormatError(complaint(where, "path", str(path), problem.reason, way_out)) from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        way_out = f"pass a folder with {NUMBERS} and {STRUCTURE}"
        raise ArgumentError(complaint(where, "path", str(path), reason, way_out)) from error


def _again(where: str) -> str:
    """The call that could read it, up to the argument after the path."""
    return "km.load_model(build, path," if where == "load_model" else f"kmatrix.compress.{where}(path,"


def _description(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_HEADER_BYTES:
            raise Unreadable(f"{STRUCTURE} of {size} bytes is longer than {MAX_HEADER_BYTES}")
        description = parse_json(file.read(size), STRUCTURE)
    return check_description(STRUCTURE, description, _DESCRIPTION, FORMAT_VERSION)


def _aliases(claimed: object, header: Header) -> dict[str, str]:
    if not isinstance(claimed, dict) or len(claimed) > MAX_LAYERS:
        raise Unreadable(f"its aliases are {short(claimed)}")
    for name, of in claimed.items():
        if not isinstance(of, str) or of not in header.tensors or name in header.tensors:
            raise Unreadable(f"tensor {short(name)} is an alias of {short(of)}")
    return claimed


def _layers(claimed: object) -> tuple[dict[str, Any], ...]:
    if not isinstance(claimed, list) or len(claimed) > MAX_LAYERS:
        raise Unreadable(f"its layers are {short(claimed)}")
    seen: set[str] = set()
    for layer in claimed:
        kind = layer.get("kind") if isinstance(layer, dict) else None
        if not isinstance(kind, str) or kind not in LAYER_KEYS:
            raise Unreadable(f"a layer is described by {short(layer)}", UPGRADE)
        check_keys(f"a {kind} layer", layer, _COMMON | LAYER_KEYS[kind])
        names = layer["names"]
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise Unreadable(f"the names of a layer are {short(names)}")
        if len(set(names)) < len(names) or seen & set(names):
            raise Unreadable(f"two layers have a name of {short(names)}")
        seen.update(names)
    return tuple(claimed)
