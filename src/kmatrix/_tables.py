"""Tables for people: aligned text wherever something is printed, and rich's own where rich prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Sheet:
    """Rows of words and numbers under headings.

    Attributes:
        headings: of the columns; those that begin with # hold numbers, which stand at the right.
        rows: as many cells each; those of ``quiet`` rows are dimmed where that can be done.
        quiet: the rows that hold nothing new, by index.

    Example:
        >>> print(Sheet(("layer", "#of dense"), (("0", "50%"), ("head", "100%"))))
        layer  of dense
        0           50%
        head       100%
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    quiet: frozenset[int] = frozenset()

    def __str__(self) -> str:
        heads = [heading.removeprefix("#") for heading in self.headings]
        widths = [max(map(len, column)) for column in zip(heads, *self.rows, strict=True)]
        return "\n".join(self._line(cells, widths) for cells in (heads, *self.rows))

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        aligned = (
            cell.rjust(width) if heading.startswith("#") else cell.ljust(width)
            for cell, width, heading in zip(cells, widths, self.headings, strict=True)
        )
        return "  ".join(aligned).rstrip()

    def __rich__(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        table = Table(header_style="bold", box=None)
        for heading in self.headings:
            number = heading.startswith("#")
            wraps = heading == self.headings[-1] and not number
            table.add_column(
                heading.removeprefix("#"), justify="right" if number else "left", no_wrap=not wraps
            )
        for k, cells in enumerate(self.rows):
            table.add_row(*map(escape, cells), style="dim" if k in self.quiet else "")
        return table


def counted(number: int, what: str) -> str:
    """A number of things, in the singular or plural.

    Example:
        >>> counted(1, "layer"), counted(1200, "layer")
        ('1 layer', '1,200 layers')
    """
    return f"{number:,} {what}" + ("" if number == 1 else "s")
