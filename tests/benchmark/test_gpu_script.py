"""``benchmarks/gpu.py`` without a GPU: it says so, its checks run in the interpreter, and all but CUDA works."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import gpu
    from _gpu import cases, checks, contenders, measure, picture, results, session, workers
    from _gpu.cases import BMM, BUTTERFLY, COPY, DENSE, DENSE_GRAPH, FFT, GRAPH, OURS, PORTABLE, Case, Goal
    from _gpu.workers import Outcome, Pool, Unit
finally:
    sys.path.pop(0)

from kmatrix.benchmark.clock import Race  # noqa: E402

# What the kernels must reach: case, whom they are compared with, the mark, the aim, whether less is better.
MARKS = [
    ("butterfly 1024", COPY, 0.7, 0.85, False),
    ("butterfly 1024", DENSE, 2, None, False),
    ("butterfly 4096", COPY, 0.6, 0.8, False),
    ("butterfly 4096", DENSE, 6, 10, False),
    ("K-matrix 4096", BUTTERFLY, 1.5, 1.2, True),
    ("Monarch 4096, 64 blocks", COPY, 0.6, None, False),
    ("Monarch 4096, 64 blocks", DENSE, 5, None, False),
    ("Monarch 4096, 64 blocks", BMM, 3, None, False),
    ("forward + backward, butterfly 4096", DENSE, 5, 8, False),
    ("butterfly 1024, complex64", FFT, 1.0, 0.6, True),
    ("butterfly 1024, float32", FFT, 1.0, 0.6, True),
    ("decode 4096, batch 1", DENSE, 1.0, None, False),
    ("decode 4096, batch 16", DENSE, 1.0, None, False),
]


def test_the_marks_are_held() -> None:
    goals = {
        (case.name, goal.over, goal.must, goal.aim, goal.less)
        for case in cases.cases()
        for goal in case.goals
        if goal.of == OURS
    }
    assert [mark for mark in MARKS if mark not in goals] == []
    decoding = [case for case in cases.cases() if case.decode]
    assert [case.batch for case in decoding] == [1, 2, 4, 8, 16]
    assert all(Goal(DENSE_GRAPH, 2.0, of=GRAPH) in case.goals for case in decoding)


def test_cases_name_what_there_is() -> None:
    found = cases.cases()
    assert len({case.name for case in found}) == len(found)
    for case in found:
        assert set(case.contenders) <= set(contenders.CONTENDERS) and {OURS, PORTABLE, DENSE} <= set(
            case.contenders
        )
        assert {name for goal in case.judged for name in (goal.of, goal.over)} <= set(case.contenders)
    assert {case.dtype for case in found} == {"bfloat16", "float16", "float32", "tf32", "complex64"}
    assert {"block tensor-train", "BLAST", "low rank", "GBLR"} <= {case.kind for case in found}
    assert {batch % 2 for sweep in cases.sweeps() for batch in sweep.batches} == {0, 1}


def test_checks_run_in_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--interpret",
        "--tune",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failures"] == [] and found["cases"] == [] and found["machine"]["triton"]
    ours = [row for row in found["checks"] if row.get("who", OURS) == OURS]
    assert {name for row in ours for name in row["backends"]} == {"triton"}
    assert all(row["ratio"] <= checks.TIMES_PLAIN and row["worst"] <= row["bound"] for row in ours)
    batches = [batch for sweep in cases.tiny_sweeps() for batch in sweep.batches]
    assert len(ours) == len(cases.tiny_cases()) + len(batches)
    assert found["tuned"] and all(row["right"] == row["tried"] > 1 for row in found["tuned"])


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_without_a_gpu_it_says_so(
    cuda: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KMATRIX_WISDOM", "")  # which it sets
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "--interpret" in told.err


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_python_that_is_named_is_not_installed_into() -> None:
    command = ["make", "-n", "bench-gpu", "PYTHON=some-python"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "some-python benchmarks/gpu.py" in told
    assert not any(word in told for word in ("pip", "venv", "native"))


# -- what is right -----------------------------------------------------------------------------------


def some_results() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    exact = torch.randn(500, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return [exact.bfloat16()], [exact]


def test_rounding_passes() -> None:
    plain, exact = some_results()
    assert checks.judged(plain, plain, exact, 1e-2).why == ""


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda y: 1.01 * y, "times that of plain torch"),
        (lambda y: y.where(torch.arange(500)[:, None] != 499, 0.0), "a vector is off"),
        (lambda y: y.where(torch.arange(500)[:, None] != 3, torch.nan), "not finite"),
        (lambda y: y[:-1], "shapes"),
    ],
)
def test_errors_do_not_pass(spoil: Any, why: str) -> None:
    plain, exact = some_results()
    assert why in checks.judged([spoil(plain[0].float())], plain, exact, 1e-2).why


def test_one_wrong_weight_gradient_does_not_pass() -> None:
    exact = [torch.randn(64, 8, generator=torch.Generator().manual_seed(i)).double() for i in range(12)]
    plain = [e.bfloat16() for e in exact]
    wrong = [*plain[:7], torch.zeros(64, 8), *plain[8:]]
    assert checks.judged(plain, plain, exact, 1e-2).why == ""
    assert "times that of plain torch" in checks.judged(wrong, plain, exact, 1e-2).why


# -- times -------------------------------------------------------------------------------------------

TINY = Case(
    *("tiny", "Monarch", 16, "float32", 3, (COPY, DENSE, OURS, PORTABLE, BMM)),
    (Goal(DENSE, 2, 1e9), Goal(COPY, 0.0)),
)


def measured(case: Case) -> tuple[measure.Timed, dict[str, dict[str, object]]]:
    verdicts = checks.check_case(case, "cpu", None)
    assert {name: verdict["why"] for name, verdict in verdicts.items()} == dict.fromkeys(case.contenders, "")
    return measure.time_case(case, case.contenders, 0.01, "cpu", None), verdicts


def test_times_become_tables_and_a_picture(tmp_path: Path) -> None:
    timed, verdicts = measured(TINY)
    assert set(timed.seconds) == set(TINY.contenders) and not timed.failed
    assert len({len(seconds) for seconds in timed.seconds.values()}) == 1
    found = results.Results(measure.machine(), {})
    found.cases.append(results.timed(TINY, Race(timed.seconds), verdicts, (16, 16)))
    found.figures += results.judged(TINY, Race(timed.seconds), ("triton",))
    found.write(tmp_path / "gpu.json")
    assert len(json.loads((tmp_path / "gpu.json").read_text())["cases"][0]["times"]) == len(TINY.contenders)
    assert results.markdown(results.everyone(found.cases)).count("| ") > 6 * len(TINY.contenders)
    drawn = picture.picture(found.cases, found.machine)
    assert drawn is not None and b"</svg>" in drawn


def test_gradients_are_timed_too() -> None:
    case = dataclasses.replace(TINY, graded=True, contenders=(DENSE, OURS, PORTABLE))
    assert set(measured(case)[0].seconds) == {DENSE, OURS, PORTABLE}


def test_who_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(bench: contenders.Bench) -> contenders.Contender:
        raise ValueError("out of memory")

    monkeypatch.setitem(contenders.CONTENDERS, BMM, refuse)
    timed = measure.time_case(TINY, (OURS, BMM), 0.01, "cpu", None)
    assert list(timed.seconds) == [OURS] and timed.failed == {BMM: "ValueError: out of memory"}


def test_verdicts() -> None:
    seconds = {COPY: [1.0] * 3, DENSE: [8.0] * 3, OURS: [2.0] * 3, PORTABLE: [3.0] * 3, BUTTERFLY: [1.6] * 3}
    goals = (
        Goal(COPY, 0.6),
        Goal(DENSE, 4, 5),
        Goal(BUTTERFLY, 1.5, 1.2, less=True),
        Goal(FFT, 1.0, less=True),
    )
    case = dataclasses.replace(TINY, goals=goals)
    found = results.judged(case, Race(seconds), ("triton",))
    assert [f.verdict for f in found] == ["missed", "met", "met", "not measured", "met"]
    assert [f.value for f in found] == [0.5, 4.0, 1.25, None, 1.5] and not any(f.on_aim for f in found[:4])
    rows = results.goals(found).rows
    assert [row[2:] for row in rows[:3]] == [
        ("50 %", "60 %", "", "missed"),
        ("4.00x", "4.00x", "5.00x", "met"),
        ("1.25x", "at most 1.50x", "at most 1.20x", "met"),
    ]
    assert results.judged(case, Race(seconds), ("portable",))[-1].verdict == "", "compared with itself"


# -- processes ---------------------------------------------------------------------------------------


def test_a_unit_that_dies_or_hangs_takes_nothing_with_it() -> None:
    units = [
        Unit("first", "math.sqrt", (4.0,), 60),
        Unit("raises", "math.sqrt", (-1.0,), 60),
        Unit("dies", "os._exit", (3,), 60),
        Unit("hangs", "time.sleep", (1000,), 1.0),
        Unit("last", "math.sqrt", (9.0,), 60),
    ]
    pool = Pool(1)
    found = {outcome.unit.name: outcome for outcome in pool.work(units, time.monotonic() + 120)}
    pool.close()
    assert found["first"].value == 2.0 and found["last"].value == 3.0
    assert "ValueError" in found["raises"].failed
    assert found["dies"].failed == "the process ended with status 3"
    assert found["hangs"].failed == "no end in sight"


@pytest.mark.parametrize("jobs", [0, 1])
def test_what_there_is_no_time_for_is_not_begun(jobs: int) -> None:
    units = [Unit(str(i), "os._exit", (3,), 60) for i in range(3)]
    assert [o.failed for o in Pool(jobs).work(units, time.monotonic())] == [workers.NO_TIME] * 3


def arguments(tmp_path: Path) -> argparse.Namespace:
    return gpu.arguments(["--interpret", "--only", "^butterfly 1024$", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("who", "status", "timed"), [(OURS, 1, False), (PORTABLE, 1, True), (DENSE, 0, True)]
)
def test_a_case_that_fails_its_check_is_not_timed(
    who: str, status: int, timed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fake(pool: Pool, units: Iterable[Unit], until: float) -> Iterator[Outcome]:
        for unit in units:
            if unit.function.endswith("check_case"):
                names = unit.arguments[0].contenders
                verdicts = {n: dataclasses.asdict(checks.Verdict(0.0)) for n in names}
                verdicts[who]["why"] = "error 3.00 times that of plain torch"
                yield Outcome(unit, verdicts)
            else:
                asked.extend(unit.arguments[1])
                yield Outcome(unit, measure.Timed({name: [1.0, 2.0] for name in unit.arguments[1]}, {}))

    monkeypatch.setattr(Pool, "work", fake)
    run = session.Session(arguments(tmp_path), time.monotonic() + 60)
    run.time(run.check())
    run.finish()
    assert bool(run.results.failures) == bool(status)
    assert bool(asked) == timed and who not in asked
    assert bool(json.loads((tmp_path / "gpu.json").read_text())["cases"]) == timed


def test_a_pattern_that_fits_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = gpu.arguments(["--interpret", "--only", "no such case", "--out", str(tmp_path)])
    assert session.Session(given, time.monotonic() + 60).run() == 1
    assert "no case and no check has such a name" in capsys.readouterr().err
