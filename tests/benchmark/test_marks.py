"""The table of what the kernels must show, row by row: each is held to by the suite."""

from __future__ import annotations

import pytest

from kmatrix.benchmark import special, suite
from kmatrix.benchmark.cases import cases
from kmatrix.benchmark.suite import Settings, tasks
from kmatrix.ops.native_module import native_part

DENSE, BF16, BMM = "dense float32", "dense bfloat16", "torch.bmm"
OUT = "kmatrix out="
# Case, whom it is compared with, who is, and how many times less time it must take.
MARKS = [
    ("butterfly 1024, batch 1", DENSE, "kmatrix", 35),
    ("butterfly 1024, batch 1", "torch rfft", "kmatrix", 3),
    ("butterfly 1024, batch 16", DENSE, "kmatrix", 55),
    ("butterfly 1024, batch 256", DENSE, "kmatrix", 20),
    ("butterfly 1024, batch 256", DENSE, OUT, 25),
    ("butterfly 1024, batch 256", "torch rfft", OUT, 1),
    ("butterfly 1024, batch 256", "torch fft", OUT, 2),
    ("butterfly 1024, batch 2048", DENSE, "kmatrix", 20),
    ("butterfly 256, batch 256", DENSE, "kmatrix", 10),
    ("butterfly 4096, batch 256", DENSE, "kmatrix", 75),
    ("half precision 1024, batch 256", BF16, "kmatrix", 4.5),
    ("half precision 1024, batch 256", BF16, "kmatrix float16", 10),
    ("forward + backward 1024, batch 256", DENSE, "kmatrix", 18),
    ("forward + backward 1024, batch 256", BF16, "kmatrix", 3.5),
    ("forward + backward 4096, batch 256", DENSE, "kmatrix", 50),
    ("BB* 1024, batch 256", DENSE, "kmatrix", 15),
    ("Monarch 32 x 32 1024, batch 256", BMM, "kmatrix", 3),
    ("Monarch 32 x 32 1024, batch 256", "torch.bmm, features first", "kmatrix", 1),
    ("Monarch 32 x 32 1024, batch 256", DENSE, "kmatrix", 9),
    ("mixed radix 768, batch 256", DENSE, "kmatrix", 10),
    ("mixed radix 1000, batch 256", DENSE, "kmatrix", 10),
    ("mixed radix 1025, batch 256", DENSE, "kmatrix", 5),
    ("butterfly 768 to 3072, batch 16", DENSE, "kmatrix", 8),
    ("butterfly 768 to 3072, batch 256", DENSE, "kmatrix", 8),
    ("butterfly 3072 to 768, batch 16", DENSE, "kmatrix", 8),
    ("butterfly 3072 to 768, batch 256", DENSE, "kmatrix", 8),
    ("blocks of 8·8·8 512, batch 256", BMM, "kmatrix", 8),
    ("blocks of 16·16 256, batch 256", BMM, "kmatrix", 8),
    ("DFT 1024, batch 256", "torch fft", "kmatrix", 0.5),
    ("DFT 1000, batch 256", "torch fft", "kmatrix", 0.5),
]


@pytest.mark.parametrize("mark", MARKS, ids=lambda m: f"{m[0]}, {m[2]} against {m[1]}")
def test_every_product_is_held_to_its_mark(mark: tuple[str, str, str, float]) -> None:
    held = {(case.name, goal.over, goal.of, goal.must) for case in cases() for goal in case.goals}
    assert mark in held


def test_only_marks_that_depend_on_amx_say_so() -> None:
    """They were set on a processor that has it, against a dense product that uses it."""
    for case in cases():
        for goal in case.goals:
            assert ("amx_bf16" in goal.needs) == (goal.over == BF16), (case.name, goal)


def test_shares_of_other_sets_and_threads_have_their_marks() -> None:
    assert (special.SHARE, special.TWO_THREADS) == (0.65, 1.7)


@pytest.mark.skipif(native_part().module is None, reason="schedules are of native kernels")
def test_schedules_and_calls_have_their_marks() -> None:
    with special.no_wisdom():
        assert [f.must for f in special.schedules((16,), (3,), 1e-4)] == [1.06, 1.25]
    assert [f.must for f in special.overhead(16, 1e-4)] == [2.5, 2.5]


def test_without_kernels_every_mark_of_theirs_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(special, "without_native", lambda: "there are no kernels")
    monkeypatch.setattr(suite.os, "sched_getaffinity", lambda _: {0})
    results = suite.Results({})
    for task in tasks(Settings(only=("overhead", "isa", "threads", "schedule"))):
        task.run(results)
    assert [(f.value, f.verdict) for f in results.figures] == [(None, "not measured")] * 4
    assert [f.must for f in results.figures] == [2.5, 0.65, 1.06, 1.7]
    assert {f.why for f in results.figures} == {
        "there are no kernels",
        "this process may use one core only",
    }
