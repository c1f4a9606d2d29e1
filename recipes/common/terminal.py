"""Tables on a terminal: columns that do not fit go into further blocks, words and numbers stay whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .recipe import Sheet

PAD = 2
"""Columns of the terminal between two of the table."""
WORDS = 28
"""Columns of the terminal that a column of words is given at least, if it has as many; beyond them it may wrap."""


def terminal(sheet: Sheet, width: int) -> RenderableType:
    """The table for a terminal of some width.

    Every block begins with the columns that tell the rows apart, if they leave room for others. Headings wrap at
    spaces, and so do words; no figure is cut or folded unless it is wider than the terminal.
    """
    width += PAD  # the last column has none behind it
    least = {k: _least(sheet, k, WORDS) for k in _keys(sheet)}
    if sum(wide + PAD for wide in least.values()) > 0.75 * width:
        least = {0: least[0]}
    keys = list(least)
    room = width - sum(wide + PAD for wide in least.values())
    rest = [k for k in range(len(sheet.columns)) if k not in keys]
    least |= {k: _least(sheet, k, min(WORDS, room - PAD)) for k in rest}
    parts: list[RenderableType] = [Text(sheet.title, style="bold")]
    for block in _blocks(rest, least, room):
        parts += [_table(sheet, [*keys, *block], least, width), Text()]
    parts += [Text(note) for note in sheet.notes]
    return Group(*parts, *([Text()] if sheet.notes else []))


def _keys(sheet: Sheet) -> list[int]:
    """The fewest first columns that tell the rows apart, the first alone if none do."""
    for count in range(1, len(sheet.columns)):
        if len({tuple(row[:count]) for row in sheet.rows}) == len(sheet.rows):
            return list(range(count))
    return [0]


def _least(sheet: Sheet, column: int, words: int) -> int:
    """The width that a column needs; one of words no more than so much, if they are shorter."""
    heading = sheet.columns[column]
    cells = [row[column] for row in sheet.rows]
    longest = max(map(len, heading.removeprefix("#").split()), default=1)
    if heading.startswith("#"):
        return max([longest, *map(len, cells)])
    longest = max([longest, *(len(word) for cell in cells for word in cell.split())])
    return max(longest, min(words, max(map(len, cells), default=0)))


def _blocks(columns: Sequence[int], least: Mapping[int, int], room: int) -> list[list[int]]:
    """Columns that fit beside the keys, in order; one that never fits has a block of its own."""
    blocks: list[list[int]] = []
    left = -1
    for column in columns:
        left -= least[column] + PAD
        if left < 0 or not blocks:
            blocks.append([])
            left = room - least[column] - PAD
        blocks[-1].append(column)
    return blocks or [[]]


def _table(sheet: Sheet, columns: Sequence[int], least: Mapping[int, int], width: int) -> Table:
    """One block."""
    table = Table(box=None, header_style="bold", padding=(0, PAD, 0, 0), pad_edge=False)
    for k, wide in _widths(sheet, columns, least, width).items():
        heading = sheet.columns[k]
        side: Literal["left", "right"] = "right" if heading.startswith("#") else "left"
        table.add_column(Text(heading.removeprefix("#")), width=wide, justify=side, overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(row[k]) for k in columns))
    return table


def _widths(sheet: Sheet, columns: Sequence[int], least: Mapping[int, int], width: int) -> dict[int, int]:
    """What room is left goes where most lines are, one by one."""
    widths = {k: least[k] for k in columns}
    texts = {k: [sheet.columns[k].removeprefix("#"), *(row[k] for row in sheet.rows)] for k in columns}

    def lines(k: int) -> int:
        return max(
            len(wrap(text, widths[k])) for text in texts[k] if len(text) > widths[k] or text is texts[k][0]
        )

    high = {k: lines(k) for k in columns}
    for _ in range(width - sum(wide + PAD for wide in widths.values())):
        k = max(columns, key=high.__getitem__)
        if high[k] <= 1:
            break
        widths[k] += 1
        high[k] = lines(k)
    return widths
