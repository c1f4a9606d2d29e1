"""Matrices as trees of plain JSON and back: one node for each structure, nested where a matrix is made of others."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch

from kmatrix._checks import DTYPES
from kmatrix._errors import ArgumentError, KMatrixError, complaint
from kmatrix.structures._plain import MAX_DEPTH
from kmatrix.structures._safetensors import Unreadable, is_size, short
from kmatrix.structures._schema import FAMILIES, Families, decode_structure, encode_fields, families_with
from kmatrix.structures.base import Structure, StructuredMatrix
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, SumMatrix, TransposedMatrix
from kmatrix.structures.grouped import GroupedMatrix
from kmatrix.structures.real_part import RealPartMatrix

MAX_NODES = 1024
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
# What a node says of a matrix that is made of others, beside its type, shape and dtype.
NODE_KEYS = {
    "Grouped": ("parts",),
    "Product": ("parts",),
    "RealPart": ("of",),
    "Scaled": ("of", "scalar"),
    "Sum": ("parts",),
    "Transpose": ("of", "conjugate"),
}
UPGRADE = "upgrade kmatrix"
STATE_DICT_INSTEAD = "save its state_dict() instead, and rebuild the matrix in code"


@contextmanager
def claims() -> Iterator[None]:
    """Complaints about structures, shapes and indices are here about what the file claims."""
    try:
        yield
    except KMatrixError as error:
        raise Unreadable(f"it claims something impossible: {error}") from None


def check_keys(what: str, made: dict[str, Any], keys: set[str], optional: Set[str] = frozenset()) -> None:
    """Raise unless an object has the keys it must have, and none that we do not know."""
    if unknown := set(made) - keys - optional:
        raise Unreadable(f"{what} has fields this version does not know: {short(sorted(unknown))}", UPGRADE)
    if missing := keys - set(made):
        raise Unreadable(f"{what} lacks {', '.join(sorted(missing))}")


def check_description(what: str, description: Any, keys: set[str], version: int) -> dict[str, Any]:
    """Return what a file says of itself, or raise unless this version of the library reads its format."""
    if not isinstance(description, dict):
        raise Unreadable(f"{what} is {short(description)}")
    written, writer = description.get("format_version"), description.get("kmatrix_version")
    if not isinstance(writer, str) or not is_size(written):
        raise Unreadable(f"its versions are {short(written)} and {short(writer)}")
    if written != version:
        reason = f"kmatrix {short(writer)} wrote it in format {written}, this version reads {version}"
        raise Unreadable(reason, UPGRADE)
    check_keys(what, description, keys, optional={"certificate"})
    if not isinstance(description.get("certificate", {}), dict):
        raise Unreadable(f"its certificate is {short(description['certificate'])}")
    return description


def encode(matrix: StructuredMatrix, own: list[type[Structure]], depth: int = 0) -> dict[str, Any]:
    """The node of a matrix in the tree of structures; classes that are not of kmatrix are added to ``own``."""
    name = type(matrix.structure).__name__
    node: dict[str, Any] = {
        "type": name,
        "shape": list(matrix.shape),
        "dtype": str(matrix.dtype).removeprefix("torch."),
    }
    if depth > MAX_DEPTH:
        reason = f"nested over {MAX_DEPTH} deep"
        raise ArgumentError(complaint("save", "matrix", name, reason, STATE_DICT_INSTEAD))
    if isinstance(matrix, ProductMatrix | SumMatrix | GroupedMatrix):
        return node | {"parts": [encode(part, own, depth + 1) for part in matrix.members]}
    if isinstance(matrix, TransposedMatrix):
        return node | {"conjugate": matrix.conjugate, "of": encode(matrix.base, own, depth + 1)}
    if isinstance(matrix, ScaledMatrix):
        scalar = complex(matrix.structure.scalar)
        return node | {"scalar": [scalar.real, scalar.imag], "of": encode(matrix.base, own, depth + 1)}
    if isinstance(matrix, RealPartMatrix):
        return node | {"of": encode(matrix.of, own, depth + 1)}
    kind = type(matrix.structure)
    if FAMILIES.get(name) is not kind:
        families_with("save", [kind], NODE_KEYS)
        own.append(kind)
    try:
        return node | {"fields": encode_fields(matrix.structure)}
    except ValueError as error:
        raise ArgumentError(complaint("save", "structure", name, str(error), STATE_DICT_INSTEAD)) from None


def decode(node: object, numel: int, device: str, families: Families, depth: int = 0) -> StructuredMatrix:
    """The matrix that a node of the tree stands for, its numbers not set, in a file of ``numel`` numbers."""
    if depth > MAX_DEPTH:
        raise Unreadable(f"its structures are nested over {MAX_DEPTH} deep")
    if depth == 0 and _count_nodes(node) > MAX_NODES:
        raise Unreadable(f"it is made of over {MAX_NODES} parts")
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise Unreadable(f"a structure is described by {short(node)}")
    kind = node["type"]
    check_keys(short(kind), node, {"type", "shape", "dtype", *NODE_KEYS.get(kind, ("fields",))})
    shape, dtype = _shape(node["shape"]), _dtype(node["dtype"])
    with claims():
        if kind in NODE_KEYS:
            children = node["parts"] if "parts" in node else [node["of"]]
            if not isinstance(children, list) or not children:
                raise Unreadable(f"the parts of a {kind} are {short(children)}")
            matrix = _combined(
                node, [decode(child, numel, device, families, depth + 1) for child in children]
            )
        else:
            structure = decode_structure(families, kind, node["fields"], shape, numel)
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
        case "Grouped":
            return GroupedMatrix(parts)
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
