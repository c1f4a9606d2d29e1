"""Folders of any content: false claims, truncated files, random bytes. Only typed errors may come out, and soon."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kmatrix as km
from kmatrix import FileFormatError
from kmatrix.compress import describe_model
from kmatrix.compress._folder import NUMBERS, STRUCTURE

Json = Any


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.conv = nn.Conv2d(4, 4, 3)
        self.linear = nn.Linear(4, 6)
        self.other = nn.Linear(4, 6)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("mask", torch.tensor([True, False]))


def model() -> Net:
    torch.manual_seed(0)
    made = Net()
    km.replace_linear_(made, km.LowRank(2), lambda _, name: name == "conv", kinds=("conv2d",))
    km.replace_linear_(made, km.Monarch(2), lambda _, name: name == "linear")
    made.other = km.nn.Linear.from_matrix(km.Permutation().random(6, 6) @ km.Dense().random(6, 4))  # type: ignore[assignment]
    return made


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid")
    km.save(model(), folder)
    return folder


@pytest.fixture
def folder(valid: Path, tmp_path: Path) -> Path:
    for path in valid.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def description(folder: Path) -> Json:
    return json.loads((folder / STRUCTURE).read_text())


def never() -> nn.Module:
    raise AssertionError("the model was built before the files were checked")


def layer(d: Json, kind: str) -> Json:
    return next(entry for entry in d["layers"] if entry["kind"] == kind)


CLAIMS: dict[str, Callable[[Json], object]] = {
    "no layers": lambda d: d.pop("layers"),
    "layers that are a dict": lambda d: d.update(layers={}),
    "a layer that is a number": lambda d: d["layers"].append(3),
    "an unknown kind": lambda d: layer(d, "linear").update(kind="lstm"),
    "a kind that is a list": lambda d: layer(d, "linear").update(kind=[]),
    "another kind": lambda d: layer(d, "conv2d").update(kind="linear"),
    "an unknown field": lambda d: d.update(code="import os"),
    "an unknown field of a layer": lambda d: layer(d, "linear").update(forward="x"),
    "no digest": lambda d: d.pop("digest"),
    "another digest": lambda d: d.update(digest="0" * 64),
    "a digest that is null": lambda d: d.update(digest=None),
    "a later format": lambda d: d.update(format_version=7),
    "a format that is true": lambda d: d.update(format_version=True),
    "no names": lambda d: layer(d, "linear").update(names=[]),
    "names that are a string": lambda d: layer(d, "linear").update(names="linear"),
    "an empty name": lambda d: layer(d, "linear").update(names=[""]),
    "a name twice": lambda d: layer(d, "linear").update(names=["linear", "linear"]),
    "a name of two layers": lambda d: layer(d, "linear").update(names=["linear", "conv"]),
    "a layer twice": lambda d: d["layers"].append(layer(d, "linear")),
    "another name": lambda d: layer(d, "linear").update(names=["head"]),
    "a name that climbs": lambda d: layer(d, "linear").update(names=["../linear"]),
    "a name of python": lambda d: layer(d, "linear").update(names=["__class__"]),
    "another structure": lambda d: layer(d, "linear")["matrix"].update(type="Dense", fields={}),
    "an unknown structure": lambda d: layer(d, "linear")["matrix"].update(type="os.system"),
    "another shape": lambda d: layer(d, "linear")["matrix"].update(shape=[4, 6]),
    "a huge shape": lambda d: layer(d, "linear")["matrix"].update(shape=[2**40, 2**40]),
    "another dtype": lambda d: layer(d, "linear")["matrix"].update(dtype="float64"),
    "a bias that is a number": lambda d: layer(d, "linear").update(bias=1),
    "no bias": lambda d: layer(d, "linear").update(bias=None),
    "a bias that is not stored": lambda d: d["layers"][2].update(bias=True),
    "a kernel of one number": lambda d: layer(d, "conv2d").update(kernel_size=3),
    "a huge kernel": lambda d: layer(d, "conv2d").update(kernel_size=[2**30, 2**30]),
    "a kernel of zeros": lambda d: layer(d, "conv2d").update(kernel_size=[0, 0]),
    "a stride of zero": lambda d: layer(d, "conv2d").update(stride=[0, 1]),
    "a huge padding": lambda d: layer(d, "conv2d").update(padding=[2**60, 1]),
    "an unknown padding": lambda d: layer(d, "conv2d").update(padding="more"),
    "an unknown padding mode": lambda d: layer(d, "conv2d").update(padding_mode="magic"),
    "no groups": lambda d: layer(d, "conv2d").update(groups=0),
    "groups that do not divide": lambda d: layer(d, "conv2d").update(groups=3),
    "aliases that are a list": lambda d: d.update(aliases=[]),
    "an alias of nothing": lambda d: d["aliases"].update(x="y"),
    "an alias of an alias": lambda d: d["aliases"].update(x="head.weight"),
    "an alias that is stored": lambda d: d["aliases"].update({"mask": "table.weight"}),
    "an alias of a number": lambda d: d["aliases"].update(x=3),
    "a certificate that is a list": lambda d: d.update(certificate=[]),
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_false_claims_are_refused_before_anything_is_built(
    claim: Callable[[Json], object], folder: Path
) -> None:
    claimed = description(folder)
    claim(claimed)
    (folder / STRUCTURE).write_text(json.dumps(claimed))
    for read in (lambda: km.load_model(never, folder), lambda: describe_model(folder)):
        with pytest.raises(FileFormatError, match=r"; ") as caught:
            read()
        assert len(str(caught.value)) < 2000


def test_a_layer_inside_another_is_refused(folder: Path) -> None:
    claimed = description(folder)
    inner = copy.deepcopy(layer(claimed, "linear")) | {"names": ["linear.matrix"]}
    claimed["layers"].append(inner)
    (folder / STRUCTURE).write_text(json.dumps(claimed))
    with pytest.raises(FileFormatError):
        km.load_model(never, folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "3",
        "[]",
        '{"layers": 1, "layers": 1}',
        "[" * 10**5,
        '{"a":' * 10**5,
        "\ufeff{}",
        '"\\ud800"',
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_hostile_json_is_refused(text: str, folder: Path) -> None:
    (folder / STRUCTURE).write_text(text)
    with pytest.raises(FileFormatError):
        km.load_model(never, folder)


def test_huge_descriptions_are_refused_unread(folder: Path) -> None:
    with (folder / STRUCTURE).open("wb") as file:
        file.truncate(2**31)  # a hole: takes no room on the disk
    with pytest.raises(FileFormatError, match="longer than"):
        km.load_model(never, folder)


def test_structures_that_nest_without_end_are_refused(folder: Path) -> None:
    claimed = description(folder)
    node = layer(claimed, "linear")["matrix"]
    for _ in range(100):
        node = {
            "type": "Scaled",
            "shape": node["shape"],
            "dtype": node["dtype"],
            "scalar": [1.0, 0.0],
            "of": node,
        }
    layer(claimed, "linear")["matrix"] = node
    (folder / STRUCTURE).write_text(json.dumps(claimed))
    with pytest.raises(FileFormatError, match="deep"):
        km.load_model(never, folder)


@pytest.mark.parametrize("name", [NUMBERS, STRUCTURE])
def test_truncated_files_are_refused(name: str, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    for size in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        (folder / name).write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            km.load_model(never, folder)


@pytest.mark.parametrize("name", [NUMBERS, STRUCTURE])
def test_folders_that_lack_a_file_are_refused(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(km.ArgumentError, match=f"No such file.*{NUMBERS} and {STRUCTURE}"):
        km.load_model(never, folder)


def test_numbers_that_no_member_has_are_refused(folder: Path) -> None:
    content = bytearray((folder / NUMBERS).read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    index = header["other.matrix.parts.0.permutation_0"]["data_offsets"][0] + 8 + length
    content[index : index + 8] = (99).to_bytes(8, "little")
    (folder / NUMBERS).write_bytes(content)
    with pytest.raises(FileFormatError, match="not a permutation"):
        km.load_model(Net, folder)


def test_truth_values_are_checked(folder: Path) -> None:
    content = bytearray((folder / NUMBERS).read_bytes())
    assert bytes(content[-2:]) == b"\x01\x00"  # the mask: one byte each, so last
    content[-1] = 7
    (folder / NUMBERS).write_bytes(content)
    with pytest.raises(FileFormatError, match="truth values"):
        km.load_model(Net, folder)


# Anything at all: only typed errors come out, or a model.

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["linear", "conv2d", "matrix", "attention", "Dense", "Sum", "head.weight", "same"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def _outcome(read: Callable[[], Any]) -> Any:
    """What is read, or the typed error, which says what to do. Any other error fails the test."""
    try:
        return read()
    except (FileFormatError, km.ArgumentError) as error:
        assert re.search(r"; ", str(error))
        return None


def _survives(folder: Path) -> bool:
    """Whether only typed errors come out, and what is read is a model of the shapes of ``Net`` and a description."""
    found, told = _outcome(lambda: km.load_model(Net, folder)), _outcome(lambda: describe_model(folder))
    if found is not None:
        x = torch.zeros(2, 4)
        shapes = [layer(x).shape for layer in (found.linear, found.other, found.head)]
        return shapes == [(2, 6)] * 3 and told is not None
    return True


def _copied(valid: Path) -> Path:
    folder = valid / "copy"
    folder.mkdir(exist_ok=True)
    for name in (NUMBERS, STRUCTURE):
        (folder / name).write_bytes((valid / name).read_bytes())
    return folder


def _places(tree: Json, where: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(tree, dict | list):
        keys = tree if isinstance(tree, dict) else range(len(tree))
        return [where] * bool(where) + [place for key in keys for place in _places(tree[key], (*where, key))]
    return [where]


@given(data=st.data())
def test_replaced_values(data: st.DataObject, valid: Path) -> None:
    folder = _copied(valid)
    claimed = description(folder)
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(claimed)
        if not places:
            break
        *way, last = data.draw(st.sampled_from(places))
        holder = claimed
        for key in way:
            holder = holder[key]
        if data.draw(st.booleans()) and isinstance(holder, dict):
            del holder[last]
        else:
            holder[last] = data.draw(VALUES)
    (folder / STRUCTURE).write_text(json.dumps(claimed))
    assert _survives(folder)


@given(data=st.data())
def test_mutated_files(data: st.DataObject, valid: Path) -> None:
    folder = _copied(valid)
    path = folder / data.draw(st.sampled_from([NUMBERS, STRUCTURE]))
    content = bytearray(path.read_bytes())
    most = min(len(content), 2000) - 1
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, most))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "digit"])):
            case "flip" if place < len(content):
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "digit" if place < len(content):
                content[place] = data.draw(st.sampled_from(b'0123456789-{}[]",:'))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 40))]
            case "insert":
                content[place:place] = data.draw(st.binary(max_size=10))
    path.write_bytes(content)
    assert _survives(folder)
