"""Files of any content: false claims, hostile JSON, random bytes. Only the typed error may come out, and soon."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmatrix import structures
from kmatrix._errors import FileFormatError
from kmatrix.structures import (
    AFDF,
    BPBP,
    Butterfly,
    Chain,
    Dense,
    Factor,
    Fastfood,
    GroupShuffle,
    Kaleidoscope,
    LowRank,
    Monarch,
    OrthogonalButterfly,
    Permutation,
    Permute,
    RealPart,
    Sparse,
    Structure,
    StructuredMatrix,
)
from kmatrix.structures._schema import FAMILIES
from kmatrix.structures.serialization import describe, load, save

Json = Any
f64 = torch.float64


def matrix(seed: int = 0) -> StructuredMatrix:
    """A product of everything a tree of structures can hold."""
    generator = torch.Generator().manual_seed(seed)
    real = Butterfly().random(6, 5, dtype=f64, generator=generator)
    part = RealPart(BPBP(depth=1)).random(6, 5, dtype=f64, generator=generator)
    permutation = Permutation().random(6, 6, dtype=f64, generator=generator)
    return 0.5 * (permutation @ real + part) @ Sparse(nnz=7).random(5, 4, dtype=f64, generator=generator)


def parts_of(path: Path) -> tuple[Json, Json, bytes]:
    """The header without the description, the description, and the numbers of a file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["kmatrix"]), content[8 + length :]


def write(path: Path, header: Json, description: Json, data: bytes) -> None:
    """A file of any content whose lengths are right."""
    if description is not None:
        text = description if isinstance(description, str) else json.dumps(description)
        header = {**header, "__metadata__": {**header.get("__metadata__", {}), "kmatrix": text}}
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def at(tree: Json, *keys: str | int) -> Json:
    for key in keys:
        tree = tree[key]
    return tree


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "A.safetensors"


