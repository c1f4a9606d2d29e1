"""Saving and loading structured matrices: one safetensors file, structure and numbers, no code.

The tensors carry the names of the state dict. The header holds one more string, ``kmatrix``: JSON with the
format version, the version that wrote it, the tree of structures (nested where a matrix is made of others, each
node with its type, fields, shape and dtype), and on request a certificate.
"""

from __future__ import annotations

import io
import json
import math
import numbers
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kmatrix._checks import DTYPES
from kmatrix._errors import ArgumentError, FileFormatError, KMatrixError, complaint
from kmatrix._files import write_atomically
from kmatrix.structures._safetensors import (
    Header,
    Unreadable,
    is_size,
    pack,
    parse_json,
    read_header,
    read_into,
    short,
)
from kmatrix.structures._schema import FAMILIES, decode_structure, encode_fields
from kmatrix.structures.base import Structure, StructuredMatrix
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, SumMatrix, TransposedMatrix
from kmatrix.structures.real_part import RealPartMatrix

FORMAT_VERSION = 1
MAX_CERTIFICATE_BYTES = 2**20
MAX_DEPTH = 64
MAX_NODES = 1024
_KEY = "kmatrix"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
_DESCRIPTION = {"format_version", "kmatrix_version", "matrix"}
# What a node says of a matrix that is made of others, beside its type, shape and dtype.
_NODE_KEYS = {
    "Product": ("parts",),
    "RealPart": ("of",),
    "Scaled": ("of", "scalar"),
    "Sum": ("parts",),
    "Transpose": ("of", "conjugate"),
}
_UPGRADE = "upgrade kmatrix"
_STATE_DICT_INSTEAD = "save its state_dict() instead, and rebuild the matrix in code"


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


