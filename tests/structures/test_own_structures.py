"""Structures that users wrote: saved by name, loaded with the class that the caller hands over, and no other."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import kmatrix as km
from kmatrix import ArgumentError, FileFormatError
from kmatrix._checks import check_size
from kmatrix.structures import Dense, Factor, Permute, Structure, StructuredMatrix
from kmatrix.structures.base import from_pairs
from kmatrix.structures.chain import ChainStructure, Layout, Stage
from kmatrix.structures.serialization import describe, load, save
from kmatrix.structures.tied import NumbersMatrix
from kmatrix.testing import StructureConformance


@dataclass(frozen=True)
class Stripes(ChainStructure):
    """A chain, with a field of every type that a file can hold."""

    q: int
    shift: int = -1
    gain: float = 1.0
    kind: Literal["plain", "folded"] = "plain"
    label: str = ""
    steps: tuple[int, ...] = ()
    extra: tuple[Stage, ...] = field(default_factory=tuple)
    maybe: int | None = None
    folded: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("Stripes", "q", self.q)

    def layout(self, m: int, n: int) -> Layout:
        for name, size in (("m", m), ("n", n)):
            if size % self.q:
                raise ArgumentError(f"Stripes: {name}={size}: not divisible by q={self.q}; choose another")
        return Layout((Factor(1, m // self.q, n // self.q, self.q),))


@dataclass(frozen=True)
class Constant(Structure):
    """Not a chain, and fewer numbers than rows: one number in every place."""

    def check(self, m: int, n: int) -> None:
        pass

    def num_params(self, m: int, n: int) -> int:
        return 1

    def flops(self, m: int, n: int) -> int:
        return m + n

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ConstantMatrix:
        return ConstantMatrix(self, (m, n), (1,), dtype=self._admit(m, n, dtype), device=device)


class ConstantMatrix(NumbersMatrix):
    def _matmul(self, x: torch.Tensor) -> torch.Tensor:
        return (x.sum(-1, keepdim=True) * self._number).expand(*x.shape[:-1], self.shape[0]).clone()

    def _rmatmul(self, x: torch.Tensor) -> torch.Tensor:
        return (x.sum(-1, keepdim=True) * self._number).expand(*x.shape[:-1], self.shape[1]).clone()

    @property
    def _number(self) -> torch.Tensor:
        return from_pairs(self.stored, self._is_complex)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        with torch.no_grad():
            self.stored.normal_(generator=generator)


@dataclass(frozen=True)
class Wrapped(ChainStructure):
    """A field that is a structure has no plain form."""

    of: Structure

    def layout(self, m: int, n: int) -> Layout:
        return Layout((Factor(1, m, n, 1),))


class Undecorated(Structure):
    """No dataclass at all."""

    def check(self, m: int, n: int) -> None:
        pass

    def num_params(self, m: int, n: int) -> int:
        return m * n

    def flops(self, m: int, n: int) -> int:
        return 2 * m * n

    def empty(self, m: int, n: int, **options: Any) -> StructuredMatrix:
        matrix = Dense().empty(m, n, **options)
        matrix.structure = self
        return matrix


class TestStripes(StructureConformance):
    examples = ((Stripes(3), 6, 9), (Stripes(2, steps=(1, 2)), 4, 4))


class TestConstant(StructureConformance):
    examples = ((Constant(), 5, 3), (Constant(), 300, 1))


ALL = Stripes(
    3, -4, 2, "folded", "of ours", (1, 2), (Permute(4, "reverse"), Factor(1, 2, 2, 1, "a")), 7, True
)


@pytest.mark.parametrize("structure", [ALL, Stripes(1), Stripes(3, gain=0.1)], ids=["all", "none", "some"])
def test_every_kind_of_field_comes_back(tmp_path: Path, structure: Stripes) -> None:
    path = tmp_path / "A.safetensors"
    A = structure.random(6, 3)
    save(A, path)
    B = load(path, structures=(Stripes,))
    assert (type(B), B.structure) == (type(A), structure)
    assert torch.equal(A.to_dense(), B.to_dense())
    assert describe(path, structures=[Stripes]).structure == structure


def test_matrices_made_of_them_come_back(tmp_path: Path) -> None:
    path = tmp_path / "A.safetensors"
    A = (2.0 * Stripes(3).random(6, 3)).T @ Dense().random(6, 4) + Constant().random(3, 4)
    km.save(A, path)
    B = km.load(path, structures=(Constant, Dense, Stripes, Stripes))
    assert B.structure == A.structure
    assert torch.equal(A.to_dense(), B.to_dense())


@pytest.mark.parametrize("read", [load, describe])
def test_without_the_class_the_message_says_how_to_pass_it(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "A.safetensors"
    save(Stripes(3).random(6, 3) + Constant().random(6, 3), path)
    for given in ((), (Constant,)):
        with pytest.raises(FileFormatError, match=r"'Stripes' is not known.*structures=\(Stripes,\)"):
            read(path, structures=given)


def test_another_class_of_the_name_is_held_to_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "A.safetensors"
    save(Stripes(3).random(6, 3), path)
    with pytest.raises(FileFormatError, match="no fields"):
        load(path, structures=(renamed(Constant, "Stripes"),))


def renamed(kind: type[Structure], name: str) -> type[Structure]:
    """The class under another name."""
    return type(name, (kind,), {})


@pytest.mark.parametrize("name", ["Dense", "Sum", "Transpose", "RealPart"])
def test_names_of_ours_are_taken(tmp_path: Path, name: str) -> None:
    path = tmp_path / "A.safetensors"
    kind = renamed(Stripes, name)
    with pytest.raises(ArgumentError, match=r"save.*belongs to another structure"):
        save(kind(3).random(6, 3), path)  # type: ignore[call-arg]
    save(Dense().random(2, 2), path)
    with pytest.raises(ArgumentError, match=r"load.*belongs to another structure"):
        load(path, structures=(kind,))


def test_two_classes_of_one_name_are_not_told_apart(tmp_path: Path) -> None:
    other = renamed(Stripes, "Stripes")
    A = Stripes(3).random(6, 3) + other(3).random(6, 3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="belongs to another structure"):
        save(A, tmp_path / "A.safetensors")
    with pytest.raises(ArgumentError, match="belongs to another structure"):
        load(tmp_path / "A.safetensors", structures=(Stripes, other))


def test_what_has_no_plain_form_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "A.safetensors"
    for structure in (Wrapped(Dense()), Undecorated()):
        with pytest.raises(ArgumentError, match=rf"{type(structure).__name__}.*state_dict\(\)"):
            save(structure.random(2, 2), path)
    assert not path.exists()


def test_a_class_whose_types_cannot_be_found_is_refused(tmp_path: Path) -> None:
    class Local:
        pass

    @dataclass(frozen=True)
    class Hidden(Dense):
        of: Local | None = None

    with pytest.raises(ArgumentError, match=r"Local.*cannot be stored|cannot be resolved.*Local"):
        save(Hidden().random(2, 2), tmp_path / "A.safetensors")


@pytest.mark.parametrize("given", [(3,), ("Stripes",), (int,), (Stripes(3),), (Undecorated,)])
def test_only_classes_of_structures_can_be_passed(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"load: structures=.*derives from Structure"):
        load(tmp_path / "A.safetensors", structures=given)


def test_a_class_alone_is_no_collection(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="tuple of classes"):
        load(tmp_path / "A.safetensors", structures=Stripes)  # type: ignore[arg-type]


def changed(path: Path, change: Any) -> None:
    """Change the description of a file and nothing else."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["kmatrix"])
    change(description["matrix"])
    header["__metadata__"]["kmatrix"] = json.dumps(description)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node.update(shape=[2**40, 2**40]),
        lambda node: node.update(shape=[6, 2**50]),
        lambda node: node["fields"].update(q=2**52),
        lambda node: node["fields"].update(q=-3),
        lambda node: node["fields"].update(q="3"),
        lambda node: node["fields"].update(q=3.0),
        lambda node: node["fields"].update(kind="other"),
        lambda node: node["fields"].update(gain="1"),
        lambda node: node["fields"].update(label=["a"]),
        lambda node: node["fields"].update(unknown=1),
        lambda node: node["fields"].pop("q"),
        lambda node: node.update(type="stripes"),
        lambda node: node.update(type="Stripes.__init__"),
    ],
)
def test_hostile_descriptions_are_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "A.safetensors"
    save(Stripes(3).random(6, 3), path)
    changed(path, lambda node: None)
    assert load(path, structures=(Stripes,)).structure == Stripes(3)
    changed(path, change)
    with pytest.raises(FileFormatError):
        load(path, structures=(Stripes,))


# Certificates


def test_a_certificate_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "A.safetensors"
    found = km.fit(torch.randn(4, 4, dtype=torch.float64), Dense(), batches=())
    km.save(found.matrix, path, certificate=found.certificate)
    kept = km.describe(path).certificate
    assert kept == json.loads(json.dumps(found.certificate.to_json()))
    km.save(found.matrix, path, certificate=found.certificate.to_json())
    assert km.describe(path).certificate == kept


def test_what_only_looks_like_a_certificate_is_refused(tmp_path: Path) -> None:
    class Odd:
        def to_json(self) -> Any:
            return [1]

    for given in (Odd(), 3, [1], "text"):
        with pytest.raises(ArgumentError, match="not a mapping"):
            km.save(Dense().random(2, 2), tmp_path / "A", certificate=given)  # type: ignore[arg-type]
