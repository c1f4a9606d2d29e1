"""Fields of structures: whatever sequence they are given as, structures compare and hash."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kmatrix._checks import freeze_fields
from kmatrix._errors import ArgumentError
from kmatrix.structures import (
    BLAST,
    OBB,
    BlockDiagonal,
    BlockLowRank,
    BlockTensorTrain,
    Butterfly,
    Chain,
    Dense,
    Factor,
    GroupShuffle,
    Kronecker,
    LowRank,
    OrthogonalButterfly,
    Permute,
    Product,
    Structure,
    Sum,
)
from kmatrix.structures.chain import Layout
from kmatrix.structures.serialization import load, save

# Every family with a field that may be a tuple, each such field set.
TUPLES: list[tuple[Structure, int, int]] = [
    (BLAST(nblocks=(2, 3), rank=2), 6, 6),
    (BlockLowRank(nblocks=(2, 3)), 6, 6),
    (BlockTensorTrain(nblocks=(2, 3)), 6, 6),
    (Butterfly(radices=((2, 3), (4, 2)), ranks=(2,)), 8, 6),
    (Chain((Factor(1, 4, 4, 1), Permute(4))), 4, 4),
    (GroupShuffle(nblocks=(2, 3), shuffles=("stride", "given", "identity")), 6, 6),
    (Kronecker(left=(2, 3)), 6, 6),
    (OBB(radices=(2, 3)), 6, 6),
    (OrthogonalButterfly(radices=(2, 3)), 6, 6),
    (Product((Dense(), LowRank(2)), (5,)), 4, 6),
    (Sum((Dense(), LowRank(2))), 4, 6),
]
NAMES = [type(structure).__name__ for structure, _, _ in TUPLES]


def listed(value: object) -> Any:
    """The same value with lists for tuples, all the way down."""
    return [listed(item) for item in value] if isinstance(value, tuple) else value


def given_as_lists(structure: Any) -> Any:
    fields = dataclasses.fields(structure)
    return type(structure)(**{field.name: listed(getattr(structure, field.name)) for field in fields})


@pytest.mark.parametrize(("structure", "m", "n"), TUPLES, ids=NAMES)
def test_lists_are_tuples(structure: Structure, m: int, n: int) -> None:
    other = given_as_lists(structure)
    assert other == structure
    assert hash(other) == hash(structure)
    assert repr(other) == repr(structure)
    assert other.num_params(m, n) == structure.num_params(m, n)
    assert other.random(m, n).shape == (m, n)


def test_the_table_names_every_family_with_a_sequence() -> None:
    from kmatrix.structures._schema import FAMILIES

    hints = {
        name: [f"{field.type}" for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        for name, kind in FAMILIES.items()
    }
    aliases = ("tuple", "Grid", "Pairs")
    with_sequences = {name for name, types in hints.items() if any(a in t for a in aliases for t in types)}
    assert with_sequences == set(NAMES) - {"Product", "Sum"}


def test_arrays_are_tuples_too() -> None:
    assert Kronecker(np.array([2, 3])) == Kronecker((2, 3))  # type: ignore[arg-type]
    assert Butterfly(radices=np.array([[2, 3], [4, 2]])) == Butterfly(((2, 3), (4, 2)))  # type: ignore[arg-type]


def test_tuples_stay_the_object_they_are() -> None:
    stages = (Factor(1, 4, 4, 1), Permute(4))
    layout = Layout(stages)
    freeze_fields(layout)
    assert layout.stages is stages


def test_layouts_of_lists_compare() -> None:
    stages = [Factor(1, 4, 4, 1), Permute(4)]
    layout = Layout(stages)  # type: ignore[arg-type]
    assert layout == Layout(tuple(stages)) and hash(layout) == hash(Layout(tuple(stages)))
    stages.pop()
    assert len(layout.stages) == 2


def test_a_list_that_changes_later_changes_nothing() -> None:
    left = [2, 3]
    structure = Kronecker(left)  # type: ignore[arg-type]
    left[0] = 5
    assert structure == Kronecker((2, 3))


def test_lists_are_checked_as_tuples_are() -> None:
    with pytest.raises(ArgumentError, match="not a pair"):
        BLAST(nblocks=[1, 2, 3], rank=1)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="ranks"):
        Butterfly(radices=[[2, 2], [2, 2]], ranks=[1, 1])  # type: ignore[arg-type]


def test_structures_without_sequences_are_left_alone() -> None:
    assert hash(BlockDiagonal(2)) == hash(BlockDiagonal(2))


def test_what_was_given_as_lists_is_saved_and_loaded(tmp_path: Any) -> None:
    A = Kronecker([2, 3]).random(6, 6)  # type: ignore[arg-type]
    save(A, tmp_path / "A.safetensors")
    assert load(tmp_path / "A.safetensors").structure == A.structure