CLAIMS: dict[str, Callable[[Json, Json], object]] = {
    "no versions": lambda h, d: d.pop("format_version"),
    "a version of tomorrow": lambda h, d: d.update(format_version=2),
    "a version that is a text": lambda h, d: d.update(format_version="1"),
    "a version that is true": lambda h, d: d.update(format_version=True),
    "a field of tomorrow": lambda h, d: d.update(lazy=True),
    "a node field of tomorrow": lambda h, d: d["matrix"].update(lazy=True),
    "a structure of tomorrow": lambda h, d: d["matrix"].update(type="Tomorrow"),
    "a structure that is a class": lambda h, d: d["matrix"].update(type="ChainMatrix"),
    "a structure that is a path": lambda h, d: d["matrix"].update(type="os.system"),
    "an abstract structure": lambda h, d: d["matrix"].update(type="Structure"),
    "no matrix": lambda h, d: d.pop("matrix"),
    "a matrix that is a list": lambda h, d: d.update(matrix=[1]),
    "no fields": lambda h, d: d["matrix"].pop("fields"),
    "fields that are a list": lambda h, d: d["matrix"].update(fields=[1]),
    "unknown fields": lambda h, d: d["matrix"]["fields"].update(speed=3),
    "another type of field": lambda h, d: d["matrix"]["fields"].update(ranks="1"),
    "a fraction": lambda h, d: d["matrix"]["fields"].update(ranks=1.0),
    "true for one": lambda h, d: d["matrix"]["fields"].update(ranks=True),
    "a negative rank": lambda h, d: d["matrix"]["fields"].update(ranks=-1),
    "a rank of zero": lambda h, d: d["matrix"]["fields"].update(ranks=0),
    "a huge rank": lambda h, d: d["matrix"]["fields"].update(ranks=10**30),
    "radices that are not pairs": lambda h, d: d["matrix"]["fields"].update(radices=[[2, 3, 4]]),
    "radices that do not fit": lambda h, d: d["matrix"]["fields"].update(radices=[[2, 2]]),
    "many radices": lambda h, d: d["matrix"]["fields"].update(radices=[[2, 2]] * 10**5),
    "another shape": lambda h, d: d["matrix"].update(shape=[6, 9]),
    "a shape of three": lambda h, d: d["matrix"].update(shape=[6, 4, 1]),
    "a negative shape": lambda h, d: d["matrix"].update(shape=[-6, 4]),
    "an empty shape": lambda h, d: d["matrix"].update(shape=[0, 4]),
    "a huge shape": lambda h, d: d["matrix"].update(shape=[10**15, 10**15]),
    "a prime shape": lambda h, d: d["matrix"].update(shape=[2**61 - 1, 2**61 - 1]),
    "another dtype": lambda h, d: d["matrix"].update(dtype="float32"),
    "a complex dtype": lambda h, d: d["matrix"].update(dtype="complex128"),
    "no dtype": lambda h, d: d["matrix"].update(dtype="int64"),
    "a certificate that is a list": lambda h, d: d.update(certificate=[]),
    "a missing tensor": lambda h, d: h.pop("factors.1"),
    "an extra tensor": lambda h, d: h.update(x={"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}),
    "another tensor name": lambda h, d: h.update(y=h.pop("factors.0")),
    "another tensor dtype": lambda h, d: h["factors.0"].update(dtype="I64"),
    "an unknown tensor dtype": lambda h, d: h["factors.0"].update(dtype="F8_E4M3"),
    "another tensor shape": lambda h, d: h["factors.0"]["shape"].append(1),
    "a huge tensor shape": lambda h, d: h["factors.0"].update(shape=[2**40, 2**40]),
    "a shape of many axes": lambda h, d: h["factors.0"].update(shape=[1] * 10**5),
    "a shape that is true": lambda h, d: h["factors.0"].update(shape=[True, 1, 1, 1]),
    "offsets beyond the end": lambda h, d: h["factors.1"].update(data_offsets=[10**6, 10**6 + 8]),
    "offsets that overlap": lambda h, d: h["factors.1"].update(data_offsets=[0, 8]),
    "offsets that run backwards": lambda h, d: h["factors.1"]["data_offsets"].reverse(),
    "negative offsets": lambda h, d: h["factors.1"].update(data_offsets=[-8, 0]),
    "a tensor that is a number": lambda h, d: h.update(z=3),
    "metadata that are numbers": lambda h, d: h["__metadata__"].update(author=3),
    "metadata that are a list": lambda h, d: h.update(__metadata__=[]),
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_false_claims_are_refused(claim: Callable[[Json, Json], object], path: Path) -> None:
    save(Butterfly().random(6, 4, dtype=f64), path)
    header, description, data = parts_of(path)
    claim(header, description)
    write(path, header, description if isinstance(header["__metadata__"], dict) else None, data)
    for read in (load, describe):
        with pytest.raises(FileFormatError, match=r"A\.safetensors.*; "):
            read(path)


@pytest.mark.parametrize(
    "claim",
    [
        lambda d: at(d, "parts").clear(),
        lambda d: at(d, "parts", 0).update(conjugate=1),
        lambda d: at(d, "parts", 0).pop("conjugate"),
        lambda d: at(d, "parts", 0).update(of=None),
        lambda d: at(d, "parts", 1).update(scalar=[1, 0]),
        lambda d: at(d, "parts", 1).update(scalar=[1.0]),
        lambda d: at(d, "parts", 1).update(scalar=[1.0, 1.0]),
        lambda d: at(d, "parts", 1).update(scalar=3.0),
        lambda d: at(d, "parts", 1, "of").update(shape=[4, 4]),
        lambda d: at(d, "parts", 1, "of").update(dtype="bfloat16"),
        lambda d: d.update(type="Sum"),
        lambda d: d.update(parts=d["parts"][::-1]),
        lambda d: d.update(parts={}),
        lambda d: d.update(parts=None),
        lambda d: at(d, "parts", 1).update(of=[]),
        lambda d: d.update(parts=[d["parts"]]),
    ],
)
def test_false_claims_about_parts_are_refused(claim: Callable[[Json], object], path: Path) -> None:
    save(Dense().random(3, 5).T @ (2.0 * LowRank(2).random(3, 4)), path)
    header, description, data = parts_of(path)
    claim(description["matrix"])
    write(path, header, description, data)
    for read in (load, describe):
        with pytest.raises(FileFormatError):
            read(path)


def _leaf(structure: Structure, m: int, n: int) -> StructuredMatrix:
    complex_only = isinstance(structure, AFDF)
    return structure.random(m, n, dtype=torch.complex128 if complex_only else f64)


MEMBERS: dict[str, tuple[Structure, int, int]] = {
    "BLAST": (FAMILIES["BLAST"](nblocks=2, rank=2), 4, 6),  # type: ignore[call-arg]
    "BlockCirculant": (FAMILIES["BlockCirculant"](block=2), 4, 6),  # type: ignore[call-arg]
    "BlockDiagonal": (FAMILIES["BlockDiagonal"](nblocks=2), 4, 6),  # type: ignore[call-arg]
    "Chain": (Chain((Permute(4, "stride", 2), Factor(2, 3, 2, 1, "a"), Factor(1, 2, 3, 2, "d"))), 4, 4),
    "GroupShuffle": (GroupShuffle(nblocks=2, hidden=8), 4, 6),
    "LowRank": (LowRank(2), 4, 6),
    "Sparse": (Sparse(3), 4, 6),
    "Permutation": (Permutation("stride", 2), 4, 4),
    "Monarch": (Monarch(nblocks=2), 4, 4),
    "Kaleidoscope": (Kaleidoscope(width=2, expansion=2), 4, 4),
    "OrthogonalButterfly": (OrthogonalButterfly(radices=(2, 2)), 4, 4),
}


def test_every_family_is_known_by_its_name() -> None:
    assert {name: family.__name__ for name, family in FAMILIES.items()} == {name: name for name in FAMILIES}
    made_of_others = {"Grouped", "Product", "RealPart", "Scaled", "Sum", "Transpose"}
    kinds = [value for value in vars(structures).values() if isinstance(value, type)]
    exported = {k.__name__ for k in kinds if issubclass(k, Structure) and not inspect.isabstract(k)}
    assert set(FAMILIES) | made_of_others == exported


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("huge", [10**6, 10**12, 2**53])
def test_no_family_computes_what_its_file_cannot_hold(name: str, huge: int, path: Path) -> None:
    structure, m, n = MEMBERS.get(name, (None, 4, 4))
    structure = structure or FAMILIES[name]()
    save(_leaf(structure, m, n), path)
    header, description, data = parts_of(path)

    def attempt(change: Callable[[Json], object]) -> None:
        claimed = copy.deepcopy(description)
        change(claimed["matrix"])
        write(path, header, claimed, data)
        with pytest.raises(FileFormatError):
            load(path)

    if name != "Sparse":  # three numbers make a sparse matrix of any shape
        attempt(lambda node: node.update(shape=[huge, huge]))
    for field in fields(structure):  # type: ignore[arg-type]
        # More levels than there are is what the field means.
        if type(getattr(structure, field.name)) is int or field.name in ("nblocks", "hidden"):
            attempt(lambda node, field=field: node["fields"].update({field.name: huge}))  # type: ignore[misc]
    if name == "Chain":
        attempt(lambda node: node["fields"]["stages"].insert(0, {"type": "Permute", "fields": {"n": huge}}))
        attempt(lambda node: node["fields"]["stages"][1]["fields"].update(a=huge, b=huge, c=huge, d=huge))
        attempt(lambda node: node["fields"]["stages"][1]["fields"].update(a=huge, d=huge, tie="ad"))


def _corrupt(path: Path, name: str, values: list[float]) -> None:
    header, _, data = parts_of(path)
    start = path.stat().st_size - len(data) + header[name]["data_offsets"][0]
    dtype = "<i8" if header[name]["dtype"] == "I64" else "<f8"
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.array(values, dtype=dtype).tobytes())


@pytest.mark.parametrize(
    ("A", "name", "values", "reason"),
    [
        (Permutation().random(3, 3, dtype=f64), "permutation_0", [0, 1, 1], "not a permutation"),
        (Permutation().random(3, 3, dtype=f64), "permutation_0", [0, 1, 3], "not a permutation"),
        (Permutation().random(3, 3, dtype=f64), "permutation_0", [-1, 0, 1], "not a permutation"),
        (Fastfood().random(4, 2, dtype=f64), "permutation", [2, 3, 0, 1], "not a permutation"),
        (Sparse(2).random(3, 3, dtype=f64), "rows", [0, 3], "positions"),
        (Sparse(2).random(3, 3, dtype=f64), "cols", [0, -1], "positions"),
        (OrthogonalButterfly().random(2, 2, dtype=f64), "signs", [1.0, 0.5], "ones and minus ones"),
        (OrthogonalButterfly().random(2, 2, dtype=f64), "signs", [1.0, float("nan")], "ones and minus ones"),
    ],
)
def test_buffers_are_checked(
    A: StructuredMatrix, name: str, values: list[float], reason: str, path: Path
) -> None:
    save(A, path)
    _corrupt(path, name, values)
    with pytest.raises(FileFormatError, match=reason):
        load(path)
    save(A + A, path)
    _corrupt(path, f"parts.1.{name}", values)
    with pytest.raises(FileFormatError, match=reason):
        load(path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "nonsense",
        "NaN",
        '{"format_version": NaN}',
        '{"format_version": 1, "format_version": 1}',
        '"' + "\\ud800" * 9 + '"',
        "[" * 10**5,
        '{"a":' * 10**5,
        "1" + "0" * 10**5,
        '{"format_version": 1, "kmatrix_version": "\\ud800", "matrix": 1e999}',
        "\ufeff{}",
        "",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_hostile_json_is_refused(text: str, path: Path) -> None:
    save(Dense().random(2, 2), path)
    header, _, data = parts_of(path)
    write(path, header, text, data)
    with pytest.raises(FileFormatError) as caught:
        load(path)
    assert len(str(caught.value)) < 2000
    raw = text.encode("utf-8", "surrogatepass")
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(FileFormatError):
        load(path)


def test_trees_that_nest_without_end_are_refused(path: Path) -> None:
    save(Dense().random(2, 2), path)
    header, description, data = parts_of(path)
    node = description["matrix"]
    for _ in range(100):
        node = {"type": "Scaled", "shape": [2, 2], "dtype": "float32", "scalar": [1.0, 0.0], "of": node}
    write(path, header, description | {"matrix": node}, data)
    with pytest.raises(FileFormatError, match="deep"):
        load(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 2**24 + 1, 2**63, 2**64 - 1])
def test_header_lengths_are_checked(length: int, path: Path) -> None:
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(FileFormatError):
        load(path)


def test_a_header_that_is_long_is_refused_unread(path: Path) -> None:
    with path.open("wb") as file:
        file.write((2**30).to_bytes(8, "little"))
        file.truncate(2**31)  # a hole: takes no room on the disk
    with pytest.raises(FileFormatError, match="longer than"):
        load(path)


def test_tensors_without_a_structure_are_refused(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(FileFormatError, match="no structure"):
        load(path)


def test_complaints_name_the_version_that_wrote_the_file(path: Path) -> None:
    save(Dense().random(2, 2), path)
    header, description, data = parts_of(path)
    write(path, header, description | {"format_version": 7, "kmatrix_version": "9.9"}, data)
    with pytest.raises(FileFormatError, match=r"'9\.9' wrote it in format 7.*upgrade kmatrix"):
        load(path)


def test_fields_that_a_file_lacks_take_their_defaults(path: Path) -> None:
    save(Butterfly().random(4, 4), path)
    header, description, data = parts_of(path)
    del description["matrix"]["fields"]["ranks"]
    write(path, header, description, data)
    assert load(path).structure == Butterfly()
    save(LowRank(2).random(4, 4), path)
    header, description, data = parts_of(path)
    del description["matrix"]["fields"]["rank"]
    write(path, header, description, data)
    with pytest.raises(FileFormatError, match="lacks rank"):
        load(path)


# Anything at all: only FileFormatError comes out, or a matrix.

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Dense", "Sum", "Product", "Scaled", "float64", "F64", "stride", *FAMILIES]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "valid.safetensors"
    save(matrix(), path)
    return path


def _survives(path: Path) -> None:
    for read in (load, describe):
        try:
            read(path)
        except FileFormatError as error:
            assert re.search(r"; ", str(error))


@given(content=st.binary(max_size=200))
def test_random_bytes(content: bytes, valid: Path) -> None:
    path = valid.with_name("bytes")
    path.write_bytes(content)
    _survives(path)
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    _survives(path)


@given(data=st.data())
def test_mutated_files(data: st.DataObject, valid: Path) -> None:
    content = bytearray(valid.read_bytes())
    length = int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly in the header: the numbers may be anything.
        place = data.draw(st.integers(0, length + 20))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "digit"])):
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "digit":
                content[place] = data.draw(st.sampled_from(b'0123456789-{}[]",:'))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 40))]
            case "insert":
                content[place:place] = data.draw(st.binary(max_size=10))
    path = valid.with_name("mutated")
    path.write_bytes(content)
    _survives(path)


