"""Measurements that are more than one product timed: overhead, other instructions, threads, schedules."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from kmatrix import ops
from kmatrix._errors import complaint
from kmatrix.benchmark.cases import F32, member
from kmatrix.benchmark.clock import ALLOWANCE, Race, Runner, TooManyCoresError, race
from kmatrix.benchmark.contenders import Contender, Problem, dense, ours
from kmatrix.benchmark.remote import Remote
from kmatrix.benchmark.results import Figure
from kmatrix.ops import calls, native, wisdom
from kmatrix.ops.definition import Patterns
from kmatrix.ops.native_layout import described, vectors
from kmatrix.ops.native_module import native_part
from kmatrix.ops.native_plan import Schedule, batch_class, default_schedule
from kmatrix.ops.tuning import tune_chain
from kmatrix.structures import Butterfly

SHARE = 0.65  # of the speed on AVX-512, on AVX2
TWO_THREADS = 1.7  # times one
DENSE_BATCH = 256  # of dense on two threads: it needs no more to be bound by arithmetic
SPIN_SECONDS = 0.05  # libgomp's idle threads spin for less


@contextmanager
def no_wisdom() -> Iterator[None]:
    """Nothing that was learned before counts inside, and nothing that is learned inside remains."""
    before = os.environ.get("KMATRIX_WISDOM")
    os.environ["KMATRIX_WISDOM"] = ""
    _forget()
    try:
        yield
    finally:
        if before is None:
            del os.environ["KMATRIX_WISDOM"]
        else:
            os.environ["KMATRIX_WISDOM"] = before
        _forget()


def _forget() -> None:
    wisdom.forget()
    native.forget_schedules()
    calls.forget()


def without_native() -> str | None:
    """Why measurements of the kernels themselves cannot be made; None if they can."""
    part = native_part()
    return part.reason if part.module is None else None


def overhead(n: int, seconds: float) -> list[Figure]:
    """Microseconds of a call beyond the kernel, one vector, output allocated, nothing watching.

    The kernel's own time is that of a call through the binding less that of the same call for no vector.
    """
    problem = Problem(member(Butterfly(), n, n), 1)
    weights, patterns = problem.chain(F32)
    op = ours(problem)
    x, y = op.inputs[0], torch.empty(1, n)
    contenders: dict[str, Runner] = {
        "chain_matmul": op,
        "prepared": Contender(ops.prepare(weights, patterns), op.inputs, None, op.expected, op.tolerance),
        "kernel": Runner(_bound_call(x, y, weights, patterns, 1), [x]),
        "nothing": Runner(_bound_call(x, y, weights, patterns, 0), [x]),
    }
    with torch.inference_mode():
        contenders["kernel"].run(x)
        for name in ("chain_matmul", "prepared"):
            torch.testing.assert_close(contenders[name].run(x), y)
        found = race(contenders, seconds).fair("overhead")
    kernel = found.time("kernel").median - found.time("nothing").median
    case = f"call overhead, {n}, batch 1"
    return [
        Figure(case, name, 1e6 * (found.time(name).median - kernel), "us", 2.5, 1.2, less=True)
        for name in ("chain_matmul", "prepared")
    ]


def _bound_call(x: Tensor, y: Tensor, weights: Sequence[Tensor], patterns: Patterns, batch: int) -> Any:
    """The kernel that one vector takes, called with addresses alone."""
    kept, description = described(weights, patterns)
    pointers = [w.data_ptr() for w in kept]
    ready = native.ready_chain(description, native.schedule_of(description, 1), pointers)
    places = (*vectors(x).place, *vectors(y).place)
    if ready.packed:
        return lambda _: ready.chain.forward(*places, batch, 1)
    return lambda _: ready.chain.rows(pointers, *places, batch, 1)


def instructions(isa: str, n: int, batch: int, seconds: float) -> Figure:
    """The speed of another instruction set as a share of this one's, one thread each."""
    problem = Problem(member(Butterfly(), n, n), batch)
    best = native_part().isa
    with torch.inference_mode(), Remote(isa, n, batch) as remote:
        mine = ours(problem)
        mine.checked(f"butterfly {n}")
        found = race({best: Runner(mine.run, mine.inputs, threads=1), isa: remote}, seconds).fair(
            f"instructions, {n}, batch {batch}"
        )
    if remote.cores > ALLOWANCE:
        reason = f"used {remote.cores:.1f} cores, 1 allowed"
        raise TooManyCoresError(complaint("bench", "isa", isa, reason, "find who sets its number of threads"))
    share = found.ratio(best, isa)
    case = f"{isa}, butterfly {n}, batch {batch}"
    return Figure(case, f"of the speed of {best}", share.median, "x", SHARE, low=share.low, high=share.high)


