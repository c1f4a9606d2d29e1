"""Structures as plain JSON and back: the table of families a file may name, and the types of their fields.

Whatever is read is checked against the type hints of the family; nothing is imported or evaluated by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import operator
import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kmatrix.structures._safetensors import MAX_SIZE, Unreadable, is_size, short
from kmatrix.structures.acdc import ACDC, AFDF
from kmatrix.structures.base import Structure
from kmatrix.structures.blocks import (
    BLAST,
    BlockDiagonal,
    BlockLowRank,
    BlockTensorTrain,
    Dense,
    Diagonal,
    LowRank,
)
from kmatrix.structures.bp import BPBP, FixedBPBP
from kmatrix.structures.butterfly import Butterfly
from kmatrix.structures.chain import Chain, Factor, Permute
from kmatrix.structures.circulant import BlockCirculant, Circulant
from kmatrix.structures.fastfood import Fastfood
from kmatrix.structures.kaleidoscope import Kaleidoscope
from kmatrix.structures.kronecker import Kronecker
from kmatrix.structures.monarch import GroupShuffle, Monarch
from kmatrix.structures.orthogonal import OBB, OrthogonalButterfly
from kmatrix.structures.permutation import BPPermutation, Permutation
from kmatrix.structures.sparse import Sparse
from kmatrix.structures.toeplitz import Hankel, Toeplitz

FAMILIES: dict[str, type[Structure]] = {
    "ACDC": ACDC,
    "AFDF": AFDF,
    "BLAST": BLAST,
    "BPBP": BPBP,
    "BPPermutation": BPPermutation,
    "BlockCirculant": BlockCirculant,
    "BlockDiagonal": BlockDiagonal,
    "BlockLowRank": BlockLowRank,
    "BlockTensorTrain": BlockTensorTrain,
    "Butterfly": Butterfly,
    "Chain": Chain,
    "Circulant": Circulant,
    "Dense": Dense,
    "Diagonal": Diagonal,
    "Fastfood": Fastfood,
    "FixedBPBP": FixedBPBP,
    "GroupShuffle": GroupShuffle,
    "Hankel": Hankel,
    "Kaleidoscope": Kaleidoscope,
    "Kronecker": Kronecker,
    "LowRank": LowRank,
    "Monarch": Monarch,
    "OBB": OBB,
    "OrthogonalButterfly": OrthogonalButterfly,
    "Permutation": Permutation,
    "Sparse": Sparse,
    "Toeplitz": Toeplitz,
}
_STAGES: dict[str, type[Factor | Permute]] = {"Factor": Factor, "Permute": Permute}

# Everywhere else a member stores at least as many numbers as it has rows, as it has columns, and as any whole
# number among its fields says (but for depths of a few), Kronecker products as the roots of these. That bounds
# what a file can make us compute before its tensors are compared with what the structure needs.
_MAY_STORE_FEW = (BPPermutation, Chain, Diagonal, Sparse)
_MAY_EXCEED = ("Butterfly.ranks",)  # without a second factor there is no gap for the ranks
_SMALL = 64
# Radices multiply up, so long lists of them make numbers of many thousand digits.
MAX_STAGES, MAX_ITEMS = 2**16, 2**10


def encode_fields(item: Any) -> dict[str, Any]:
    """The fields of a structure or stage as JSON values.

    Raises:
        ValueError: if a field is of a type that no family has.
    """
    return {field.name: _encode(getattr(item, field.name)) for field in dataclasses.fields(item)}


def decode_structure(name: object, fields: object, shape: tuple[int, int], numel: int) -> Structure:
    """The structure of a matrix of the given shape, in a file that holds ``numel`` numbers.

    A field that the file lacks takes its default, so that families can gain fields.

    Raises:
        Unreadable: if the family or a field is not known, or a value is not of its type or too large.
    """
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise Unreadable(f"structure {short(name)} is not known to this version", "upgrade kmatrix")
    most = MAX_SIZE if family in _MAY_STORE_FEW else numel + _SMALL
    if max(shape) > (most**2 if family is Kronecker else most):
        raise Unreadable(f"a {name} matrix of shape {shape} is not stored in {numel} numbers")
    structure: Structure = family(**_decode_fields(family, fields, most))
    return structure


def _encode(value: object) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, Factor | Permute):
        return {"type": type(value).__name__, "fields": encode_fields(value)}
    raise ValueError(f"a field holds {short(value)}, which has no plain form")


@cache
def _hints(name: str) -> dict[str, Any]:
    kind: Any = FAMILIES.get(name) or _STAGES[name]
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _decode_fields(kind: Any, fields: object, most: int) -> dict[str, Any]:
    hints = _hints(kind.__name__)
    if not isinstance(fields, dict) or not set(fields) <= set(hints):
        raise Unreadable(f"{kind.__name__} has no fields {short(fields)}", "upgrade kmatrix")
    needed = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    if not needed <= set(fields):
        raise Unreadable(f"{kind.__name__} lacks {', '.join(sorted(needed - set(fields)))}")
    places = {name: f"{kind.__name__}.{name}" for name in fields}
    limits = {name: MAX_SIZE if place in _MAY_EXCEED else most for name, place in places.items()}
    return {name: _decode(value, hints[name], places[name], limits[name]) for name, value in fields.items()}


def _decode(value: Any, hint: Any, where: str, most: int) -> Any:
    """The value a JSON value stands for, if it is of the type that the hint says."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Union or origin is types.UnionType:
        for option in options:
            with contextlib.suppress(Unreadable):
                return _decode(value, option, where, most)
    if origin is Literal and isinstance(value, str) and value in options:
        return value
    if origin is tuple and isinstance(value, list) and len(value) <= _most_items(options[0]):
        hints = [options[0]] * len(value) if options[-1] is Ellipsis else list(options)
        if len(hints) == len(value):
            return tuple(_decode(v, h, where, most) for v, h in zip(value, hints, strict=True))
    if hint is types.NoneType and value is None:
        return None
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and is_size(value, most):
        return value
    if hint is float and isinstance(value, float) and math.isfinite(value):
        return value
    if hint in _STAGES.values() and isinstance(value, dict) and set(value) == {"type", "fields"}:
        if value["type"] == hint.__name__:
            return hint(**_decode_fields(hint, value["fields"], most))
    raise Unreadable(f"{where} cannot be {short(value)}")


def _most_items(hint: Any) -> int:
    return MAX_STAGES if set(get_args(hint)) == set(_STAGES.values()) else MAX_ITEMS
