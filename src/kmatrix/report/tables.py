"""Tables and cards of a page as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def head(*names: str) -> str:
    """Column headings; those that start with # stand over numbers."""
    cells = (f'<th class="n">{escape(h[1:])}</th>' if h[0] == "#" else f"<th>{escape(h)}</th>" for h in names)
    return f"<tr>{''.join(cells)}</tr>"


def row(cells: Iterable[str], css: str = "") -> str:
    """A row of cells that are HTML already."""
    attribute = f' class="{css}"' if css else ""
    return f"<tr{attribute}>{''.join(cells)}</tr>"


def text(words: str) -> str:
    """A cell of words."""
    return f"<td>{escape(words)}</td>"


def number(figure: str, *, won: bool = False) -> str:
    """A cell of a number, green if it won."""
    return f'<td class="{"n won" if won else "n"}">{escape(figure)}</td>'


def table(heading: str, rows: Iterable[str]) -> str:
    """A table that scrolls where it is too wide."""
    return f'<div class="scroll"><table>{heading}{"".join(rows)}</table></div>'


def cards(figures: Iterable[tuple[str, str, str]]) -> str:
    """The figures that matter most, side by side: what each is, its value, and a detail."""
    each = (
        f"<div><span>{escape(what)}</span><b>{escape(value)}</b><span>{escape(detail)}</span></div>"
        for what, value, detail in figures
    )
    return f'<div class="cards">{"".join(each)}</div>'
