"""What is measured besides products, the results as a file, and the documentation made from them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

import kmatrix as km
from kmatrix.benchmark import special, suite, sweep, training
from kmatrix.benchmark.cases import member
from kmatrix.benchmark.contenders import Problem
from kmatrix.benchmark.page import SECTION, SECTIONS, break_even, break_even_cells, rewritten, times, where
from kmatrix.benchmark.picture import speed_picture
from kmatrix.benchmark.remote import Remote
from kmatrix.benchmark.results import CaseResult, CurvePoint, Figure, Point, Results, Time, read_results
from kmatrix.benchmark.suite import GROUPS, Settings, tasks
from kmatrix.ops.native_module import native_part
from kmatrix.ops.native_plan import default_schedule

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/speed.md", "docs/benchmarks.md"]
native = pytest.mark.skipif(native_part().module is None, reason="measures the native kernels")


@pytest.fixture
def results() -> Results:
    """One finding of each kind."""
    slow = Time("dense float32", 100.0, 90.0, 110.0, 1.0, 1.0, 1.0, 1e-7)
    fast = Time("kmatrix", 2.0, 1.9, 2.1, 50.0, 49.0, 51.0, 1e-7)
    return Results(
        {"processor": "P", "instructions": "avx512", "threads": "1", "torch": "2"},
        [CaseResult("butterfly 1024, batch 1", "butterfly", 1024, 1024, 1, slow.name, 9, (slow, fast))],
        [Figure("a", "b", 3.0, "x", 2.0, 4.0), Figure("c", "d", 3.0, "us", 2.5, less=True)],
        [Point("float32", 64, 1, 0.5, 0.4, 0.6), Point("float32", 128, 1, 20.4, 20.0, 21.0)],
        [CurvePoint("kmatrix", n, 1.0 * n) for n in (64, 128)],
        ["something was not there"],
    )


def test_results_come_back_from_their_file(results: Results, tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(results.to_json(), encoding="utf-8")
    assert read_results(tmp_path / "cpu.json") == results


def test_figures_are_judged(results: Results) -> None:
    more, less = results.figures
    assert (more.met, more.on_aim, less.met, less.on_aim) == (True, False, False, None)


def test_every_section_is_written_from_the_results(results: Results) -> None:
    page = "".join(f"<!-- bench: {name} -->\nstale\n<!-- bench: end -->\n" for name in SECTIONS)
    text = rewritten(page, results)
    assert "stale" not in text
    for words in (
        "| float32 | 128 |",
        "| n = 64 | 0.50x |",
        "| n = 128 | 20x |",
        "**missed**",
        "**kmatrix** 50x",
        "avx512",
    ):
        assert words in text
    assert rewritten(text, results) == text
    assert "avx512" not in rewritten(text, None)


@pytest.mark.parametrize("page", PAGES)
def test_the_documentation_says_what_was_measured(page: str) -> None:
    """The figures in the pages are those of the results file; where there is none, there are no figures."""
    file, text = ROOT / "benchmarks" / "results" / "cpu.json", (ROOT / page).read_text(encoding="utf-8")
    assert SECTION.search(text)
    assert rewritten(text, read_results(file) if file.exists() else None) == text


def test_ratios_have_two_digits() -> None:
    assert [times(r) for r in (0.123, 0.996, 1.0, 9.94, 9.96, 123.4)] == [
        *("0.12x", "1.0x", "1.0x", "9.9x", "10x", "123x")
    ]


def test_the_picture_shows_what_was_swept(results: Results) -> None:
    svg = speed_picture(results).decode()
    assert "butterfly, kmatrix" in svg and "dense" not in svg
    assert re.search(r"<text[^>]*>128</text>", svg)
    assert speed_picture(results).decode() == svg


def test_settings_refuse_what_is_not_there() -> None:
    with pytest.raises(km.ArgumentError, match="use some of butterfly"):
        Settings(only=("butterflies",))
    with pytest.raises(km.ArgumentError, match="not positive"):
        Settings(threads=0)


@native
def test_tasks_cover_every_group_and_only_those_asked_for() -> None:
    assert {task.group for task in tasks(Settings())} == set(GROUPS)
    assert {task.group for task in tasks(Settings(only=("map", "half")))} == {"map", "half"}
    quick = tasks(Settings(quick=True))
    assert len(quick) < len(tasks(Settings())) / 2
    assert {task.group for task in tasks(Settings(quick=True, only=("memory",)))} == {"memory"}


@pytest.mark.parametrize("dtype", sweep.DTYPES)
def test_a_place_on_the_map(dtype: str) -> None:
    found = sweep.point(dtype, 16, 3, 1e-4)
    assert (found.dtype, found.n, found.batch) == (dtype, 16, 3)
    assert 0 < found.low <= found.speed <= found.high


def test_the_curve_and_its_bounds() -> None:
    names = [point.name for point in sweep.curve(16, 1e-4, sweep.arithmetic_peak(1e-4))]
    assert {"dense float32", "kmatrix", "torch rfft", "torch fft", "copy", "arithmetic"} <= set(names)


def test_memory_is_counted_at_its_peak() -> None:
    def run() -> torch.Tensor:
        kept = torch.empty(1000)
        torch.empty(5000)
        torch.empty(2000)
        return kept

    assert training.peak_bytes(run) == 4 * 6000
    assert training.peak_bytes(lambda: None) == 0


def test_a_training_step_holds_no_more_than_dense() -> None:
    assert training.memory(Problem(member(km.Butterfly(), 128, 128), 16), torch.float32).met


@native
def test_overhead_is_that_of_the_call_and_of_the_prepared_chain() -> None:
    assert [(f.what, f.unit) for f in special.overhead(16, 1e-3)] == [
        *(("chain_matmul", "us"), ("prepared", "us"))
    ]


def test_the_break_even_is_where_all_larger_ones_are_faster(results: Results) -> None:
    speeds = {16: 2.0, 32: 0.9, 64: 1.1, 128: 3.0}
    results.map = [Point("float32", n, 1, s, s, s) for n, s in speeds.items()]
    results.map += [Point("bfloat16", n, 16, 0.5, 0.5, 0.5) for n in (16, 32)]
    assert break_even(results) == {("float32", 1): 64, ("bfloat16", 16): None}
    head, *rows = break_even_cells(results)
    assert head[1:] == ["batch 1", "batch 16"]
    assert rows == [["float32", "64", ""], ["bfloat16", "", "none"]]


@pytest.mark.parametrize(("cores", "said"), [([1.0, 1.0, 0.2], False), ([0.4, 0.3, 1.0], True)], ids=str)
def test_a_busy_machine_is_named(results: Results, cores: list[float], said: bool) -> None:
    """Contenders that got less than a core shared it with somebody, and no figure is worth publishing."""
    times = tuple(Time(str(k), 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, None, c) for k, c in enumerate(cores))
    results.cases = [CaseResult("a", "butterfly", 1, 1, 1, "0", 5, times)]
    busy = suite._busy(results)
    assert bool(busy) == said
    if said:
        results.machine["busy"] = busy
        assert "contenders got 40% of a core" in where(results)


@native
def test_schedules_are_measured_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_WISDOM", str(tmp_path / "wisdom.json"))
    with special.no_wisdom():
        mean, worst = special.schedules((16, 64), (3,), 1e-3)
    assert 0 < mean.value <= worst.value
    assert list(tmp_path.iterdir()) == []
    assert os.environ["KMATRIX_WISDOM"] == str(tmp_path / "wisdom.json")


@native
def test_a_schedule_that_is_not_the_rule_is_raced_against_it() -> None:
    weights, patterns = Problem(member(km.Butterfly(), 16, 16), 1).chain(torch.float32)
    rule = default_schedule(patterns, torch.float32, 8)
    other = rule._replace(kernel="rows" if rule.kernel == "tiles" else "tiles")
    assert special._loss(weights, patterns, 8, rule, other, 0.01) > 0


@native
def test_another_process_runs_other_instructions() -> None:
    with Remote("baseline", 16, 3) as remote:
        assert remote.time(10) > 0


@native
def test_a_second_thread_is_measured_for_us_and_for_dense() -> None:
    ours, dense = special.threads(16, 3, 1e-3)
    assert ours.must is not None and ours.value > 0
    assert dense.must is None and dense.value > 0
    assert ("dense float32" in ours.why) == (dense.value < ours.must)
