"""Compile the kernels for chains ahead of time, as plans for common sizes ask for them; print what they need."""

from __future__ import annotations

import torch
from ahead_of_time import Needs, needs

from kmatrix.ops import Pattern
from kmatrix.ops.triton import resident
from kmatrix.ops.triton.backward import stages
from kmatrix.ops.triton.kernels import chain as links_of
from kmatrix.ops.triton.kernels import gradient, paths, pullback
from kmatrix.ops.triton.kernels import resident as kernels
from kmatrix.ops.triton.launch import constants, links
from kmatrix.ops.triton.packing import product_jobs
from kmatrix.ops.triton.plan import Factor, Plan, Step, Tile, plan
from kmatrix.ops.triton.unpacking import gradient_jobs

TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.complex64: "fp32"}
ENDS: dict[str, object] = {
    "bias": None,
    "gather": None,
    "GATHERED": False,
    "PADDED": False,
    "BIASED": False,
    "CROPPED": False,
    "SCALED": False,
    "scales": None,
}


def butterfly(n: int) -> tuple[Pattern, ...]:
    return tuple([Pattern(n >> (k + 1), 2, 2, 1 << k) for k in range(n.bit_length() - 1)])


def types(dtype: torch.dtype, *pointers: str) -> dict[str, str]:
    names = ("x_stride", "y_stride", "grad_stride", "grad_x_stride", "rows", "n_in", "n_out", "chunks")
    found = {name: "i32" for name in names} | {"counters": "*i32", "sums": "*fp32", "upstream": "*fp32"}
    return found | {name: f"*{TYPES[dtype]}" for name in pointers}


def chain(found: Plan, dtype: torch.dtype, capability: int) -> Needs:
    """The forward pass of a plan of several steps."""
    pairs = 2 if dtype.is_complex else 1
    factors, tiles = links(found, pairs, *[(0,) * len(found.steps)] * 2)
    width = max(step.factor.pattern.rows for step in found.steps[:-1]) * pairs
    known = {
        **ENDS, "FACTORS": factors, "Q": pairs, "ACTIVATION": "", "PRECISION": "ieee", "CHUNK": found.chunk,
        "WIDTH": width, "TILES": tiles,
    }  # fmt: skip
    warps = max(step.tile.warps for step in found.steps)
    named = types(dtype, "x", "y", "ring", "weights")
    return needs(
        links_of.chain_kernel,
        named,
        known,
        capability=capability,
        warps=warps,
        odd=("rows", "chunks"),
    )


def held(widths: tuple[int, int], dtype: torch.dtype, capability: int) -> Needs:
    """Two factors that stay on the chip, with all that may follow them."""
    b, c = widths
    factors = [Factor(p, p.a == 1, p.d == 1) for p in (Pattern(c, b, b, 1), Pattern(1, c, c, b))]
    steps = tuple([Step(i, i + 1, f, Tile(16, 1, 16, 16, 1, 4)) for i, f in enumerate(factors)])
    how = resident.how(steps, dtype, {80: 166_912, 90: 232_448}[capability])
    assert how is not None, "the rule says that these do not fit"
    first, second = resident.constants(steps[0], 0), resident.constants(steps[1], factors[0].numel)
    known: dict[str, object] = {
        "FIRST": first, "SECOND": second, "BT": how.vectors, "BIASED": True, "ACTIVATION": "gelu", "PRECISION": "ieee",
    }  # fmt: skip
    named, options = types(dtype, "x", "y", "weights", "bias"), {"warps": how.warps, "stages": how.stages}
    return needs(kernels.resident_kernel, named, known, capability=capability, odd=("rows",), **options)


def backward(step: Step, dtype: torch.dtype, capability: int) -> Needs:
    """The gradients of one step."""
    pairs = 2 if dtype.is_complex else 1
    f = constants(step, pairs)
    known: dict[str, object] = {
        "F": f,
        "Q": pairs,
        "STEPS": 16,
        "NEED_X": True,
        "PADDED": True,
        "CROPPED": True,
        "SCALED": False,
        "scales": None,
        "PRECISION": "ieee",
    }
    named = types(dtype, "grad", "x", "grad_x", "weight")
    odd = ("rows",)
    return needs(
        gradient.gradient_kernel, named, known, capability=capability, warps=step.tile.warps, odd=odd
    )