def threads(n: int, batch: int, seconds: float) -> list[Figure]:
    """What a second thread brings us, and beside it dense: two "cores" may be two threads of one."""
    problem = Problem(member(Butterfly(), n, n), batch)
    fewer = Problem(problem.matrix, min(batch, DENSE_BATCH))
    with torch.inference_mode():
        one, full = ours(problem), dense(fewer, F32)
        one.checked(f"butterfly {n}")
        full.checked(f"dense float32 {n}")
        found, other = (_teams(contender, seconds / 2) for contender in (one, full))
    gain, bound = found.ratio("1", "2"), other.ratio("1", "2")
    excess = found.excess("1")  # of idle threads that spin on
    shared = f"dense float32 of that size, bound by arithmetic, gains {bound.median:.2f}x from its second thread here"
    why = "; ".join(filter(None, [excess, shared if bound.median < TWO_THREADS else ""]))
    case = f"two threads, butterfly {n}, batch {batch}"
    return [
        Figure(
            *(case, "one thread", gain.median, "x", TWO_THREADS),
            low=gain.low,
            high=gain.high,
            why=why,
            void=bool(excess),
        ),
        Figure(case, "one thread (dense float32)", bound.median, "x", low=bound.low, high=bound.high),
    ]


def _teams(contender: Contender, seconds: float) -> Race:
    teams = {str(k): Runner(contender.run, contender.inputs, threads=k) for k in (1, 2)}
    return race(teams, seconds, rest=SPIN_SECONDS)


def schedules(sizes: Sequence[int], batches: Sequence[int], seconds: float) -> list[Figure]:
    """Time of the rule as a multiple of the tuned schedule's, raced again after tuning: mean and worst."""
    losses: dict[tuple[int, int], float] = {}
    for n in sizes:
        weights, patterns = Problem(member(Butterfly(), n, n), 1).chain(F32)
        for batch in batches:
            best = cast(Schedule, tune_chain(weights, patterns, batch, seconds).schedule)  # that of a CPU
            rule = default_schedule(patterns, F32, batch_class(batch))
            losses[n, batch] = 1.0
            if best != rule:
                losses[n, batch] = _loss(weights, patterns, batch, rule, best, seconds)
    worst = max(losses, key=losses.__getitem__)
    mean = math.exp(math.fsum(map(math.log, losses.values())) / len(losses))
    case = f"fixed schedule, butterflies {sizes[0]} to {sizes[-1]}"
    where = f"of tuned, worst ({worst[0]}, batch {worst[1]})"
    return [
        Figure(case, "of tuned, geometric mean", mean, "x", 1.06, less=True),
        Figure(case, where, losses[worst], "x", 1.25, less=True),
    ]


def _loss(
    weights: list[Tensor], patterns: Patterns, batch: int, rule: Schedule, best: Schedule, seconds: float
) -> float:
    problem_inputs = torch.randn(batch, patterns[0].cols)
    out = torch.empty(batch, patterns[-1].rows)
    kept, description = described(weights, patterns)
    pointers = [w.data_ptr() for w in kept]
    places = (*vectors(problem_inputs).place, *vectors(out).place)

    def runner(schedule: Schedule) -> Runner:
        ready = native.ready_chain(description, schedule, pointers)
        if ready.packed:
            return Runner(lambda _: ready.chain.forward(*places, batch, 1), [None])
        return Runner(lambda _: ready.chain.rows(pointers, *places, batch, 1), [None])

    teams = {"rule": runner(rule), "best": runner(best)}
    return race(teams, seconds).fair("schedule").ratio("rule", "best").median
