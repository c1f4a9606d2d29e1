"""Finding files in a user's folder."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError, complaint


def find(folder: Path, names: Sequence[str], what: str) -> Path:
    """The first of some file names in a folder or in a folder inside it.

    Raises:
        DataError: if there is none of them.
    """
    path = found(folder, names)
    if path is None:
        reason = f"no {what} there: none of {', '.join(names)} in it or in its folders"
        raise DataError(complaint("kmatrix recipe", "--data", folder, reason, "see the recipe's README"))
    return path


def found(folder: Path, names: Sequence[str]) -> Path | None:
    """The same, or None."""
    for name in names:
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    return None


def bad(path: Path, reason: str) -> DataError:
    """The complaint about a file that is not what it should be."""
    return DataError(complaint("kmatrix recipe", "--data", path, reason, "get a fresh copy"))