def save(matrix: StructuredMatrix, path: str | Path, *, certificate: Mapping[str, Any] | None = None) -> None:
    """Write a matrix to one safetensors file: its structure and its numbers, whole or not at all.

    An existing file is replaced only when the new one is complete. Numbers that parts of a matrix share, as in
    ``A @ A.T``, are written once for each.

    Args:
        matrix: the matrix.
        path: the file to write.
        certificate: plain JSON values to keep beside it, up to one MiB (``Fit.certificate.to_json()``);
            ``describe`` returns them.

    Raises:
        ArgumentError: if the matrix is not of a known structure, the certificate not plain JSON, or the file
            cannot be written.

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
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kmatrix_version": _library_version(),
        "matrix": _encode(matrix, 0),
    }
    if certificate is not None:
        description["certificate"] = _plain_certificate(certificate)
    try:
        text = json.dumps(description, separators=(",", ":"), allow_nan=False)
        content = pack(matrix.state_dict(), {"format": "pt", _KEY: text})
        _check_readable(content, matrix)
    except (Unreadable, ValueError) as error:
        reason = f"cannot be stored: {error}"
        raise ArgumentError(
            complaint("save", "matrix", type(matrix).__name__, reason, _STATE_DICT_INSTEAD)
        ) from None
    write_atomically("save", path, content)


def load(path: str | Path, *, device: torch.device | str | None = None) -> StructuredMatrix:
    """Read a matrix that ``save`` wrote; no code is run, and no more memory taken than the file holds.

    Args:
        path: the file.
        device: where the numbers shall live; the CPU if not given.

    Raises:
        FileFormatError: if the file is damaged, of an unknown version, or not what it claims to be.
        ArgumentError: if it cannot be opened.
    """
    with _opened("load", path) as (file, header):
        node = _description(header)["matrix"]
        # Without numbers first, so that nothing is allocated before the file proves to hold it.
        _check_tensors(_decode(node, header.numel, "meta"), header)
        matrix = _decode(node, header.numel, "cpu")
        for name, out in matrix.state_dict().items():
            read_into(file, header, name, out)
        with _claims():
            for part in matrix.modules():
                if isinstance(part, StructuredMatrix):
                    part.check_state()
    return matrix if device is None else matrix.to(device)


def describe(path: str | Path) -> FileDescription:
    """Say what a saved matrix is, reading nothing but the header of its file.

    Raises:
        FileFormatError: if the file is damaged, of an unknown version, or not what it claims to be.
        ArgumentError: if it cannot be opened.
    """
    with _opened("describe", path) as (_, header):
        description = _description(header)
        matrix = _decode(description["matrix"], header.numel, "meta")
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


def _library_version() -> str:
    try:
        return version("kmatrix")
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def _opened(where: str, path: str | Path) -> Iterator[tuple[BinaryIO, Header]]:
    """The file and its header, with everything that can be wrong with it worded as a typed error."""
    try:
        with Path(path).open("rb") as file:
            yield file, read_header(file, os.fstat(file.fileno()).st_size)
    except Unreadable as problem:
        raise FileFormatError(complaint(where, "path", str(path), problem.reason, problem.way_out)) from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise ArgumentError(
            complaint(where, "path", str(path), reason, "check the name and the permissions")
        ) from error


@contextmanager
def _claims() -> Iterator[None]:
    """Complaints about structures, shapes and indices are here about what the file claims."""
    try:
        yield
    except KMatrixError as error:
        raise Unreadable(f"it claims something impossible: {error}") from None


def _description(header: Header) -> dict[str, Any]:
    """What the header says of the matrix, of a version that we know."""
    if _KEY not in header.metadata:
        raise Unreadable("it holds tensors but no structure")
    description = parse_json(header.metadata[_KEY], "its description")
    if not isinstance(description, dict):
        raise Unreadable(f"its description is {short(description)}")
    written, writer = description.get("format_version"), description.get("kmatrix_version")
    if not isinstance(writer, str) or not is_size(written):
        raise Unreadable(f"its versions are {short(written)} and {short(writer)}")
    if written != FORMAT_VERSION:
        reason = f"kmatrix {short(writer)} wrote it in format {written}, this version reads {FORMAT_VERSION}"
        raise Unreadable(reason, _UPGRADE)
    _check_keys("its description", description, _DESCRIPTION, optional={"certificate"})
    if not isinstance(description.get("certificate", {}), dict):
        raise Unreadable(f"its certificate is {short(description['certificate'])}")
    return description


def _check_keys(what: str, made: dict[str, Any], keys: set[str], optional: Set[str] = frozenset()) -> None:
    """Raise unless an object has the keys it must have, and none that we do not know."""
    if unknown := set(made) - keys - optional:
        raise Unreadable(f"{what} has fields this version does not know: {short(sorted(unknown))}", _UPGRADE)
    if missing := keys - set(made):
        raise Unreadable(f"{what} lacks {', '.join(sorted(missing))}")


def _check_tensors(matrix: StructuredMatrix, header: Header) -> None:
    """Raise unless the file holds exactly the tensors of the matrix."""
    expected = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in matrix.state_dict().items()}
    stored = {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()}
    for name in sorted({*stored, *expected}):
        if stored.get(name) != expected.get(name):
            got, wanted = short(stored.get(name, "absent")), expected.get(name, "none of that name")
            raise Unreadable(f"tensor {short(name)} is {got}, the structure has {wanted}")


def _check_readable(content: bytes, matrix: StructuredMatrix) -> None:
    """Raise unless ``load`` would make a matrix of the same make of what is about to be written."""
    header = read_header(io.BytesIO(content), len(content))
    again = _decode(_description(header)["matrix"], header.numel, "meta")
    _check_tensors(again, header)
    kinds, made = (
        [type(part) for _, part in whole.named_modules(remove_duplicate=False)] for whole in (matrix, again)
    )
    if kinds != made:
        raise Unreadable("its parts are not what its structure makes")


def _encode(matrix: StructuredMatrix, depth: int) -> dict[str, Any]:
    """The node of a matrix in the tree of structures."""
    name = type(matrix.structure).__name__
    node: dict[str, Any] = {
        "type": name,
        "shape": list(matrix.shape),
        "dtype": str(matrix.dtype).removeprefix("torch."),
    }
    if depth > MAX_DEPTH:
        reason = f"nested over {MAX_DEPTH} deep"
        raise ArgumentError(complaint("save", "matrix", name, reason, _STATE_DICT_INSTEAD))
    if isinstance(matrix, ProductMatrix | SumMatrix):
        return node | {"parts": [_encode(part, depth + 1) for part in matrix.members]}
    if isinstance(matrix, TransposedMatrix):
        return node | {"conjugate": matrix.conjugate, "of": _encode(matrix.base, depth + 1)}
    if isinstance(matrix, ScaledMatrix):
        scalar = complex(matrix.structure.scalar)
        return node | {"scalar": [scalar.real, scalar.imag], "of": _encode(matrix.base, depth + 1)}
    if isinstance(matrix, RealPartMatrix):
        return node | {"of": _encode(matrix.of, depth + 1)}
    if FAMILIES.get(name) is not type(matrix.structure):
        reason = "the file format knows only the structures of kmatrix"
        raise ArgumentError(complaint("save", "structure", name, reason, _STATE_DICT_INSTEAD))
    try:
        return node | {"fields": encode_fields(matrix.structure)}
    except ValueError as error:
        raise ArgumentError(complaint("save", "structure", name, str(error), _STATE_DICT_INSTEAD)) from None


def _decode(node: object, numel: int, device: str, depth: int = 0) -> StructuredMatrix:
    """The matrix that a node of the tree stands for, its numbers not set, in a file of ``numel`` numbers."""
    if depth > MAX_DEPTH:
        raise Unreadable(f"its structures are nested over {MAX_DEPTH} deep")
    if depth == 0 and _count_nodes(node) > MAX_NODES:
        raise Unreadable(f"it is made of over {MAX_NODES} parts")
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise Unreadable(f"a structure is described by {short(node)}")
    kind = node["type"]
    _check_keys(short(kind), node, {"type", "shape", "dtype", *_NODE_KEYS.get(kind, ("fields",))})
    shape, dtype = _shape(node["shape"]), _dtype(node["dtype"])
    with _claims():
        if kind in _NODE_KEYS:
            children = node["parts"] if "parts" in node else [node["of"]]
            if not isinstance(children, list) or not children:
                raise Unreadable(f"the parts of a {kind} are {short(children)}")
            matrix = _combined(node, [_decode(child, numel, device, depth + 1) for child in children])
        else:
            structure = decode_structure(kind, node["fields"], shape, numel)
            matrix = _leaf(structure, shape, dtype, numel, device)
    if matrix.shape != shape or matrix.dtype != dtype:
        raise Unreadable(f"a {kind} claims to be {shape} of {dtype}, it is {matrix.shape} of {matrix.dtype}")
    return matrix


def _count_nodes(tree: object) -> int:
    """How many structures a description holds; counted before any is built, as each costs memory of its own."""
    count, waiting = 0, [tree]
    while waiting and count <= MAX_NODES:
        node = waiting.pop()
        if isinstance(node, dict):
            count += 1
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return count


def _leaf(
    structure: Structure, shape: tuple[int, int], dtype: torch.dtype, numel: int, device: str
) -> StructuredMatrix:
    structure.check(*shape)
    count = structure.num_params(*shape)
    if count > numel:
        raise Unreadable(f"a {type(structure).__name__} of shape {shape} has {count} numbers, not {numel}")
    return structure.empty(*shape, dtype=dtype, device=device)


def _combined(node: dict[str, Any], parts: list[StructuredMatrix]) -> StructuredMatrix:
    """The matrix made of others that a node stands for."""
    match node["type"]:
        case "Product":
            return ProductMatrix(parts)
        case "Sum":
            return SumMatrix(parts)
        case "RealPart":
            return RealPartMatrix(parts[0])
        case "Transpose" if isinstance(node["conjugate"], bool):
            return TransposedMatrix(parts[0], node["conjugate"])
        case "Scaled":
            pair = node["scalar"]
            if isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, float) for x in pair):
                return ScaledMatrix(parts[0], complex(*pair))
    raise Unreadable(f"a {node['type']} is described by {short(node)}")


def _shape(sides: object) -> tuple[int, int]:
    if isinstance(sides, list) and len(sides) == 2 and all(is_size(side) and side > 0 for side in sides):
        return sides[0], sides[1]
    raise Unreadable(f"a shape is {short(sides)}")


def _dtype(name: object) -> torch.dtype:
    if isinstance(name, str) and name in _DTYPES:
        return _DTYPES[name]
    raise Unreadable(f"dtype {short(name)} is not one of {', '.join(_DTYPES)}")


def _plain_certificate(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate in plain JSON values: numbers of numpy and tuples become those of Python and lists."""
    if not isinstance(certificate, Mapping):
        way_out = "pass a dict of plain values"
        raise ArgumentError(complaint("save", "certificate", short(certificate), "not a mapping", way_out))
    plain: dict[str, Any] = _plain(certificate, "certificate", 0)
    size = len(json.dumps(plain))
    if size > MAX_CERTIFICATE_BYTES:
        reason = f"longer than {MAX_CERTIFICATE_BYTES} bytes"
        raise ArgumentError(complaint("save", "certificate", f"{size} bytes", reason, "keep less in it"))
    return plain


def _plain(value: object, where: str, depth: int) -> Any:
    if depth <= MAX_DEPTH:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real) and math.isfinite(value):
            return float(value)
        if isinstance(value, list | tuple):
            return [_plain(item, f"{where}[{k}]", depth + 1) for k, item in enumerate(value)]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    way_out = "keep finite numbers, strings, lists and dicts with string keys"
    raise ArgumentError(complaint("save", where, short(value), "not plain JSON", way_out))
