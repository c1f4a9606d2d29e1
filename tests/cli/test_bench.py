"""``kmatrix bench``: what it prints and writes, and what it refuses before it measures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from click.testing import Result
from rich.console import Console

from kmatrix.benchmark.results import CaseResult, Figure, Results, Time, read_results
from kmatrix.cli.bench import show
from kmatrix.cli.tables import UNBOUNDED, output

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


def figure(value: float | None, **options: object) -> Figure:
    return Figure("butterfly 1024, batch 256", "dense", value, "x", 2.0, 4.0, **options)  # type: ignore[arg-type]


def printed(results: Results, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    show(console, results)
    return cast(io.StringIO, console.file).getvalue()


def test_every_row_says_whether_it_met_its_mark() -> None:
    results = Results({"processor": "P", "instructions": "avx2", "threads": "1", "torch": "2"})
    marks = {3.0: "met", 5.0: "aim met", 1.0: "missed"}
    results.figures.extend(figure(value) for value in marks)
    results.figures.extend([figure(None, why="no kernels"), figure(9.0, void=True)])
    lines = [line for line in printed(results, 80).splitlines() if line.split()[:1] == ["dense"]]
    assert [line.split("4x")[1].strip() for line in lines] == [*marks.values(), "not measured", "not judged"]


def test_nothing_is_cut_where_no_terminal_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert output().width == UNBOUNDED
    monkeypatch.setenv("COLUMNS", "60")
    assert output().width == 60
    long = CaseResult("case", "g", 1, 1, 1, "a" * 90, 1, (Time("a" * 90, 1, 1, 1, 1, 1, 1, None, 1.0, ""),))
    results = Results({"processor": "P", "instructions": "avx2", "threads": "1", "torch": "2"})
    results.cases.append(long)
    assert "a" * 90 in printed(results, UNBOUNDED)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "butterflies"], "use some of butterfly"),
        (["--threads", "0"], "pass 1 or more"),
        (["--threads", "100000"], "--threads=100000: this process may use"),
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
