"""Results as one page that holds its tables and pictures and needs nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from . import sheets as tables
from .recipe import Recipe, Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; max-width: 20rem; }
th { vertical-align: bottom; }
th.number { max-width: 7rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
svg { max-width: 100%; height: auto; }
p.source { color: #555; }
p.partial { font-weight: bold; }
"""


def svg(figure: Figure) -> str:
    """A figure as SVG, the same text for the same figure."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "kmatrix", "svg.fonttype": "none"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def page(
    recipe: Recipe[object],
    preset: str,
    sheets: Sequence[Sheet],
    pictures: Mapping[str, str],
    made: str,
    missing: str = "",
) -> str:
    """The HTML of a recipe's results; pictures are SVG by name, and what is missing is said first."""
    drawn = "".join(f"<figure>{_unique(text, name)}</figure>" for name, text in pictures.items())
    stand_in = f"<p>{escape(recipe.stand_in)}</p>" if recipe.stand_in and preset == "small" else ""
    partial = f'<p class="partial">{escape(missing)}</p>\n' if missing else ""
    body = "\n".join(map(tables.html, sheets))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(recipe.title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f'<h1>{escape(recipe.title)}</h1>\n<p class="source">{escape(recipe.source)}; preset {preset}; '
        f"{escape(made)}</p>\n{partial}{stand_in}\n{body}\n{drawn}\n</body></html>\n"
    )


def _unique(text: str, name: str) -> str:
    """An SVG to stand in a page beside others: without its head, its ids its own."""
    text = text[text.index("<svg") :]
    own = re.sub(r"\W", "", name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{own}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#{own}-\1"', text)
