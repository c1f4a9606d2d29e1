"""Files are written whole or not at all, and bad luck leaves what was there before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import kmatrix as km
from kmatrix._files import write_atomically


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second, longer", b""):
        write_atomically("test", tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert listing(tmp_path) == ["a"]


def test_permissions_follow_the_users_mask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_atomically("test", tmp_path / "a", b"")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("step", ["fsync", "fdopen"])
def test_a_disk_that_fills_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(km.ArgumentError, match=r"No space left on device.*free space"):
        write_atomically("save", tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert listing(tmp_path) == ["a"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(km.ArgumentError, match="No such file or directory"):
        write_atomically("save", tmp_path / "no" / "a", b"")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_not_a_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(km.ArgumentError, match="something else than a file"):
        write_atomically("save", path, b"new")
    assert path.exists() and not path.is_file()
