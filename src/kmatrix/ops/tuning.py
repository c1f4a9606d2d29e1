"""Measuring schedules instead of trusting the rule, and keeping what was learned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix._checks import check_seconds, check_size
from kmatrix._errors import ArgumentError, BackendUnavailableError, complaint
from kmatrix._waiting import CPU, waiting_for
from kmatrix.ops import calls
from kmatrix.ops.chain import check_chain
from kmatrix.ops.definition import Patterns
from kmatrix.ops.dispatch import NATIVE, TRITON
from kmatrix.ops.ends import Ends, HasSingleChain, check_ends, given_chain
from kmatrix.ops.native import forget_schedules, new_chain
from kmatrix.ops.native_layout import Description, described, vectors
from kmatrix.ops.native_module import NativeChain, native_part, threads
from kmatrix.ops.native_plan import Schedule, batch_class, default_schedule, tile_heights
from kmatrix.ops.triton import tuning as gpu
from kmatrix.ops.triton.backend import batch_class as gpu_batch_class
from kmatrix.ops.triton.plan import Choice
from kmatrix.ops.wisdom import question, remember

_MOST = 96  # schedules that are measured at most
_ROWS_UP_TO = 64  # beyond, reading weights where they are cannot win


class Tuning(NamedTuple):
    """What measuring found.

    Attributes:
        schedule: the fastest way to run the chain.
        seconds: its time for one product, weights packed beforehand.
        rule_seconds: that of the rule.
        tried: how many schedules were measured.
        path: the file that remembers it; None if there is none.
    """

    schedule: Schedule | Choice
    seconds: float
    rule_seconds: float
    tried: int
    path: str | None

    def __str__(self) -> str:
        gain = self.rule_seconds / self.seconds
        kept = "" if self.path else "; not kept in a file"
        return (
            f"{in_words(self.schedule)}: "
            f"{1e6 * self.seconds:.2f} us, {gain:.2f}x the rule ({self.tried} tried{kept})"
        )


def tune(
    weights: Sequence[Tensor] | HasSingleChain,
    patterns: Sequence[tuple[int, int, int, int]] | None = None,
    *,
    batch: int,
    seconds: float = 1.0,
    n: int | None = None,
    gather: Sequence[int] | Tensor | None = None,
    take: Sequence[int] | Tensor | None = None,
) -> Tuning:
    """Measure how to run a chain fastest on this machine, and remember it.

    Products of the same chain, number type, order of batch size and number of threads use what was found, in
    this process and, through the file that ``$KMATRIX_WISDOM`` names (``~/.cache/kmatrix/wisdom.json`` if it
    names none), in later ones. Results do not change, only times. Chains whose vectors are permuted, padded
    or cropped on the way have answers of their own, whatever the index: measure those with ``gather`` or
    ``take``.

    Args:
        weights: a structured matrix that is one chain, which needs nothing else but ``batch``; or weights as for
            ``chain_matmul``, at least one.
        patterns: as for ``chain_matmul``.
        batch: how many vectors are multiplied at a time.
        seconds: about how long to measure.
        n: as for ``prepare``.
        gather: as for ``prepare``.
        take: as for ``prepare``.

    Returns:
        What was found, and how much faster it is than the rule.

    Raises:
        ArgumentError: if shapes, patterns or devices do not fit, there is no factor, or ``seconds`` is not a positive
            number.
        BackendUnavailableError: if neither the native kernels nor those for GPUs compute these weights.
        DtypeError: if number types are unusable or differ.

    Example:
        >>> print(tune([torch.ones(4, 2, 2, 1), torch.ones(2, 2, 2, 2)], batch=64))  # doctest: +SKIP
        tiles kernel, passes 2, tiles 2 vectors high: 1.30 us, 1.02x the rule (5 tried)

    Reference:
        Frigo and Johnson, The design and implementation of FFTW3 (2005), for measuring instead of modelling and for
        the word wisdom.
    """
    with torch.no_grad():
        weights, patterns, n, gather, take = given_chain("tune", weights, patterns, n, gather, take)
    chain = check_chain("tune", weights, patterns)
    ends = check_ends("tune", chain, n, gather, take, None, weights[0])
    return tune_chain(weights, chain, batch, seconds, ends)


def tune_chain(
    weights: Sequence[Tensor], patterns: Patterns, batch: int, seconds: float, ends: Ends | None = None
) -> Tuning:
    """Measure and remember; the arguments have been checked."""
    if ends is None:
        ends = Ends(patterns[0].cols, patterns[-1].rows, None, None, None, ())
    check_size("tune", "batch", batch)
    seconds = check_seconds("tune", "seconds", seconds)
    if not ends.n_out:
        raise ArgumentError(complaint("tune", "take", "[]", "there is nothing to compute", "take some row"))
    weights = [w.detach().resolve_conj().resolve_neg() for w in weights]
    probe = torch.empty(1, patterns[0].cols, dtype=weights[0].dtype, device=weights[0].device)
    if TRITON.can_run(probe, weights, patterns).ok:
        return _tune_on_gpu(weights, patterns, batch, seconds)
    ok, reason = NATIVE.can_run(probe, weights, patterns)
    if not ok:
        way_out = "leave it: only the native kernels and those for GPUs have schedules to measure"
        raise BackendUnavailableError(
            complaint("tune", "weights", f"{len(weights)} factors", reason, way_out)
        )
    weights, description = described(weights, patterns)
    group = batch_class(batch)
    rule = default_schedule(patterns, description.dtype, group, ends.selects)
    trials = [
        _Trial(description, weights, schedule, batch, ends)
        for schedule in _candidates(rule, description, batch)
    ]
    times = race(trials, seconds)
    fastest = min(range(len(trials)), key=times.__getitem__)
    winner, rule_time = trials[fastest].schedule, times[0]
    key = question(patterns, description.dtype, group, threads(), ends.selects)
    measured = {
        "microseconds": round(1e6 * times[fastest], 3),
        "rule_microseconds": round(1e6 * rule_time, 3),
    }
    path = remember(key, winner, measured)
    forget_schedules()
    calls.forget()
    return Tuning(winner, times[fastest], rule_time, len(trials), None if path is None else str(path))


def _tune_on_gpu(weights: Sequence[Tensor], patterns: Patterns, batch: int, seconds: float) -> Tuning:
    """The same for plans of the GPU kernels, whose ends change nothing."""
    x = torch.randn(batch, patterns[0].cols, device=weights[0].device).to(weights[0].dtype)
    group = gpu_batch_class(batch)
    choices = gpu.candidates(patterns, [tuple(w.shape) for w in weights], group, x.dtype, x.device)
    times = race([gpu.trial(x, weights, patterns, choice) for choice in choices], seconds, x.device)
    fastest = min(range(len(times)), key=times.__getitem__)
    measured = {
        "microseconds": round(1e6 * times[fastest], 3),
        "rule_microseconds": round(1e6 * times[0], 3),
    }
    path = remember(gpu.question(patterns, x.dtype, group, x.device), choices[fastest], measured)
    gpu.learned.cache_clear()
    return Tuning(choices[fastest], times[fastest], times[0], len(times), None if path is None else str(path))


def _candidates(rule: Schedule, description: Description, batch: int) -> list[Schedule]:
    """The rule first, then every way to group factors worth a try with every height of tiles."""
    found = [rule]
    heights = tile_heights(description.dtype, batch)
    for passes in _groupings(description):
        found += [Schedule("tiles", passes, height) for height in heights]
        if batch <= _ROWS_UP_TO:
            found.append(Schedule("rows", passes, 1))
    return list(dict.fromkeys(found))[:_MOST]


def _groupings(description: Description) -> Iterator[tuple[int, ...]]:
    """Ways to group the factors: as few passes as runs of a bounded length allow, evenly and greedily."""
    module, isa, _ = native_part()
    assert module is not None
    code, flat, k = description.code, description.flat_patterns, len(description.patterns)
    seen: set[tuple[int, ...]] = set()
    for longest in range(k, 0, -1):
        for order in (_from_the_front, _from_the_back):
            fuses: Callable[[int, int], bool] = lambda start, count: module.Chain.can_fuse(  # noqa: E731
                code, flat, start, count, isa
            )
            passes = order(k, longest, fuses)
            if passes not in seen:
                seen.add(passes)
                yield passes


def _from_the_front(k: int, longest: int, fuses: Callable[[int, int], bool]) -> tuple[int, ...]:
    passes: list[int] = []
    start = 0
    while start < k:
        count = min(longest, k - start)
        while count > 1 and not fuses(start, count):
            count -= 1
        passes.append(count)
        start += count
    return tuple(passes)


def _from_the_back(k: int, longest: int, fuses: Callable[[int, int], bool]) -> tuple[int, ...]:
    passes: list[int] = []
    stop = k
    while stop > 0:
        count = min(longest, stop)
        while count > 1 and not fuses(stop - count, count):
            count -= 1
        passes.append(count)
        stop -= count
    return tuple(reversed(passes))


class _Trial:
    """One schedule, ready to run."""

    def __init__(
        self,
        description: Description,
        weights: Sequence[Tensor],
        schedule: Schedule,
        batch: int,
        ends: Ends,
    ) -> None:
        self.schedule = schedule
        self.chain: NativeChain = new_chain(description, schedule, ends)
        if ends.bias is not None:
            self.chain.set_bias(ends.bias.data_ptr())
        self.pointers = [w.data_ptr() for w in weights]
        self.source = vectors(torch.randn(batch, ends.n_in, device="cpu").to(description.dtype))
        self.target = vectors(torch.empty(batch, ends.n_out, dtype=description.dtype, device="cpu"))
        self.in_rows = schedule.kernel == "rows"
        if not self.in_rows:
            self.chain.pack(self.pointers)

    def __call__(self) -> None:
        if self.in_rows:
            self.chain.rows(
                self.pointers, *self.source.place, *self.target.place, self.source.batch, threads()
            )
        else:
            self.chain.forward(*self.source.place, *self.target.place, self.source.batch, threads())


def in_words(schedule: Schedule | Choice) -> str:
    """A schedule in words."""
    if isinstance(schedule, Choice):
        ring = (
            f"{schedule.ring // 2**20} MiB between factors" if schedule.ring else "a launch for each factor"
        )
        return f"triton kernel, blocks of {schedule.widest} at most, {ring}"
    kernel, passes, height = schedule
    tall = f", tiles {height} vector{'' if height == 1 else 's'} high" if kernel == "tiles" else ""
    return f"{kernel} kernel, passes {'+'.join(map(str, passes))}{tall}"


def race(trials: Sequence[Callable[[], object]], seconds: float, device: torch.device = CPU) -> list[float]:
    """Time of one run of each: the median of rounds taken turn by turn, so that noise hits all alike."""
    return [statistics.median(found) for found in rounds(trials, seconds, device=device)]


def rounds(
    trials: Sequence[Callable[[], object]], seconds: float, count: int = 5, device: torch.device = CPU
) -> list[list[float]]:
    """Time of one run of each in every round, the rounds taken turn by turn; on a GPU, of runs that are done."""
    wait = waiting_for(device)
    repeats = []
    for trial in trials:
        trial()
        wait()
        start = time.perf_counter()
        trial()
        wait()
        once = max(time.perf_counter() - start, 1e-7)
        repeats.append(max(1, round(seconds / len(trials) / count / once)))
    times: list[list[float]] = [[] for _ in trials]
    for _ in range(count):
        for trial, runs, found in zip(trials, repeats, times, strict=True):
            start = time.perf_counter()
            for _ in range(runs):
                trial()
            wait()
            found.append((time.perf_counter() - start) / runs)
    return times
