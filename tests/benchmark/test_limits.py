"""Nobody uses more cores than allowed without being found out, and whoever changes the number of threads is undone."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kmatrix.benchmark import clock, limits, peers
from kmatrix.benchmark.cases import Case, Goal, butterfly
from kmatrix.benchmark.clock import (
    Meter,
    Race,
    Runner,
    TooManyCoresError,
    allowed_threads,
    race,
    using_threads,
)
from kmatrix.benchmark.contenders import Contender
from kmatrix.benchmark.limits import VARIABLES, held_to, lacking, processor_flags
from kmatrix.benchmark.page import goals
from kmatrix.benchmark.results import Figure, Results, read_results
from kmatrix.benchmark.suite import Settings, Task, measure, run
from kmatrix.cli.bench import show


class Burner:
    """Keeps two threads busy with hashing, which lets go of the interpreter, and knows what they really got."""

    def __init__(self, threads: int) -> None:
        self.threads, self.busy, self.wall = threads, 0.0, 0.0
        self.pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Burner:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def run(self, _: object) -> None:
        start = time.perf_counter()
        self.busy += sum(self.pool.map(self._burn, range(self.threads)))
        self.wall += time.perf_counter() - start

    @staticmethod
    def _burn(_: int) -> float:
        start = time.thread_time()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)
        return time.thread_time() - start


@pytest.mark.parametrize("threads", [1, 2])
def test_a_meter_counts_all_threads(threads: int) -> None:
    """Against what the threads say themselves, because a busy machine need not give them a core each."""
    with Burner(threads) as burner:
        burner.run(None)
        burner.busy = burner.wall = 0.0
        with Meter() as meter:
            for _ in range(3):
                burner.run(None)
    assert meter.cores == pytest.approx(burner.busy / burner.wall, rel=0.1)


class Clocks:
    """Time that passes only when somebody works, on as many cores as they like."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.processors = 0.0
        fake = {"perf_counter": lambda: self.wall, "process_time": lambda: self.processors}
        monkeypatch.setattr(clock, "time", types.SimpleNamespace(**fake))

    def work(self, seconds: float, cores: float) -> None:
        self.wall += seconds
        self.processors += cores * seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_who_uses_two_cores_where_one_is_allowed_is_refused(clocks: Clocks) -> None:
    fair, greedy = (Runner(lambda _, k=k: clocks.work(1e-3, k), [None]) for k in (1.1, 2.0))
    with using_threads(1):
        found = race({"fair": fair, "greedy": greedy}, 0.1)
    assert found.cores == {"fair": pytest.approx(1.1), "greedy": pytest.approx(2.0)}
    assert (found.excess("fair"), found.excess("greedy")) == ("", "used 2.0 cores, 1 allowed")
    with pytest.raises(TooManyCoresError, match=r"somewhere=greedy: used 2.0 cores, 1 allowed.*--threads"):
        found.fair("somewhere")
    with using_threads(2):
        assert race({"greedy": greedy}, 0.1).fair("somewhere").rounds > 0


def test_who_asks_for_two_threads_is_allowed_two(clocks: Clocks) -> None:
    with using_threads(1):
        found = race({"2": Runner(lambda _: clocks.work(1e-3, 2.0), [None], threads=2)}, 0.1)
    assert found.allowed == {"2": 2}
    assert found.fair("two threads") is found


def judged(clocks: Clocks, cores: float) -> Results:
    """A case in which dense uses so many cores."""

    def contender(seconds: float, busy: float) -> Contender:
        def work(_: object) -> torch.Tensor:
            clocks.work(seconds, busy)
            return torch.ones(1)

        return Contender(work, [None], None, lambda: [torch.ones(1, dtype=torch.float64)], 1e-6)

    def contenders() -> dict[str, Contender]:
        return {"dense float32": contender(4e-3, cores), "kmatrix": contender(1e-3, 1.0)}

    case = Case("butterfly", "fake", (1, 1), 1, contenders, (Goal(2.0, 9.0),))
    results = Results({})
    with using_threads(1):
        measure(case, 0.1, results)
    return results


def test_a_goal_against_who_used_two_cores_is_not_judged(clocks: Clocks, tmp_path: Path) -> None:
    results = judged(clocks, 2.0)
    dense, ours = results.cases[0].times
    assert (dense.mark, ours.mark) == ("used 2.0 cores, 1 allowed", "")
    (figure,) = results.figures
    assert (figure.verdict, figure.met, figure.on_aim) == ("not judged", None, None)
    assert figure.why == "dense float32 used 2.0 cores, 1 allowed"
    (tmp_path / "cpu.json").write_text(results.to_json(), encoding="utf-8")
    kept = read_results(tmp_path / "cpu.json")
    assert (kept.figures[0].why, kept.figures[0].void) == (figure.why, True)
    assert kept.cases[0].times[0].cores == pytest.approx(2.0)
    assert '"verdict": "not judged"' in results.to_json()


