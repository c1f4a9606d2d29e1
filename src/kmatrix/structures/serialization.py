"""Saving and loading structured matrices: one safetensors file, structure and numbers, no code.

The tensors carry the names of the state dict. The header holds one more string, ``kmatrix``: JSON with the
format version, the version that wrote it, the tree of structures (nested where a matrix is made of others, each
node with its type, fields, shape and dtype), and on request a certificate.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kmatrix._checks import check_path
from kmatrix._errors import ArgumentError, FileFormatError, complaint
from kmatrix._files import write_atomically
from kmatrix.structures._plain import SupportsJson, plain_certificate
from kmatrix.structures._safetensors import (
    Header,
    Unreadable,
    pack,
    parse_json,
    read_header,
    read_into,
    short,
)
from kmatrix.structures._schema import Families, families_with
from kmatrix.structures._tree import (
    NODE_KEYS,
    STATE_DICT_INSTEAD,
    check_description,
    claims,
    decode,
    encode,
)
from kmatrix.structures.base import Structure, StructuredMatrix

FORMAT_VERSION = 1
_KEY = "kmatrix"
_DESCRIPTION = {"format_version", "kmatrix_version", "matrix"}
# What reads the folders of whole models, in a room above this one.
_OF_MODEL = {"load": "km.load_model(build, path)", "describe": "kmatrix.compress.describe_model(path)"}


@dataclass(frozen=True)
class FileDescription:
    """What a saved matrix is, from the header of its file alone.

    Attributes:
        shape: ``(m, n)``.
        structure: the class of matrices it belongs to.
        dtype: its number type.
        num_params: how many numbers it holds.
        flops: operations to multiply one vector.
        file_bytes: size of the file.
        format_version: version of the file format.
        kmatrix_version: version of the library that wrote it.
        certificate: what ``save`` was given to keep beside the matrix.
    """

    shape: tuple[int, int]
    structure: Structure
    dtype: torch.dtype
    num_params: int
    flops: int
    file_bytes: int
    format_version: int
    kmatrix_version: str
    certificate: dict[str, Any] | None


def save(
    matrix: StructuredMatrix,
    path: str | Path,
    *,
    certificate: Mapping[str, Any] | SupportsJson | None = None,
) -> None:
    """Write a matrix to one safetensors file: its structure and its numbers, whole or not at all.

    An existing file is replaced only when the new one is complete. Numbers that parts of a matrix share, as in
    ``A @ A.T``, are written once for each. A structure class of your own is saved by its name and fields; ``load``
    then needs the class.

    Args:
        matrix: the matrix.
        path: the file to write.
        certificate: what to keep beside it, up to one MiB: a ``Certificate``, or plain JSON values; ``describe``
            returns the values.

    Raises:
        ArgumentError: if the structure of the matrix has no plain form, the certificate is not plain JSON, or the
            file cannot be written.
        DtypeError: if ``path`` is not the name of a file.

    Example:
        >>> import tempfile
        >>> from kmatrix.structures import Butterfly
        >>> from kmatrix.structures.serialization import load, save
        >>> A = Butterfly().random(6, 10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(A, f"{folder}/A.safetensors")
        ...     B = load(f"{folder}/A.safetensors")
        >>> B.structure, bool((A.to_dense() == B.to_dense()).all())
        (Butterfly(radices=None, ranks=1), True)
    """
    if not isinstance(matrix, StructuredMatrix):
        way_out = "pass a StructuredMatrix; save other modules by their state_dict()"
        reason = "not a structured matrix"
        raise ArgumentError(complaint("save", "matrix", type(matrix).__name__, reason, way_out))
    own: list[type[Structure]] = []
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kmatrix_version": library_version(),
        "matrix": encode(matrix, own),
    }
    families = families_with("save", own, NODE_KEYS)
    if certificate is not None:
        description["certificate"] = plain_certificate(certificate)
    try:
        text = json.dumps(description, separators=(",", ":"), allow_nan=False)
        content = pack(matrix.state_dict(), {"format": "pt", _KEY: text})
        _check_readable(content, matrix, families)
    except (Unreadable, ValueError) as error:
        reason = f"cannot be stored: {error}"
        raise ArgumentError(
            complaint("save", "matrix", type(matrix).__name__, reason, STATE_DICT_INSTEAD)
        ) from None
    write_atomically("save", path, content)


def load(
    path: str | Path,
    *,
    device: torch.device | str | None = None,
    structures: Iterable[type[Structure]] = (),
) -> StructuredMatrix:
    """Read a matrix that ``save`` wrote; no code is run, and no more memory taken than the file holds.

    Args:
        path: the file.
        device: where the numbers shall live; the CPU if not given.
        structures: structure classes of your own that the file may name beside those of kmatrix. They are asked
            for members of whatever shape the file says.

    Raises:
        FileFormatError: if the file is damaged, of an unknown version, or not what it claims to be.
        ArgumentError: if it cannot be opened, or one of ``structures`` is not usable.
        DtypeError: if ``path`` is not the name of a file.

    Example:
        >>> import tempfile
        >>> from dataclasses import dataclass
        >>> from kmatrix.structures import Factor
        >>> from kmatrix.structures.chain import ChainStructure, Layout
        >>> from kmatrix.structures.serialization import load, save
        >>> @dataclass(frozen=True)
        ... class Stretched(ChainStructure):
        ...     times: int
        ...
        ...     def layout(self, m, n):
        ...         return Layout((Factor(1, self.times, 1, n),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Stretched(3).random(6, 2), f"{folder}/A.safetensors")
        ...     load(f"{folder}/A.safetensors", structures=[Stretched]).structure
        Stretched(times=3)
    """
    families = families_with("load", structures, NODE_KEYS)
    with _opened("load", path) as (file, header):
        node = _description(header)["matrix"]
        # Without numbers first, so that nothing is allocated before the file proves to hold it.
        _check_tensors(decode(node, header.numel, "meta", families), header)
        matrix = decode(node, header.numel, "cpu", families)
        for name, out in matrix.state_dict().items():
            read_into(file, header, name, out)
        with claims():
            for part in matrix.modules():
                if isinstance(part, StructuredMatrix):
                    part.check_state()
    return matrix if device is None else matrix.to(device)


def describe(path: str | Path, *, structures: Iterable[type[Structure]] = ()) -> FileDescription:
    """Say what a saved matrix is, reading nothing but the header of its file.

    Args:
        path: the file.
        structures: as for ``load``.

    Raises:
        FileFormatError: if the file is damaged, of an unknown version, or not what it claims to be.
        ArgumentError: if it cannot be opened, or one of ``structures`` is not usable.
        DtypeError: if ``path`` is not the name of a file.
    """
    families = families_with("describe", structures, NODE_KEYS)
    with _opened("describe", path) as (_, header):
        description = _description(header)
        matrix = decode(description["matrix"], header.numel, "meta", families)
        _check_tensors(matrix, header)
        return FileDescription(
            matrix.shape,
            matrix.structure,
            matrix.dtype,
            matrix.num_params,
            matrix.flops,
            header.file_bytes,
            description["format_version"],
            description["kmatrix_version"],
            description.get("certificate"),
        )


def library_version() -> str:
    """Version of the library that runs, for files to name."""
    try:
        return version("kmatrix")
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def _opened(where: str, path: str | Path) -> Iterator[tuple[BinaryIO, Header]]:
    """The file and its header, with everything that can be wrong with it worded as a typed error."""
    path = check_path(where, "path", path)
    try:
        with path.open("rb") as file:
            yield file, read_header(file, os.fstat(file.fileno()).st_size)
    except Unreadable as problem:
        raise FileFormatError(complaint(where, "path", str(path), problem.reason, problem.way_out)) from None
    except OSError as error:
        reason, way_out = f"cannot be read: {error.strerror or error}", "check the name and the permissions"
        if path.is_dir():
            reason, way_out = (
                "a folder",
                f"pass the file of a matrix, or use {_OF_MODEL[where]} for a model",
            )
            if (path / "structure.json").is_file():
                reason, way_out = "a folder of a whole model", f"use {_OF_MODEL[where]}"
        raise ArgumentError(complaint(where, "path", str(path), reason, way_out)) from error


def _description(header: Header) -> dict[str, Any]:
    """What the header says of the matrix, of a version that we know."""
    if _KEY not in header.metadata:
        raise Unreadable("it holds tensors but no structure")
    description = parse_json(header.metadata[_KEY], "its description")
    return check_description("its description", description, _DESCRIPTION, FORMAT_VERSION)


def _check_tensors(matrix: StructuredMatrix, header: Header) -> None:
    """Raise unless the file holds exactly the tensors of the matrix."""
    expected = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in matrix.state_dict().items()}
    stored = {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()}
    for name in sorted({*stored, *expected}):
        if stored.get(name) != expected.get(name):
            got, wanted = short(stored.get(name, "absent")), expected.get(name, "none of that name")
            raise Unreadable(f"tensor {short(name)} is {got}, the structure has {wanted}")


def _check_readable(content: bytes, matrix: StructuredMatrix, families: Families) -> None:
    """Raise unless ``load`` would make a matrix of the same make of what is about to be written."""
    header = read_header(io.BytesIO(content), len(content))
    again = decode(_description(header)["matrix"], header.numel, "meta", families)
    _check_tensors(again, header)
    kinds, made = (
        [type(part) for _, part in whole.named_modules(remove_duplicate=False)] for whole in (matrix, again)
    )
    if kinds != made:
        raise Unreadable("its parts are not what its structure makes")
