"""Other plans than the rule's: which factors are multiplied out, and in which tiles; each checked, then timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from _gpu.cases import Case
from _gpu.checks import judged, plain_product, rounding_bound
from _gpu.clock import CudaClock, HostClock, race
from _gpu.contenders import Bench, Contender
from _gpu.problems import allow_tf32, exactly, release
from _gpu.workers import is_fatal
from kmatrix.ops.definition import Patterns
from kmatrix.ops.triton.backend import batch_class
from kmatrix.ops.triton.plan import Choice, Plan, Step
from kmatrix.ops.triton.plan import plan as planned
from kmatrix.ops.triton.tiles import LEAST, Tile
from kmatrix.structures.chain import AbstractChainMatrix

WIDTHS = (16, 32, 64, 128)
RINGS = (0, 8 * 2**20, 32 * 2**20)  # bytes of vectors between two factors; 0 for a launch for each
FEWEST_ROWS, MOST_ROWS = 16, 512  # of one matrix instruction; of a tile
TUNED = (
    "butterfly 1024",
    "butterfly 4096",
    "K-matrix 4096",
    "Monarch 4096, 64 blocks",
    "forward + backward, butterfly 4096",
    "butterfly 1024, complex64",
    "butterfly 1024, float32",
    "decode 4096, batch 16",
    "butterfly 8192",
)


def ruled(case: Case, device: str = "cpu", choice: Choice | None = None) -> Plan:
    """What the rule says, or would say with other widths of blocks and room between factors."""
    matrix = Bench(case, device).matrix
    assert isinstance(matrix, AbstractChainMatrix)
    shapes = tuple([tuple(w.shape) for w in matrix.weights])
    patterns = tuple(matrix.layout.patterns)
    batch = batch_class(case.batch)
    return planned(patterns, shapes, batch, matrix.dtype, backward=case.graded, choice=choice)


def beginnings(case: Case) -> list[Plan]:
    """The rule's plan first, then other widths of blocks, in tiles of other heights, repeats and numbers of warps."""
    found = [ruled(case)]
    for choice in itertools.starmap(Choice, itertools.product(WIDTHS, RINGS)):
        base = ruled(case, choice=choice)
        found.append(base)
        for times, warps, repeats in itertools.product((0.5, 1, 2), (4, 8), (1, 4, 16)):
            steps = [_changed(step, times, warps, repeats) for step in base.steps]
            if all(step is not None for step in steps):
                found.append(_whole(base, [step for step in steps if step is not None]))
    return list(dict.fromkeys(found))


def neighbours(plan: Plan) -> Iterator[Plan]:
    """One number of one tile doubled or halved, or the chunk."""
    for i, step in enumerate(plan.steps):
        for name, value in step.tile._asdict().items():
            for other in (value * 2, value // 2):
                tile = step.tile._replace(**{name: other})
                if _sensible(step, tile):
                    yield _whole(plan, [*plan.steps[:i], step._replace(tile=tile), *plan.steps[i + 1 :]])
    for chunk in (plan.chunk * 2, plan.chunk // 2) if plan.chunk else ():
        if chunk >= max(step.tile.vectors * step.tile.steps for step in plan.steps):
            yield plan._replace(chunk=chunk)


def _changed(step: Step, times: float, warps: int, repeats: int) -> Step | None:
    tile = step.tile._replace(vectors=int(step.tile.vectors * times), warps=warps, steps=repeats)
    return step._replace(tile=tile) if _sensible(step, tile) else None


def _sensible(step: Step, tile: Tile) -> bool:
    pattern, _, tied_d = step.factor
    shared = tied_d or pattern.d == 1 or tile.diagonals == 1
    rows = tile.vectors * (tile.diagonals if shared else 1)
    return (
        min(tile) >= 1
        and FEWEST_ROWS <= rows <= MOST_ROWS
        and min(tile.outputs, tile.inputs) >= LEAST
        and max(tile.outputs, tile.inputs) <= 256
        and tile.diagonals <= max(pattern.d, 1)
        and 2 <= tile.warps <= 16
    )


def _whole(base: Plan, steps: Sequence[Step]) -> Plan:
    """A plan of other steps, whose chunk is that of another as far as whole tiles allow."""
    if not base.chunk:
        return Plan(tuple(steps), 0)
    tall = max(step.tile.vectors * step.tile.steps for step in steps)
    return Plan(tuple(steps), max(base.chunk // tall, 1) * tall)


def _arguments(bench: Bench) -> tuple[list[Tensor], Patterns]:
    matrix = bench.matrix
    assert isinstance(matrix, AbstractChainMatrix)
    return [w.detach() for w in matrix.weights], matrix.layout.patterns


def _runner(bench: Bench, plan: Plan) -> Callable[[Tensor], list[Tensor]]:
    """Forward, with weights that are multiplied out before, or the backward pass alone."""
    from kmatrix.ops.triton import backward, launch
    from kmatrix.ops.triton.packing import pack

    weights, patterns = _arguments(bench)
    if not bench.case.graded:
        packed = pack(weights, patterns, plan.steps)
        return lambda x: [launch.forward(x, weights, patterns, plan, packed=packed)]

    def run_backward(x: Tensor) -> list[Tensor]:
        grad_x, gradients = backward.gradients(bench.upstream, x, weights, patterns, plan, True)
        assert grad_x is not None
        return [grad_x, *gradients]

    return run_backward


def try_plans(case: Case, plans: Sequence[Plan], device: str) -> list[str]:
    """What is wrong with each; empty where nothing is."""
    allow_tf32(case.dtype)
    bench = Bench(case, device)
    x = bench.inputs[0].detach()
    upstream = bench.upstream if case.graded else None
    exact = exactly(bench.matrix, x, upstream)[int(case.graded) :]
    plain = plain_product(bench.matrix, x, upstream, case.dtype)[int(case.graded) :]
    found = []
    for plan in plans:
        try:
            with torch.no_grad():
                result = _runner(bench, plan)(x)
            found.append(judged(result, plain, exact, rounding_bound(bench.matrix, case.dtype)).why)
        except Exception as error:  # mostly a tile too large for registers or memory of a multiprocessor
            if is_fatal(error):
                raise
            found.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")
    release(device)
    return found


def time_plans(case: Case, plans: Sequence[Plan], seconds: float, device: str) -> list[float]:
    """Microseconds of each, the median of rounds in which all had their turn."""
    allow_tf32(case.dtype)
    bench = Bench(case, device)
    inputs = [x.detach() for x in bench.inputs]
    with torch.no_grad():
        runners = [_runner(bench, plan) for plan in plans]
        contenders = {str(i): Contender([partial(run, x) for x in inputs]) for i, run in enumerate(runners)}
        found = race(contenders, seconds, CudaClock() if device == "cuda" else HostClock())
    release(device)
    return [1e6 * found.time(name).median for name in contenders]


def in_words(plan: Plan) -> dict[str, Any]:
    """For a file."""
    steps = [
        {"start": s.start, "stop": s.stop, "pattern": list(s.factor.pattern), **s.tile._asdict()}
        for s in plan.steps
    ]
    return {"chunk": plan.chunk, "steps": steps}