def test_a_goal_among_fair_ones_is_judged(clocks: Clocks) -> None:
    (figure,) = judged(clocks, 1.0).figures
    assert (figure.verdict, figure.met, figure.on_aim, figure.why) == ("met", True, False, "")


def test_a_refused_task_is_a_note_and_the_others_go_on(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(results: Results) -> None:
        race({"b": Runner(lambda _: clocks.work(1e-3, 2.0), [None])}, 0.1).fair("a")

    def well(results: Results) -> None:
        results.figures.append(Figure("c", "d", 1.0, "x"))

    todo = [Task("map", "first", refused), Task("map", "second", well)]
    monkeypatch.setattr("kmatrix.benchmark.suite.tasks", lambda settings: todo)
    results = run(Settings())
    assert [note.partition(":")[0] for note in results.notes] == ["first"]
    assert "used 2.0 cores" in results.notes[0]
    assert len(results.figures) == 1


# ---- who sets the number of threads ----


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_contender_that_sets_threads_changes_nobody_else() -> None:
    seen: list[int] = []
    rude = Runner(lambda _: torch.set_num_threads(2), [None])
    polite = Runner(lambda _: seen.append(torch.get_num_threads()), [None])
    with using_threads(1):
        race({"rude": rude, "polite": polite}, 1e-3)
        assert allowed_threads() == 1
    assert set(seen) == {1}
    assert (torch.get_num_threads(), allowed_threads()) == (2, 2)


@pytest.mark.usefixtures("two_threads")
def test_rivals_that_set_threads_when_imported_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As lazylinop.butterfly does, with the number of processors."""
    seen: list[str | None] = []

    def load(name: str) -> types.ModuleType:
        seen.append(os.environ.get("OMP_NUM_THREADS"))
        torch.set_num_threads(3)
        return sys.modules[__name__]

    monkeypatch.setattr(peers.importlib, "import_module", load)
    monkeypatch.setattr(peers, "find_spec", lambda name: object())
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with held_to(1):
        assert torch.get_num_threads() == allowed_threads() == 1
        assert {os.environ[name] for name in VARIABLES} == {"1"}
    assert seen == ["1", "1"]
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.usefixtures("two_threads")
def test_everyone_of_a_case_runs_on_one_thread() -> None:
    """The rivals that are installed among them."""
    with held_to(1), torch.inference_mode():
        for name, contender in butterfly(64, 8).contenders().items():
            contender.time(2)
            assert torch.get_num_threads() == 1, name


# ---- what the processor lacks ----


def test_flags_are_read_as_linux_writes_them(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: P\nflags\t\t: fpu avx2 amx_tile\n\nflags : other\n")
    try:
        assert limits.processor_flags.__wrapped__(info) == {"fpu", "avx2", "amx_tile"}
        assert limits.processor_flags.__wrapped__(tmp_path / "none") == frozenset()
    finally:
        processor_flags.cache_clear()


def test_a_mark_says_what_this_processor_lacks() -> None:
    have = frozenset({"avx2", "amx_tile"})
    assert lacking(("amx_tile", "amx_bf16"), have) == (
        "the mark was set with amx_tile, amx_bf16; this processor lacks amx_bf16"
    )
    assert lacking(("avx2",), have) == lacking((), have) == ""
    assert lacking(("avx2",), frozenset()) == ""  # nothing is known


def test_reasons_stand_beside_verdicts() -> None:
    missed = Figure("a", "b", 1.0, "x", 2.0, why="because")
    absent = Figure("c", "d", None, "x", 2.0, why="not here")
    assert [f.verdict for f in (missed, absent, Figure("e", "f", 1.0, "x"))] == ["missed", "not measured", ""]
    machine = {"processor": "P", "instructions": "avx2", "threads": "1", "torch": "2"}
    page = goals(Results(machine, figures=[missed, absent]))
    assert "| **missed**: because |" in page
    assert "| c | d | not measured | 2x |  | not measured: not here |" in page


def test_races_without_meters_are_fair() -> None:
    assert Race({"a": [1.0]}).fair("anywhere").excess("a") == ""


def test_the_terminal_names_who_used_too_much_and_why_nothing_is_judged(clocks: Clocks) -> None:
    results = judged(clocks, 2.0)
    results.machine = {"processor": "P", "instructions": "avx2", "threads": "1", "torch": "2"}
    console = Console(width=80, record=True, file=StringIO())
    show(console, results)
    text = console.export_text()
    assert "\ndense float32 used 2.0 cores, 1 allowed\n" in text
    assert "fake, dense float32: dense float32 used 2.0 cores, 1 allowed" in text
