"""The documentation is true: its code runs, its links lead somewhere, its tables are complete."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmatrix import structures
from kmatrix.fitting.search.families import FAMILIES

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("src/**/*.md")),
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every fenced block of a page in one of the languages."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] in languages:
            yield text.count("\n", 0, match.start(2)), match[2]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that headings get: lower case, punctuation dropped, spaces to hyphens."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [p for p in PAGES if [*blocks(p, "python", "pycon")]], ids=page_id)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in order in one namespace; those with prompts must print what they say."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    parser, runner = doctest.DocTestParser(), doctest.DebugRunner(optionflags=FLAGS)
    for line, text in blocks(page, "python", "pycon"):
        if text.startswith(">>>"):
            test = parser.get_doctest(text, namespace, page.name, str(page), line)
            test.globs = namespace  # shared, not copied: later blocks go on where this one stopped
            runner.run(test, clear_globs=False)
        else:
            exec(compile("\n" * line + text, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shell = "\n".join(text for _, text in blocks(page, "", "sh", "bash", "console"))
    quoted = " \n".join(re.findall(r"`([^`]+)`", prose(page)))
    named = set(re.findall(r"^\s*(?:\$ )?make ([a-z]+)", f"{shell}\n{quoted}", re.MULTILINE))
    assert [target for target in sorted(named) if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = set(re.findall(r"\]\(([\w./-]+\.md)", index.read_text(encoding="utf-8")))
    assert {page.name for page in index.parent.glob("*.md")} - linked == {"index.md"}


def test_table_of_structures_is_complete() -> None:
    table = (ROOT / "docs" / "structures.md").read_text(encoding="utf-8")
    public = vars(structures).values()
    families = [
        value for value in public if inspect.isclass(value) and issubclass(value, structures.Structure)
    ]
    concrete = [family.__name__ for family in families if not inspect.isabstract(family)]
    assert concrete and [name for name in concrete if f"| `{name}" not in table] == []


def test_page_of_fit_lists_the_families_of_the_search() -> None:
    text = (ROOT / "docs" / "fit.md").read_text(encoding="utf-8")
    table = text.partition("| family |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| ([a-zA-Z][^|]*?) \|", table, re.MULTILINE) == [name for name, _ in FAMILIES]


@pytest.mark.parametrize(
    ("page", "package"), [("transforms", "transforms"), ("constructions", "constructions")], ids=lambda x: x
)
def test_tables_of_functions_are_complete(page: str, package: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    public = vars(importlib.import_module(f"kmatrix.{package}")).items()
    functions = [name for name, value in public if inspect.isfunction(value) and not name.startswith("_")]
    assert functions and [name for name in functions if not re.search(rf"`{name}\b", text)] == []


def test_every_benchmark_is_described() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    scripts = [path.name for path in (ROOT / "benchmarks").glob("*.py")]
    assert scripts and [name for name in scripts if f"`python benchmarks/{name}`" not in text] == []


@pytest.mark.parametrize("script", EXAMPLES, ids=page_id)
def test_examples_run(script: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "error::Warning:kmatrix", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