def pulled_back(found: Plan, dtype: torch.dtype, capability: int) -> Needs:
    """The backward pass of a plan of several steps."""
    pairs = 2 if dtype.is_complex else 1
    told, tiles, _ = stages(found, pairs, *[(0,) * len(found.steps)] * 3)
    width = max(step.factor.pattern.rows for step in found.steps[:-1]) * pairs
    known: dict[str, object] = {
        "scales": None, "STAGES": told, "Q": pairs, "NEED_X": True, "PADDED": True, "CROPPED": True,
        "SCALED": False, "PRECISION": "ieee", "CHUNK": found.chunk, "WIDTH": width, "TILES": tiles,
    }  # fmt: skip
    warps = max(step.tile.warps for step in found.steps)
    named = types(dtype, "grad", "x", "grad_x", "ring", "weights")
    odd = ("rows", "chunks", "n_in", "n_out")
    return needs(pullback.pullback_kernel, named, known, capability=capability, warps=warps, odd=odd)


def multiplied_out(patterns: tuple[Pattern, ...], dtype: torch.dtype) -> list[Needs]:
    """Factors as one block or two, each a run of factors or a pair of them, and the gradients of runs."""
    q = 2 if dtype.is_complex else 1
    steps = plan(patterns, patterns, 32768, dtype).steps
    places = tuple([64 * i for i in range(len(steps))])
    known: dict[str, object] = {"Q": q, "PRECISION": "ieee"}
    jobs, _ = product_jobs(patterns, patterns, steps, places, q)
    found = [needs(paths.product_kernel, types(dtype, "source", "target"), known | {"JOBS": jobs})]
    graded, _, _ = gradient_jobs(patterns, patterns, steps, places, q)
    if graded:
        named = types(dtype, "source", "target") | {"upstream": "*fp32"}
        found.append(needs(paths.gradient_kernel, named, known | {"JOBS": graded}))
    return found


def main() -> None:
    """Print a line for each kernel: what it is, bytes spilled, bytes of shared memory, atomic instructions."""
    for n, dtype, capability in (
        (1024, torch.bfloat16, 90), (4096, torch.bfloat16, 90), (4096, torch.bfloat16, 80),
        (1024, torch.float32, 90), (1024, torch.complex64, 90),
    ):  # fmt: skip
        patterns, name = butterfly(n), f"butterfly {n} {dtype} sm_{capability}"
        for batch in (16, 32768):
            needed = chain(plan(patterns, patterns, batch, dtype), dtype, capability)
            print(f"{name} batch {batch}: {needed.spilled} {needed.shared} {needed.atomics}")
        back = plan(patterns, patterns, 32768, dtype, backward=True)
        needed = pulled_back(back, dtype, capability)
        print(f"{name} batch 32768 backward: {needed.spilled} {needed.shared} {needed.atomics}")
        for step in back.steps:
            needed = backward(step, dtype, capability)
            print(
                f"{name} backward {tuple(step.factor.pattern)}: {needed.spilled} {needed.shared} {needed.atomics}"
            )
    for widths, dtype, capability in (
        ((32, 32), torch.bfloat16, 90), ((64, 16), torch.bfloat16, 90), ((32, 16), torch.bfloat16, 80),
        ((16, 16), torch.float32, 90), ((32, 16), torch.float32, 80),
    ):  # fmt: skip
        needed = held(widths, dtype, capability)
        name = f"blocks {widths} held, {dtype} sm_{capability}"
        print(f"{name}: {needed.spilled} {needed.shared} {needed.atomics}")
    both = butterfly(64) + tuple(p.transposed for p in reversed(butterfly(64)))
    for patterns in (butterfly(64), butterfly(4096), both):
        for dtype in (torch.bfloat16, torch.complex64):
            for needed in multiplied_out(patterns, dtype):
                name = f"{len(patterns)} factors multiplied out, {dtype}"
                print(f"{name}: {needed.spilled} {needed.shared} {needed.atomics}")


if __name__ == "__main__":
    main()
