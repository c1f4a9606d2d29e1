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


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("mask", [0o027, 0o022, 0o077, 0o002])
def test_permissions_follow_the_users_mask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically("test", tmp_path / "a", b"")
        with (tmp_path / "b").open("wb"):
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == mode(tmp_path / "b") == 0o666 & ~mask


def test_the_mask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that makes a file meanwhile would see the mask of this one."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask is the process's"))
    write_atomically("test", tmp_path / "a", b"")


@pytest.mark.parametrize("kept", [0o600, 0o664, 0o755])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(kept)
    write_atomically("test", path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", kept)


def test_a_file_that_may_not_be_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o444)
    # Root may write everything, so the answer is played.
    monkeypatch.setattr(os, "access", lambda target, how: Path(target) != path or how != os.W_OK)
    with pytest.raises(km.ArgumentError, match="Permission denied"):
        write_atomically("save", path, b"new")
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["a"]


def test_links_stay_and_their_target_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "target").write_bytes(b"old")
    (tmp_path / "second").symlink_to(Path("elsewhere") / "target")
    (tmp_path / "first").symlink_to("second")
    write_atomically("test", tmp_path / "first", b"new")
    assert (tmp_path / "first").is_symlink() and (tmp_path / "second").is_symlink()
    assert (folder / "target").read_bytes() == b"new"
    assert listing(folder) == ["target"]


def test_a_link_to_nothing_yet_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("target")
    write_atomically("test", tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(km.ArgumentError, match=os.strerror(errno.ELOOP)):
        write_atomically("save", tmp_path / "a", b"new")
    assert listing(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").is_symlink()


STEPS = ["os.fsync", "Path.open", "Path.replace"]


def failing(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    """Make one step of writing raise."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"kmatrix._files.{step}", fail)


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fills_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    failing(monkeypatch, step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(km.ArgumentError, match=r"No space left on device.*free space"):
        write_atomically("save", tmp_path / "a", b"new")
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert listing(tmp_path) == ["a"]


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    failing(monkeypatch, step, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_atomically("save", tmp_path / "a", b"new")
    monkeypatch.undo()
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
