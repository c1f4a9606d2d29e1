"""Writing files so that bad luck loses nothing: a temporary name beside the target, then a rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kmatrix._checks import check_path
from kmatrix._errors import ArgumentError, complaint


def write_atomically(where: str, path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all; what was there before stays until the new file is complete.

    As if the file had been opened and written, a new one follows the user's mask, an old one keeps its permissions,
    and a link stays and leads to what was written.

    Raises:
        ArgumentError: if the folder is missing, the disk is full, writing is not allowed, or something stands there
            that is not a file; nothing is left behind.
    """
    write_together(where, {check_path(where, "path", path): [content]})


def write_together(where: str, contents: Mapping[Path, Iterable[bytes | memoryview]]) -> None:
    """Write several files as ``write_atomically`` does one: all of them, or none and the old ones stay.

    Each is given in pieces. All are complete under other names before the first takes its place; if one cannot take
    its place, those before it are put back. Only a machine that stops between two renames leaves new beside old.

    Raises:
        ArgumentError: as ``write_atomically``.
    """
    with contextlib.ExitStack() as leftovers:
        ready: list[tuple[Path, Path]] = []
        for path, pieces in contents.items():
            with _worded(where, path):
                if path.exists() and not path.is_file():
                    # A rename would replace even /dev/null where the user may.
                    reason = "there is something else than a file"
                    raise ArgumentError(complaint(where, "path", path, reason, "choose another name"))
                target = _followed(path)
                # Named before it exists, so that no interrupt can fall between its making and our knowing of it.
                temporary = _beside(target)
                leftovers.callback(_forget, temporary)
                _write(temporary, target, pieces)
                ready.append((temporary, target))
        with contextlib.ExitStack() as back:
            for path, (temporary, target) in zip(contents, ready, strict=True):
                with _worded(where, path):
                    if len(ready) > 1:
                        _put_back_unless_done(target, back, leftovers)
                    temporary.replace(target)
            back.pop_all()


@contextlib.contextmanager
def _worded(where: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        way_out = "check the folder, the permissions and the free space"
        raise ArgumentError(complaint(where, "path", path, reason, way_out)) from error


def _put_back_unless_done(target: Path, back: contextlib.ExitStack, leftovers: contextlib.ExitStack) -> None:
    """Keep the file that is about to be replaced, to be put back if a later one fails."""
    if not target.exists():
        back.callback(_forget, target)
        return
    kept = _beside(target)
    leftovers.callback(_forget, kept)
    os.link(target, kept)
    back.callback(kept.replace, target)


def _beside(target: Path) -> Path:
    return target.parent / f".kmatrix-{secrets.token_hex(8)}"


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _followed(path: Path) -> Path:
    """The file that opening ``path`` for writing would write."""
    try:
        target = path.resolve()
    except RuntimeError:  # how Python before 3.13 reports a loop
        target = path
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _write(temporary: Path, target: Path, pieces: Iterable[bytes | memoryview]) -> None:
    mode: int | None = None
    if target.exists():
        # A rename asks the folder alone, and would replace a file that its owner made read-only.
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        mode = stat.S_IMODE(target.stat().st_mode)
    with temporary.open("xb") as file:
        if mode is not None:
            temporary.chmod(mode)
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
