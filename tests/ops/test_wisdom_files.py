"""Where wisdom is kept, and what happens where it cannot be: nothing is lost, and a user is told."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kmatrix._errors import ArgumentError
from kmatrix.ops import Pattern, native, tune, wisdom
from kmatrix.ops.native_module import native_part
from kmatrix.ops.native_plan import Schedule

needs_native = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
not_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
ANSWER = Schedule("rows", (1,), 1)
WEIGHTS = [torch.ones(Pattern(4, 2, 2, 1)), torch.ones(Pattern(2, 2, 2, 2))]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of its own for each test, and nothing known before or after."""
    path = tmp_path / "wisdom.json"
    monkeypatch.setenv("KMATRIX_WISDOM", str(path))
    wisdom.forget()
    native.forget_schedules()
    yield path
    wisdom.forget()
    native.forget_schedules()


def test_nothing_is_in_the_way_of_a_file_of_ours(file: Path) -> None:
    assert wisdom.obstacle(file) is None
    assert wisdom.obstacle(file.parent / "new" / "folders" / "wisdom.json") is None
    assert wisdom.remember("key", ANSWER, {}) == file
    assert wisdom.obstacle(file) is None


@pytest.mark.parametrize("content", [b"", b" \n"], ids=["empty", "blank"])
def test_an_empty_file_is_filled(file: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(content)
    assert wisdom.obstacle(file) is None
    assert wisdom.remember("key", ANSWER, {}) == file
    assert set(json.loads(file.read_text())["entries"]) == {"key"}
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"format": 2, "entries": {"precious": {}}}', "format 2, this version reads 1"),
        (b"[1, 2]", "not a table of answers"),
        (b"\xff\x00 somebody's photograph", "Expecting value"),
        (b'{"format": 1, "entries": {"half', "Unterminated"),
    ],
    ids=["newer", "foreign", "bytes", "damaged"],
)
def test_a_file_that_is_not_ours_stays_as_it_is(
    file: Path, content: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(content)
    found = wisdom.obstacle(file)
    assert found is not None
    assert why in found
    with caplog.at_level(logging.WARNING, logger="kmatrix"):
        assert wisdom.remember("key", ANSWER, {}) is None
    assert file.read_bytes() == content
    assert wisdom.answers() == 1  # this process knows
    assert "left as it is" in caplog.text
    assert "KMATRIX_WISDOM" in caplog.text


def test_a_folder_in_its_place(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    (file / "content").mkdir(parents=True)
    assert wisdom.obstacle(file) == "is a folder"
    assert wisdom.remember("key", ANSWER, {}) is None
    assert wisdom.answers() == 1
    assert (file / "content").is_dir()
    assert "not kept" in caplog.text


def test_a_file_where_a_folder_should_be(file: Path) -> None:
    file.write_bytes(b"")
    found = wisdom.obstacle(file / "wisdom.json")
    assert found is not None
    assert str(file) in found


@not_root
def test_a_folder_that_may_not_be_written(file: Path) -> None:
    file.parent.chmod(0o500)
    try:
        assert wisdom.obstacle(file) == f"{file.parent} cannot be written"
        assert wisdom.remember("key", ANSWER, {}) is None
    finally:
        file.parent.chmod(0o700)


@not_root
def test_a_file_that_may_not_be_written(file: Path) -> None:
    file.write_text('{"format": 1, "entries": {}}')
    file.chmod(0o400)
    assert wisdom.obstacle(file) == "cannot be written"


def test_a_home_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_WISDOM", "~no-such-user/wisdom.json")
    assert wisdom.wisdom_path() is None


@needs_native
def test_tuning_goes_on_without_a_file(file: Path) -> None:
    file.mkdir()
    found = tune(WEIGHTS, batch=40, seconds=0.01)
    assert found.path is None
    assert "not kept in a file" in str(found)
    assert (
        wisdom.learned_schedule((Pattern(4, 2, 2, 1), Pattern(2, 2, 2, 2)), torch.float32, 64, 1)
        == found.schedule
    )
    file.rmdir()
    assert "not kept" not in str(tune(WEIGHTS, batch=40, seconds=0.01))


@pytest.mark.parametrize(
    "seconds", [0, -1, float("nan"), float("inf"), 10**400, "1", None, True, 1j], ids=repr
)
def test_seconds_are_checked(seconds: object) -> None:
    with pytest.raises(ArgumentError, match=r"tune: seconds=.*must be a positive, finite number"):
        tune(WEIGHTS, batch=4, seconds=seconds)  # type: ignore[arg-type]


@needs_native
def test_one_vector_is_one() -> None:
    found = tune(WEIGHTS, batch=4, seconds=0.01)
    one, two = (found._replace(schedule=Schedule("tiles", (2,), height)) for height in (1, 2))
    assert "tiles 1 vector high" in str(one)
    assert "tiles 2 vectors high" in str(two)


def test_nothing_to_compute_is_nothing_to_measure() -> None:
    with pytest.raises(ArgumentError, match="nothing to compute"):
        tune(WEIGHTS, batch=4, take=[])
