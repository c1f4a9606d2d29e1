"""Results in a folder: one file for each run while runs are made, then one for all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from .errors import RecipeError, complaint
from .files import replace_text
from .recipe import Case, Recipe, Row

FILE, ROWS, RUNS, SHARED = "results.json", "rows", "runs", "shared"
LOCK = ".lock"
FORMAT = 1


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))  # type: ignore[no-any-return]


def digest(settings: Any, case: Case, seed: int) -> str:
    """What tells a run from all others."""
    content = json.dumps([as_json(settings), case.name, dict(case.options), seed], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class Results:
    """All runs of a recipe with one preset, in a folder.

    Several processes may add rows, each to a file of its own; ``collect`` puts them into one.

    Raises:
        RecipeError: if the folder has results of something else, or a file there cannot be read.
    """

    def __init__(self, folder: Path, recipe: Recipe[Any], preset: str, settings: Any) -> None:
        self.folder = folder
        self.head = {"format": FORMAT, "recipe": recipe.name, "preset": preset, "settings": as_json(settings)}
        self.searched: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, Row] = {}
        if (folder / FILE).is_file() or (folder / ROWS).is_dir():
            with self._alone():
                self._take_in()

    @property
    def empty(self) -> bool:
        """Whether nothing was made so far, neither now nor before."""
        return not (self.rows or self.searched or (self.folder / FILE).is_file())

    def _alone(self) -> FileLock:
        """The folder, which exists now, for this process alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / LOCK)

    def _take_in(self) -> None:
        """What is in the folder by now, from this process or others."""
        folder = self.folder
        known = self._read(folder / FILE) if (folder / FILE).is_file() else {}
        for key in ("format", "recipe", "preset", "settings"):
            if known and known.get(key) != self.head[key]:
                reason = f"its results are of another {key}: {_short(known.get(key), self.head[key])}"
                way_out = "give another --out, or remove the folder"
                raise RecipeError(complaint("kmatrix recipe", "--out", folder, reason, way_out))
        self.searched = known.get("searched", {}) | self.searched
        self.rows = {row["digest"]: row for row in known.get("rows", [])} | self.rows
        for path in sorted((folder / ROWS).glob("*.json")):
            self.rows.setdefault(path.stem, self._read(path))

    def add(self, row: Row) -> None:
        """Keep a row, on disk, too."""
        self.rows[row["digest"]] = row
        with self._alone():
            (self.folder / ROWS).mkdir(exist_ok=True)
            replace_text(self.folder / ROWS / f"{row['digest']}.json", json.dumps(row, indent=1) + "\n")

    def collect(self, digests: Sequence[str]) -> list[Row]:
        """Write all rows into one file; those of the given digests, in their order.

        Rows of other digests (made with other settings, before a search found better ones) are kept in the file.
        """
        with self._alone():
            # Others may have collected meanwhile: what they have written is taken in.
            self._take_in()
            current = [self.rows[key] for key in digests if key in self.rows]
            others = [row for key, row in self.rows.items() if key not in set(digests)]
            record = {**self.head, "searched": self.searched, "rows": current + others}
            replace_text(self.folder / FILE, json.dumps(record, indent=1) + "\n")
            for key in self.rows:
                (self.folder / ROWS / f"{key}.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not there
                (self.folder / ROWS).rmdir()
        return current

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            way_out = "remove it, or give another --out"
            raise RecipeError(
                complaint("kmatrix recipe", "--out", path, f"unreadable: {error}", way_out)
            ) from None


def _short(known: Any, wanted: Any) -> str:
    """The entries in which two differ."""
    if not (isinstance(known, dict) and isinstance(wanted, dict)):
        return f"{known} and not {wanted}"
    keys = [key for key in sorted({*known, *wanted}) if known.get(key) != wanted.get(key)]
    return "; ".join(f"{key} {known.get(key)} and not {wanted.get(key)}" for key in keys[:3])
