"""The safetensors container: named tensors and strings in one file, read with every size checked before use.

A file is eight bytes of header length, a JSON header, and the numbers. Nothing here knows about structures.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_HEADER_BYTES = 16 * 2**20
MAX_AXES = 8
MAX_SIZE = 2**53
OTHERS = {b"\x93NUMPY": "an .npy file", b"PK\x03\x04": "a zip archive, as .npz and .pt are"}
DAMAGED = "use a file that km.save wrote, whole"

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class Unreadable(Exception):
    """What is wrong with a file, and the way out; the caller words it as a ``FileFormatError``."""

    def __init__(self, reason: str, way_out: str = DAMAGED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.way_out = way_out


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in the file: bytes ``begin`` to ``end`` of the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file holds: its tensors, its strings, and its size in bytes."""

    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]
    data_start: int
    file_bytes: int

    @property
    def numel(self) -> int:
        """How many numbers the file holds: the measure of everything that is built from it."""
        return sum(stored.numel for stored in self.tensors.values())


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file; the same tensors and strings always give the same bytes.

    Raises:
        ValueError: if a tensor is of a type that is not stored, has no numbers, or the header grows too long.
    """
    return b"".join(packed(tensors, metadata))


def packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The bytes of a file in pieces, those of tensors on the CPU not copied; otherwise as ``pack``."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    pieces: list[bytes | memoryview] = []
    begin = 0
    for name, raw in raw_bytes(tensors):
        tensor = tensors[name]
        offsets = [begin, begin + raw.nbytes]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        pieces.append(raw)
        begin += raw.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"its description takes {len(text)} bytes, more than {MAX_HEADER_BYTES}")
    return [len(text).to_bytes(8, "little"), text, *pieces]


def raw_bytes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, memoryview]]:
    """The tensors in the order of the file, as bytes.

    Raises:
        ValueError: as ``pack``.
    """
    # Wide numbers first keeps every tensor aligned, for readers that map the file.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name} is {tensor.dtype}, which is not stored")
        if tensor.is_meta:
            raise ValueError(f"{name} has no numbers, it is on the meta device")
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        yield name, plain.reshape(-1).view(torch.uint8).numpy().data


def read_header(file: BinaryIO, size: int) -> Header:
    """Read and check the header of a file of ``size`` bytes.

    Raises:
        Unreadable: if anything in it is not as ``pack`` writes it.
    """
    prefix = file.read(8)
    for magic, kind in OTHERS.items():
        if prefix.startswith(magic):
            raise Unreadable(f"{kind}, not a safetensors file")
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise Unreadable(f"{size} bytes are too few for a safetensors file")
    if length > MAX_HEADER_BYTES:
        raise Unreadable(f"its header of {length} bytes is longer than {MAX_HEADER_BYTES}")
    header = parse_json(file.read(length), "the header")
    if not isinstance(header, dict):
        raise Unreadable("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Unreadable("its metadata are not strings")
    tensors = {name: _stored(name, entry) for name, entry in header.items()}
    _check_offsets(tensors, size - 8 - length)
    return Header(tensors, metadata, 8 + length, size)


def read_into(file: BinaryIO, header: Header, name: str, out: Tensor) -> None:
    """Read the numbers of a tensor into ``out``, a contiguous CPU tensor of its shape and dtype."""
    stored = header.tensors[name]
    if not stored.numel:
        return
    file.seek(header.data_start + stored.begin)
    target = out.detach().reshape(-1).view(torch.uint8).numpy().data
    while target:
        # A raw read may give less than was asked for.
        count = file.readinto(target)  # type: ignore[attr-defined]
        if not count:
            raise Unreadable(f"it ends within {short(name)}")
        target = target[count:]
    if stored.dtype == torch.bool and bool((out.detach().view(torch.uint8) > 1).any()):
        raise Unreadable(f"tensor {short(name)} holds bytes that are no truth values")


def parse_json(text: bytes | str, what: str) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN, nothing that overflows or nests without end.

    Raises:
        Unreadable: if it is not.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{what} is not JSON: {short(str(error))}") from None


def short(value: object, most: int = 80) -> str:
    """A printable rendering of something a file says, however long or odd it is."""
    # Not repr, which would render all of a list of a million items.
    text = reprlib.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= most else text[: most - 3] + "..."


def is_size(value: object, most: int = MAX_SIZE) -> bool:
    """Whether a JSON value is a whole number from 0 to ``most`` (and not a truth value)."""
    return type(value) is int and 0 <= value <= most


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _stored(name: str, entry: object) -> Stored:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Unreadable(f"tensor {short(name)} is described by {short(entry)}")
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise Unreadable(f"tensor {short(name)} has dtype {short(dtype)}, not one of {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(map(is_size, shape)):
        raise Unreadable(f"tensor {short(name)} has shape {short(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_size, offsets)):
        raise Unreadable(f"tensor {short(name)} has offsets {short(offsets)}")
    stored = Stored(_DTYPES[dtype], tuple(shape), *offsets)
    if stored.numel * stored.dtype.itemsize != stored.end - stored.begin:
        raise Unreadable(f"tensor {short(name)} of shape {shape} does not fill bytes {offsets}")
    return stored


def _check_offsets(tensors: Mapping[str, Stored], data_bytes: int) -> None:
    """The tensors must cover the data without holes, overlaps or bytes left over."""
    end = 0
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if stored.begin != end:
            raise Unreadable(f"tensor {short(name)} starts at byte {stored.begin} of the data, not {end}")
        end = stored.end
    if end != data_bytes:
        raise Unreadable(f"its tensors take {end} bytes and it holds {data_bytes}")
