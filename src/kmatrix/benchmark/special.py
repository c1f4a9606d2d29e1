"""Measurements that are more than one product timed: overhead, other instructions, threads, schedules."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kmatrix import ops
from kmatrix.benchmark.cases import F32, member
from kmatrix.benchmark.clock import Runner, race
from kmatrix.benchmark.contenders import Contender, Problem, ours
from kmatrix.benchmark.remote import Remote
from kmatrix.benchmark.results import Figure
from kmatrix.ops import calls, native, wisdom
from kmatrix.ops.definition import Patterns
from kmatrix.ops.native_layout import described, vectors
from kmatrix.ops.native_module import native_part
from kmatrix.ops.native_plan import Schedule, batch_class, default_schedule
from kmatrix.ops.tuning import tune_chain
from kmatrix.structures import Butterfly


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
        found = race(contenders, seconds)
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
    """The speed of another instruction set as a share of this one's."""
    problem = Problem(member(Butterfly(), n, n), batch)
    best = native_part().isa
    with torch.inference_mode(), Remote(isa, n, batch) as remote:
        mine = ours(problem)
        mine.checked(f"butterfly {n}")
        found = race({best: mine, isa: remote}, seconds)
    share = found.ratio(best, isa)
    case = f"{isa}, butterfly {n}, batch {batch}"
    return Figure(case, f"of the speed of {best}", share.median, "x", 0.65, low=share.low, high=share.high)


def threads(n: int, batch: int, seconds: float) -> Figure:
    """What a second thread brings."""
    one = ours(Problem(member(Butterfly(), n, n), batch))
    with torch.inference_mode():
        one.checked(f"butterfly {n}")
        teams = {str(k): Runner(one.run, one.inputs, threads=k) for k in (1, 2)}
        gain = race(teams, seconds).ratio("1", "2")
    case = f"two threads, butterfly {n}, batch {batch}"
    return Figure(case, "one thread", gain.median, "x", 1.7, low=gain.low, high=gain.high)


def schedules(sizes: Sequence[int], batches: Sequence[int], seconds: float) -> list[Figure]:
    """Time of the rule as a multiple of the tuned schedule's, raced again after tuning: mean and worst."""
    losses: dict[tuple[int, int], float] = {}
    for n in sizes:
        weights, patterns = Problem(member(Butterfly(), n, n), 1).chain(F32)
        for batch in batches:
            best = tune_chain(weights, patterns, batch, seconds).schedule
            rule = default_schedule(patterns, F32, batch_class(batch))
            losses[n, batch] = 1.0 if best == rule else _loss(weights, patterns, batch, rule, best, seconds)
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
        ready = native.ready_chain(description, schedule, pointers, keep=False)
        if ready.packed:
            return Runner(lambda _: ready.chain.forward(*places, batch, 1), [None])
        return Runner(lambda _: ready.chain.rows(pointers, *places, batch, 1), [None])

    return race({"rule": runner(rule), "best": runner(best)}, seconds).ratio("rule", "best").median
