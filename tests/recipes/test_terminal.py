"""Tables of recipes on terminals: as wide as those, with whole words and figures."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
from rich.console import Console

from kmatrix.cli.recipe import recipes

Sheet: Any = importlib.import_module(f"{recipes().__name__}.common.recipe").Sheet
terminal: Any = importlib.import_module(f"{recipes().__name__}.common.terminal").terminal


def lines(sheet: Any, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(terminal(sheet, width))
    return [line.rstrip() for line in captured.get().splitlines()]


HEADS = ["target", "#N", *(f"#test accuracy of method {k}, %" for k in range(7)), "how it was found"]
ROWS = [
    [
        name,
        str(n),
        *(f"{10 * k + n}.25 ± 0.10" for k in range(7)),
        "the largest entries of the matrix, and then some",
    ]
    for name in ("Fourier", "Hadamard")
    for n in (8, 1024)
]
SHEET = Sheet("Many columns", HEADS, ROWS, ["A note of several words. " * 8])


@pytest.mark.parametrize("width", [40, 60, 80, 120, 400])
def test_nothing_is_cut_or_folded(width: int) -> None:
    found = lines(SHEET, width)
    assert max(map(len, found)) <= width
    text = "\n".join(found)
    for row in ROWS:
        for cell in row[2:9]:
            assert cell in text
    known = set(
        re.findall(
            r"\S+", " ".join([SHEET.title, *SHEET.notes, *HEADS, *(cell for row in ROWS for cell in row)])
        )
    )
    assert set(re.findall(r"\S+", text)) <= known | {head.removeprefix("#") for head in known}


def test_every_block_says_whose_its_rows_are() -> None:
    found = lines(SHEET, 60)
    blocks = [k for k, line in enumerate(found) if "target" in line]
    assert len(blocks) > 1
    for begin in blocks:
        rows = [re.split(r"\s{2,}", line)[:2] for line in found[begin + 1 : begin + 20]]
        assert [row for row in rows if row[0] in ("Fourier", "Hadamard")][:4] == [
            [row[0], row[1]] for row in ROWS
        ]


def test_columns_that_leave_no_room_are_not_repeated() -> None:
    heads = ["name", *(f"#{k}" for k in range(6))]
    rows = [["the same", *("1.2345678" for _ in range(5)), str(k)] for k in range(3)]
    found = lines(Sheet("Alike", heads, rows), 40)
    assert max(map(len, found)) <= 40 and sum("name" in line for line in found) == 3
    assert sum("1.2345678" in line for line in found) == 9


def test_what_fits_is_one_table() -> None:
    small = Sheet("Small", ["name", "#value"], [["a", "1.0"], ["b", "12.0"]])
    assert lines(small, 80) == ["Small", "name  value", "a       1.0", "b      12.0", ""]
    assert lines(Sheet("Empty", ["name", "#value"], []), 80)[:2] == ["Empty", "name  value"]
