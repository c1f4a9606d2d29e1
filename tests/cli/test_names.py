"""The table from names on the command line to structures."""

from __future__ import annotations

import dataclasses

import pytest

import kmatrix as km
from kmatrix.cli.names import STRUCTURES, structure_from

VALUES = {
    "nblocks": 2,
    "budget": 0.3,
    "rank": 3,
    "ranks": 2,
    "order": 2,
    "width": 2,
    "expansion": 2,
    "depth": 1,
    "block": 4,
    "nnz": 5,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_name_makes_a_structure_with_all_of_its_options(name: str) -> None:
    options = {key: VALUES[key] for key in STRUCTURES[name].options}
    structure = structure_from(name, {key: options.get(key) for key in VALUES})
    assert isinstance(structure, STRUCTURES[name].structure)
    assert {key: getattr(structure, key) for key in options} == options


@pytest.mark.parametrize("name", STRUCTURES)
def test_required_options_are_those_without_a_default(name: str) -> None:
    fields = dataclasses.fields(STRUCTURES[name].structure)  # type: ignore[arg-type]
    assert set(STRUCTURES[name].required) == {f.name for f in fields if f.default is dataclasses.MISSING}


def test_names_are_in_order_and_spelt_as_options_are() -> None:
    assert list(STRUCTURES) == sorted(STRUCTURES)
    assert all(name == name.lower() and "_" not in name for name in STRUCTURES)


def test_an_option_of_another_structure_is_refused() -> None:
    with pytest.raises(km.ArgumentError, match="it takes no options"):
        structure_from("hankel", {"rank": 2})
