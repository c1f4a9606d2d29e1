"""Structures as plain JSON and back: the table of families a file may name, and the types of their fields.

Whatever is read is checked against the type hints of the family; nothing is imported or evaluated by name. Beside
the families of the table a file may name those that the caller hands over as classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import operator
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kmatrix._errors import ArgumentError, complaint
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
from kmatrix.structures.gaudi import Gaudi
from kmatrix.structures.gblr import GBLR
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
    "GBLR": GBLR,
    "Gaudi": Gaudi,
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
Families = Mapping[str, type[Structure]]
_STAGES: dict[str, type[Factor | Permute]] = {"Factor": Factor, "Permute": Permute}

# Everywhere else a member stores at least as many numbers as it has rows, as it has columns, and as any whole
# number among its fields says (but for depths of a few), Kronecker products as the roots of these. That bounds
# what a file can make us compute before its tensors are compared with what the structure needs.
_MAY_STORE_FEW = (BPPermutation, Chain, Diagonal, GBLR, Sparse)
_MAY_EXCEED = ("Butterfly.ranks",)  # without a second factor there is no gap for the ranks
_SMALL = 64
# Radices multiply up, so long lists of them make numbers of many thousand digits.
MAX_STAGES, MAX_ITEMS = 2**16, 2**10


def families_with(where: str, own: Iterable[type[Structure]], taken: Iterable[str] = ()) -> Families:
    """The table of families, and the classes of a caller beside them.

    Args:
        where: who asks.
        own: classes of the caller.
        taken: further names that a class cannot have.

    Raises:
        ArgumentError: if one of them is no dataclass of structures, or has a name that is taken.
    """
    if isinstance(own, type):
        reason, way_out = "a class alone", "pass a tuple of classes"
        raise ArgumentError(complaint(where, "structures", own.__name__, reason, way_out))
    families = dict(FAMILIES)
    for kind in own:
        name = kind.__name__ if isinstance(kind, type) else repr(kind)
        if families.get(name) is kind:
            continue
        reason = ""
        if not (isinstance(kind, type) and issubclass(kind, Structure) and dataclasses.is_dataclass(kind)):
            reason = "not a dataclass that derives from Structure"
            way_out = "make it one, or save and load the state_dict() of its matrices"
        elif name in families or name in taken:
            reason, way_out = "the name belongs to another structure", "give the class another name"
        if reason:
            raise ArgumentError(complaint(where, "structures", short(name), reason, way_out))
        families[name] = kind
    return families


def encode_fields(item: Any) -> dict[str, Any]:
    """The fields of a structure or stage as JSON values.

    Raises:
        ValueError: if a field is of a type that no family has.
    """
    return {field.name: _encode(getattr(item, field.name)) for field in _fields(type(item))}


def decode_structure(
    families: Families, name: object, fields: object, shape: tuple[int, int], numel: int
) -> Structure:
    """The structure of a matrix of the given shape, one of ``families``, in a file that holds ``numel`` numbers.

    A field that the file lacks takes its default, so that families can gain fields.

    Raises:
        Unreadable: if the family or a field is not known, or a value is not of its type or too large.
    """
    family = families.get(name) if isinstance(name, str) else None
    if family is None:
        example = name if isinstance(name, str) and name.isidentifier() and len(name) < 64 else "..."
        way_out = (
            f"upgrade kmatrix or, if it is your own class, pass it: km.load(path, structures=({example},))"
        )
        raise Unreadable(f"structure {short(name)} is not known to this version", way_out)
    # Of a class of the caller nothing is known but that it counts its numbers before it makes any.
    known = FAMILIES.get(family.__name__) is family
    most = numel + _SMALL if known and family not in _MAY_STORE_FEW else MAX_SIZE
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


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields that a dataclass is made from."""
    return [field for field in dataclasses.fields(kind) if field.init]


@cache
def _hints(kind: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        reason = f"the types of its fields cannot be resolved: {error}"
        raise Unreadable(f"{kind.__name__}: {reason}", "define the class at the top of a module") from None
    return {field.name: hints[field.name] for field in _fields(kind)}


def _decode_fields(kind: Any, fields: object, most: int) -> dict[str, Any]:
    hints = _hints(kind)
    if not isinstance(fields, dict) or not set(fields) <= set(hints):
        raise Unreadable(f"{kind.__name__} has no fields {short(fields)}", "upgrade kmatrix")
    nothing = dataclasses.MISSING
    needed = {f.name for f in _fields(kind) if f.default is nothing and f.default_factory is nothing}
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
    if hint is int and type(value) is int and is_size(abs(value), most):
        return value
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint in _STAGES.values() and isinstance(value, dict) and set(value) == {"type", "fields"}:
        if value["type"] == hint.__name__:
            return hint(**_decode_fields(hint, value["fields"], most))
    raise Unreadable(f"{where} cannot be {short(value)}")


def _most_items(hint: Any) -> int:
    return MAX_STAGES if set(get_args(hint)) == set(_STAGES.values()) else MAX_ITEMS
