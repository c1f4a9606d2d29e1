"""Gather the tables of all recipes on one page of the documentation.

python -m recipes.gather          # in the repository; writes docs/recipes.md
"""

from __future__ import annotations

from pathlib import Path

from . import FOLDERS, load
from .common.files import replace_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
RESULTS = Path("results") / "small" / "tables.md"
BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"


def page() -> str:
    """The page with its tables as the results have them now."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    return "\n".join([f"{head}{BEGIN}", *map(_section, FOLDERS), f"{END}{tail}"])


def _section(folder: str) -> str:
    recipe = load(folder)
    base = f"../recipes/{folder}"
    lines = [f"## {recipe.title}", "", f"`{recipe.name}`, after {recipe.source}. [README]({base}/README.md)."]
    if recipe.stand_in:
        lines += ["", recipe.stand_in]
    tables = ROOT / "recipes" / folder / RESULTS
    if not tables.is_file():
        return "\n".join([*lines, "", "No results yet.", ""])
    pictures = sorted(tables.parent.glob("*.svg"))
    shown = [f"![{path.stem}]({base}/{path.relative_to(ROOT / 'recipes' / folder)})" for path in pictures]
    return "\n".join([*lines, "", tables.read_text(encoding="utf-8").rstrip(), "", *shown, ""])


if __name__ == "__main__":
    replace_text(PAGE, page())
