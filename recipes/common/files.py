"""Files that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a name of this process's own, then rename: who is interrupted keeps the old file."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        write(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """The same for text."""
    replace(path, lambda new: new.write_text(text, encoding="utf-8"))
