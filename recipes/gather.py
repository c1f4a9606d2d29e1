"""Put the tables of all recipes where they are read: on one page of the documentation, and in their READMEs.

python -m recipes.gather          # in the repository; writes docs/recipes.md and recipes/*/README.md
"""

from __future__ import annotations

from pathlib import Path

from . import FOLDERS, load
from .common.files import replace_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
RESULTS = Path("results") / "small" / "tables.md"
BEGIN, END = "<!-- {what}: begin -->", "<!-- {what}: end -->"


def pages() -> dict[Path, str]:
    """All pages with their tables as the results have them now, by their files."""
    sections = "\n".join(map(_section, FOLDERS))
    found = {PAGE: _between(PAGE.read_text(encoding="utf-8"), "recipes", sections)}
    for folder in FOLDERS:
        readme, tables = ROOT / "recipes" / folder / "README.md", ROOT / "recipes" / folder / RESULTS
        text = readme.read_text(encoding="utf-8")
        if tables.is_file() and BEGIN.format(what="tables") in text:
            found[readme] = _between(text, "tables", "\n" + tables.read_text(encoding="utf-8"))
    return found


def _between(text: str, what: str, new: str) -> str:
    """A text with something else between its two marks."""
    begin, end = BEGIN.format(what=what), END.format(what=what)
    head, rest = text.split(begin)
    return f"{head}{begin}\n{new}\n{end}{rest.split(end)[1]}"


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
    for path, text in pages().items():
        replace_text(path, text)
