"""Writing files so that bad luck loses nothing: a temporary name beside the target, then a rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from kmatrix._errors import ArgumentError, complaint


def write_atomically(where: str, path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all; what was there before stays until the new file is complete.

    Raises:
        ArgumentError: if the folder is missing, the disk is full, writing is not allowed, or something stands there
            that is not a file; nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # A rename would replace even /dev/null where the user may.
        reason = "there is something else than a file"
        raise ArgumentError(complaint(where, "path", path, reason, "choose another name"))
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; a saved file follows the user's usual mask instead.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        reason = f"cannot be written: {error.strerror or error}"
        way_out = "check the folder, the permissions and the free space"
        raise ArgumentError(complaint(where, "path", path, reason, way_out)) from error
