"""Forward and backward together: gradients of the vectors and of every weight, and the memory that they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix import ops
from kmatrix._quiet import quiet
from kmatrix.benchmark.contenders import Contender, Problem, rounding, some_vectors, wide
from kmatrix.benchmark.results import Figure
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.native_cache import PACKED

Multiply = Callable[[Tensor, Sequence[Tensor]], Tensor]


def dense_step(problem: Problem, dtype: torch.dtype) -> Contender:
    """A step of ``F.linear``."""

    def multiply(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        return functional.linear(x, weights[0])

    tolerance = rounding(dtype, sum(problem.matrix.shape) + problem.batch)
    return _step(problem, dtype, [problem.dense_weight(dtype)], multiply, multiply, tolerance)


def our_step(problem: Problem, dtype: torch.dtype) -> Contender:
    """A step of ``chain_matmul``."""
    weights, patterns = problem.chain(dtype)

    def multiply(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        return ops.chain_matmul(x, weights, patterns)

    def define(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        return reference_chain_matmul(x, weights, patterns)

    terms = 2 * sum(p.b + p.c for p in patterns) + problem.batch
    tolerance = rounding(dtype, terms, 2 * len(patterns))
    return _step(problem, dtype, weights, multiply, define, tolerance)


def _step(
    problem: Problem,
    dtype: torch.dtype,
    weights: Sequence[Tensor],
    multiply: Multiply,
    define: Multiply,
    tolerance: float,
) -> Contender:
    held = [w.clone().requires_grad_() for w in weights]
    inputs = [x.requires_grad_() for x in problem.inputs(dtype)]
    upstream = some_vectors(problem.batch, problem.matrix.shape[0], dtype)[-1]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            return torch.autograd.grad(multiply(x, held), [x, *held], upstream)

    def expected() -> tuple[Tensor, ...]:
        x, *exact = (t.detach().to(wide(dtype)).requires_grad_() for t in (inputs[0], *held))
        with torch.enable_grad():
            return torch.autograd.grad(define(x, exact), [x, *exact], upstream.to(wide(dtype)))

    return Contender(run, inputs, None, expected, tolerance)


def memory(problem: Problem, dtype: torch.dtype) -> Figure:
    """The most that a step of ours holds at once, against a step of dense and one output more.

    Counted is what torch allocates during the step, and the copies of weights that our kernels keep.
    """
    kept = PACKED.nbytes
    step = our_step(problem, dtype)
    step.run(step.inputs[0])
    kept = max(PACKED.nbytes - kept, 0)
    mine = peak_bytes(lambda: step.run(step.inputs[0])) + kept
    other = dense_step(problem, dtype)
    other.run(other.inputs[0])
    output = problem.batch * problem.matrix.shape[0] * dtype.itemsize
    allowed = peak_bytes(lambda: other.run(other.inputs[0])) + output
    case = f"training memory, {problem.matrix.shape[1]}, batch {problem.batch}"
    return Figure(case, "of dense and one output", mine / allowed, "x", must=1.0, less=True)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that torch holds at once beyond what it held before, while something runs."""
    with quiet(2), torch.autograd.profiler.profile(profile_memory=True) as profile:
        kept = run()
    del kept
    found = profile.kineto_results
    assert found is not None
    level = most = 0
    for event in sorted(found.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            level += event.nbytes()
            most = max(most, level)
    return most