def _places(tree: Json, where: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(tree, dict | list):
        keys = tree if isinstance(tree, dict) else range(len(tree))
        return [where] * bool(where) + [place for key in keys for place in _places(tree[key], (*where, key))]
    return [where]


@given(data=st.data())
def test_replaced_values(data: st.DataObject, valid: Path) -> None:
    header, description, numbers = parts_of(valid)
    for _ in range(data.draw(st.integers(1, 3))):
        tree = data.draw(st.sampled_from([header, description]))
        if tree is header:
            header.pop("__metadata__", None)
        places = _places(tree)
        if places:
            *way, last = data.draw(st.sampled_from(places))
            holder = at(tree, *way)
            if data.draw(st.booleans()) and isinstance(holder, dict):
                del holder[last]
            else:
                holder[last] = data.draw(VALUES)
    path = valid.with_name("replaced")
    write(path, header, description, numbers)
    _survives(path)


@given(description=VALUES, header=st.dictionaries(st.text(max_size=6), VALUES, max_size=3))
def test_any_description(description: Json, header: Json, valid: Path) -> None:
    path = valid.with_name("any")
    write(path, header, json.dumps(description), b"")
    _survives(path)


@given(data=st.data())
def test_any_fields_of_any_family(data: st.DataObject, valid: Path) -> None:
    """Fields of the right names and of any type, in a file that holds some numbers."""
    name = data.draw(st.sampled_from(sorted(FAMILIES)))
    sizes = st.integers(0, 9) | st.integers(0, 2**60)
    values = sizes | st.lists(sizes, max_size=3) | st.lists(st.lists(sizes, max_size=3), max_size=3) | VALUES
    claimed = {field.name: data.draw(values) for field in fields(FAMILIES[name])}  # type: ignore[arg-type]
    shape = data.draw(st.lists(sizes, min_size=2, max_size=2))
    node = {"type": name, "shape": shape, "dtype": "float64", "fields": claimed}
    description = {"format_version": 1, "kmatrix_version": "0", "matrix": node}
    header = {"factors.0": {"dtype": "F64", "shape": [1, 10, 10, 1], "data_offsets": [0, 800]}}
    path = valid.with_name("fields")
    write(path, header, description, bytes(800))
    _survives(path)
