"""Tables as Markdown and in HTML, and the figures in them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape

from .recipe import Row, Sheet


def mean_spread(values: Iterable[float], digits: int = 2, scale: float = 1.0) -> str:
    """Mean and standard deviation over seeds, ``"93.83 ± 0.31"``; one value alone, and nothing for none."""
    found = [scale * v for v in values if v is not None and math.isfinite(v)]
    if not found:
        return ""
    mean = f"{statistics.mean(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.{digits}f}"


def seeds(*counts: int) -> str:
    """How many seeds the figures of a line have: ``"3"``, ``"1 to 3"``."""
    low, high = min(counts), max(counts)
    return f"{high}" if low == high else f"{low} to {high}"


def of_case(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of a case, by seed."""
    return sorted((row for row in rows if row["case"] == name), key=lambda row: int(row["seed"]))


def markdown(sheet: Sheet) -> str:
    """The table with its title and notes."""
    heads = [column.removeprefix("#") for column in sheet.columns]
    rule = ["---:" if column.startswith("#") else "---" for column in sheet.columns]
    cells = [heads, rule, *([cell.replace("|", "\\|") for cell in row] for row in sheet.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([f"**{sheet.title}**", "", *lines, *(f"\n{note}" for note in sheet.notes)]) + "\n"


def html(sheet: Sheet) -> str:
    """The table for a page."""

    def cell(tag: str, column: str, text: str) -> str:
        number = ' class="number"' if column.startswith("#") else ""
        return f"<{tag}{number}>{escape(text)}</{tag}>"

    head = "".join(cell("th", column, column.removeprefix("#")) for column in sheet.columns)
    body = "\n".join(
        f"<tr>{''.join(cell('td', c, text) for c, text in zip(sheet.columns, row, strict=True))}</tr>"
        for row in sheet.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in sheet.notes)
    return f"<h2>{escape(sheet.title)}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n{notes}"
