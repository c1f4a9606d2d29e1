"""The whole benchmark as a list of tasks: what to measure, in which order, into which results."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from kmatrix._errors import ArgumentError, complaint
from kmatrix.benchmark import special, sweep, training
from kmatrix.benchmark.cases import Case, Goal, cases, member
from kmatrix.benchmark.clock import Race, TooManyCoresError, race
from kmatrix.benchmark.contenders import Problem
from kmatrix.benchmark.limits import held_to, lacking
from kmatrix.benchmark.results import CaseResult, Figure, Results, Time
from kmatrix.fitting.certificate import machine
from kmatrix.ops.native_module import native_part
from kmatrix.structures import Butterfly

QUICK_SIZE, QUICK_BATCH = 1024, 256
SHARE = ("of the speed of avx512", None, "x", special.SHARE)
GAIN = ("one thread", None, "x", special.TWO_THREADS)
QUIET = 0.9  # of a core that a contender gets where nothing else runs; less says that somebody else did
NOT_QUICK = ("isa", "memory", "schedule")  # unless they are asked for
GROUPS = {
    "butterfly": "butterflies of 256, 1024 and 4096 points, batches 1 to 2048",
    "half": "half precision in and out",
    "kmatrix": "a product BB* of 1024 points",
    "monarch": "Monarch matrices beside torch.bmm",
    "sizes": "768, 1000 and 1025 points",
    "rectangles": "768 to 3072 points and back",
    "blocks": "blocks of 8 and 16",
    "fourier": "complex Fourier transforms",
    "training": "forward and backward",
    "memory": "what a training step holds",
    "overhead": "a call beyond its kernel",
    "isa": "AVX2 beside AVX-512",
    "threads": "a second thread",
    "schedule": "the rule beside tuned schedules",
    "map": "break-even by size, batch and number type",
    "curve": "time against n beside what the processor can do",
}


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        threads: of torch and of ours.
        quick: only sizes up to 1024 and batches up to 256, a few rounds each.
        only: groups to measure; all if empty.
    """

    threads: int = 1
    quick: bool = False
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ArgumentError(complaint("bench", "threads", self.threads, "not positive", "pass 1 or more"))
        for name in self.only:
            if name not in GROUPS:
                way_out = f"use some of {', '.join(GROUPS)}"
                raise ArgumentError(complaint("bench", "only", name, "unknown", way_out))

    @property
    def seconds(self) -> float:
        """For each case."""
        return 0.15 if self.quick else 3.0


@dataclass(frozen=True)
class Task:
    """One thing to measure, by name."""

    group: str
    name: str
    run: Callable[[Results], None]


def tasks(settings: Settings) -> list[Task]:
    """What the settings ask for, in order."""
    made = [*_products(settings), *_specials(settings), *_sweeps(settings)]
    wanted = settings.only or [group for group in GROUPS if not (settings.quick and group in NOT_QUICK)]
    return [task for task in made if task.group in wanted]


def run(
    settings: Settings, tell: Callable[[int, int, str], None] = lambda done, total, name: None
) -> Results:
    """Measure everything the settings ask for, one thing after the other.

    A time taken on more cores than allowed is marked, and its goals are not judged; where it would be part of a
    curve or a map it is left out, with a note.

    Args:
        settings: what and how.
        tell: told how many tasks are done, of how many, and which comes next.

    Raises:
        WrongResultError: if a contender computes something else than it should.
    """
    todo = tasks(settings)
    with held_to(settings.threads), special.no_wisdom():
        results = Results({**machine(), **_versions()})
        for done, task in enumerate(todo):
            tell(done, len(todo), task.name)
            try:
                task.run(results)
            except TooManyCoresError as error:
                results.notes.append(f"{task.name}: {error}")
    busy = _busy(results)
    if busy:
        results.machine["busy"] = busy
    tell(len(todo), len(todo), "done")
    return results


def _busy(results: Results) -> str:
    """How much of a core contenders got in the middle, if others took a part of it; else empty."""
    shares = [min(t.cores, 1.0) for case in results.cases for t in case.times if t.cores is not None]
    share = statistics.median(shares) if shares else 1.0
    return f"{share:.0%}" if share < QUIET else ""


