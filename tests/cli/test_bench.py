"""``kmatrix bench``: what it prints and writes, and what it refuses before it measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from kmatrix.benchmark.results import read_results

Command = Callable[..., Result]


def test_the_map_is_printed_and_written(kmatrix: Command, tmp_path: Path) -> None:
    result = kmatrix("bench", "--quick", "--only", "map", "--only", "curve", "--out", "deep/down")
    assert result.exit_code == 0
    assert "times dense, float32" in result.stdout and "1 thread, PyTorch" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert sorted(p.name for p in (tmp_path / "deep/down").iterdir()) == ["cpu.json", "cpu.svg"]
    found = read_results(tmp_path / "deep/down/cpu.json")
    assert {p.dtype for p in found.map} == {"float32", "bfloat16"}
    assert found.machine["threads"] == "1"
    assert found.cases == []


def test_everyone_and_the_goals_are_printed(kmatrix: Command, tmp_path: Path) -> None:
    result = kmatrix("bench", "--quick", "--only", "half", "--only", "monarch")
    for words in (
        "dense bfloat16 (baseline)",
        "kmatrix float16",
        "torch.bmm, features first",
        "what it must show",
    ):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "…" not in result.stdout  # nothing was cut to fit
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "butterflies"], "use some of butterfly"),
        (["--threads", "0"], "pass 1 or more"),
        (["--out", "taken"], "cannot be made: File exists"),
    ],
)
def test_refusals_are_one_line(kmatrix: Command, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "taken").write_bytes(b"")
    result = kmatrix("bench", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert says in line
