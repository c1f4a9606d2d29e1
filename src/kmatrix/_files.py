"""Writing files so that bad luck loses nothing: a temporary name beside the target, then a rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from kmatrix._errors import ArgumentError, complaint


def write_atomically(where: str, path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all; what was there before stays until the new file is complete.

    As if the file had been opened and written, a new one follows the user's mask, an old one keeps its permissions,
    and a link stays and leads to what was written.

    Raises:
        ArgumentError: if the folder is missing, the disk is full, writing is not allowed, or something stands there
            that is not a file; nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # A rename would replace even /dev/null where the user may.
        reason = "there is something else than a file"
        raise ArgumentError(complaint(where, "path", path, reason, "choose another name"))
    try:
        _replace(_followed(path), content)
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        way_out = "check the folder, the permissions and the free space"
        raise ArgumentError(complaint(where, "path", path, reason, way_out)) from error


def _followed(path: Path) -> Path:
    """The file that opening ``path`` for writing would write."""
    try:
        target = path.resolve()
    except RuntimeError:  # how Python before 3.13 reports a loop
        target = path
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _replace(target: Path, content: bytes) -> None:
    mode: int | None = None
    if target.exists():
        # A rename asks the folder alone, and would replace a file that its owner made read-only.
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        mode = stat.S_IMODE(target.stat().st_mode)
    # Named before it exists, so that no interrupt can fall between its making and our knowing of it.
    temporary = target.parent / f".kmatrix-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                temporary.chmod(mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