def _versions() -> dict[str, str]:
    part = native_part()
    found = {"instructions": part.isa or part.reason, "cores": str(len(os.sched_getaffinity(0)))}
    for package in ("kmatrix", "numpy", "scipy", "lazylinop", "pyfaust"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _products(settings: Settings) -> Iterator[Task]:
    for case in cases():
        if not settings.quick or (max(case.shape) <= QUICK_SIZE and case.batch <= QUICK_BATCH):
            yield Task(case.group, case.name, partial(measure, case, settings.seconds))


def measure(case: Case, seconds: float, results: Results) -> None:
    """Check everyone in a case, race them, and judge."""
    contenders = case.contenders()
    with torch.enable_grad() if case.graded else torch.inference_mode():
        errors = {name: one.checked(f"{case.name}, {name}") for name, one in contenders.items()}
        found = race(contenders, seconds)
    times = tuple(_time(found, name, case.baseline, error) for name, error in errors.items())
    results.cases.append(
        CaseResult(case.name, case.group, *case.shape, case.batch, case.baseline, found.rounds, times)
    )
    results.figures.extend(_judged(case.name, found, goal) for goal in case.goals)


def _judged(case: str, found: Race, goal: Goal) -> Figure:
    speed = found.ratio(goal.over, goal.of)
    what = goal.over if goal.of == "kmatrix" else f"{goal.over} ({goal.of.removeprefix('kmatrix ')})"
    excess = [f"{name} {found.excess(name)}" for name in (goal.over, goal.of) if found.excess(name)]
    why = "; ".join([*excess, *filter(None, [lacking(goal.needs)])])
    return Figure(
        *(case, what, speed.median, "x", goal.must, goal.aim),
        low=speed.low,
        high=speed.high,
        why=why,
        void=bool(excess),
    )


def _time(found: Race, name: str, baseline: str, error: float) -> Time:
    us, us_low, us_high = (1e6 * seconds for seconds in found.time(name))
    speed, low, high = found.ratio(baseline, name)
    return Time(name, us, us_low, us_high, speed, low, high, error, found.cores.get(name), found.excess(name))


def _specials(settings: Settings) -> Iterator[Task]:
    seconds = settings.seconds
    sizes = ((256, 256),) if settings.quick else ((1024, 256), (4096, 256), (256, 2048))
    for n, batch in sizes:
        yield Task("memory", f"training memory, {n}, batch {batch}", partial(_memory, n, batch))
    missing = special.without_native()
    if missing is not None:
        yield from _absent(settings, missing)
        return
    yield Task("overhead", "call overhead", lambda r: r.figures.extend(special.overhead(1024, seconds)))
    if native_part().isa == "avx512":
        batches = (256,) if settings.quick else (1, 16, 256)
        for n in (1024,) if settings.quick else (256, 1024, 4096):
            for batch in batches:
                yield Task("isa", f"AVX2, {n}, batch {batch}", partial(_other_isa, n, batch, seconds))
    else:
        why = f"this run is on {native_part().isa}, not avx512"
        yield Task("isa", "AVX2", partial(_leave_out, [Figure("avx2", *SHARE, why=why)]))
    yield from _teams(settings)
    sizes_tuned = (64, 256, 1024) if settings.quick else sweep.CURVE_SIZES
    tuned = partial(special.schedules, sizes_tuned, (16, 256), settings.seconds / 5)
    yield Task("schedule", "schedules (tuning)", lambda r: r.figures.extend(tuned()))


def _teams(settings: Settings) -> Iterator[Task]:
    if len(os.sched_getaffinity(0)) < 2:
        why = "this process may use one core only"
        yield Task("threads", "two threads", partial(_leave_out, [Figure("two threads", *GAIN, why=why)]))
        return
    n, batch = (1024, 256) if settings.quick else (4096, 2048)
    yield Task(
        "threads", "two threads", lambda r: r.figures.extend(special.threads(n, batch, settings.seconds))
    )


def _sweeps(settings: Settings) -> Iterator[Task]:
    sizes, batches = (
        (sweep.QUICK_SIZES, sweep.QUICK_BATCHES) if settings.quick else (sweep.SIZES, sweep.BATCHES)
    )
    for place in sweep.places(sizes, batches):
        if settings.quick and place[0] not in sweep.QUICK_DTYPES:
            continue
        name = "break-even: {} {}, batch {}".format(*place)
        yield Task("map", name, partial(_point, place, settings.seconds / 6))
    sizes = sweep.QUICK_SIZES if settings.quick else sweep.CURVE_SIZES
    for n in sizes:
        yield Task("curve", f"time against n: {n}", partial(_curve, n, settings.seconds))


def _memory(n: int, batch: int, results: Results) -> None:
    results.figures.append(training.memory(Problem(member(Butterfly(), n, n), batch), torch.float32))


def _other_isa(n: int, batch: int, seconds: float, results: Results) -> None:
    results.figures.append(special.instructions("avx2", n, batch, seconds))


def _leave_out(figures: list[Figure], results: Results) -> None:
    """Marks that nothing was held to, and why."""
    results.figures.extend(figures)


def _absent(settings: Settings, missing: str) -> Iterator[Task]:
    """What concerns the kernels themselves, where there are none."""
    left_out = {
        "overhead": Figure("call overhead", "chain_matmul", None, "us", 2.5, 1.2, less=True, why=missing),
        "isa": Figure("avx2", *SHARE, why=missing),
        "schedule": Figure("fixed schedule", "of tuned", None, "x", 1.06, less=True, why=missing),
    }
    for group, figure in left_out.items():
        yield Task(group, GROUPS[group], partial(_leave_out, [figure]))
    yield from _teams(settings)


def _point(place: tuple[str, int, int], seconds: float, results: Results) -> None:
    results.map.append(sweep.point(*place, seconds))


def _curve(n: int, seconds: float, results: Results) -> None:
    if "arithmetic peak" not in results.machine:
        results.machine["arithmetic peak"] = f"{sweep.arithmetic_peak(seconds) / 1e9:.1f} GFLOP/s"
    peak = 1e9 * float(results.machine["arithmetic peak"].split()[0])
    results.curve.extend(sweep.curve(n, seconds, peak))
