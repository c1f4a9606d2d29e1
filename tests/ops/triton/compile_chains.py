"""Compile the kernels for chains ahead of time, as plans for common sizes ask for them; print what they need."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from ahead_of_time import Needs, needs

from kmatrix.ops import Pattern
from kmatrix.ops.triton import resident
from kmatrix.ops.triton.backward import is_whole, stages
from kmatrix.ops.triton.kernels import chain as links_of
from kmatrix.ops.triton.kernels import factor, gradient, paths, pullback
from kmatrix.ops.triton.kernels import resident as kernels
from kmatrix.ops.triton.launch import constants, links
from kmatrix.ops.triton.packing import product_jobs
from kmatrix.ops.triton.plan import Factor, Plan, Step, plan
from kmatrix.ops.triton.tiles import Tile
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
    known = {
        **ENDS, "FACTORS": factors, "Q": pairs, "ACTIVATION": "", "PRECISION": "ieee", "CHUNK": found.chunk,
        "TILES": tiles,
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
    how = resident.how(steps, dtype, MEMORY[capability])
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
    known: dict[str, object] = {
        "scales": None, "STAGES": told, "Q": pairs, "NEED_X": True, "PADDED": True, "CROPPED": True,
        "SCALED": False, "PRECISION": "ieee", "CHUNK": found.chunk, "TILES": tiles,
    }  # fmt: skip
    warps = max(step.tile.warps for step in found.steps)
    named = types(dtype, "grad", "x", "grad_x", "ring", "weights")
    odd = ("rows", "chunks", "n_in", "n_out")
    return needs(pullback.pullback_kernel, named, known, capability=capability, warps=warps, odd=odd)


def alone(step: Step, dtype: torch.dtype, capability: int, *, turned: bool = False) -> Needs:
    """One step, or its transpose."""
    pairs = 2 if dtype.is_complex else 1
    f = constants(step, pairs, turned=turned)
    known = {**ENDS, "F": f, "Q": pairs, "LAST": True, "ACTIVATION": "", "PRECISION": "ieee"}
    named, warps = types(dtype, "x", "y", "weight"), step.tile.warps
    return needs(factor.factor_kernel, named, known, capability=capability, warps=warps, odd=("rows",))


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


BF16, F32, C64 = torch.bfloat16, torch.float32, torch.complex64
KALEIDOSCOPE = butterfly(4096) + tuple(p.transposed for p in reversed(butterfly(4096)))
MONARCH_32 = Pattern(32, 32, 32, 1), Pattern(1, 32, 32, 32)
MONARCH_64 = Pattern(64, 64, 64, 1), Pattern(1, 64, 64, 64)
MONARCH_128 = Pattern(128, 128, 128, 1), Pattern(1, 128, 128, 128)
BLAST = Pattern(16, 128, 256, 1), Pattern(1, 16, 16, 128), Pattern(16, 256, 128, 1)
LOW_RANK = Pattern(1, 64, 1024, 1), Pattern(1, 1024, 64, 1)
THIN = Pattern(1, 4, 1024, 1), Pattern(1, 1024, 4, 1)
CASES = (
    ("butterfly 1024", butterfly(1024), BF16, 90), ("butterfly 4096", butterfly(4096), BF16, 90),
    ("butterfly 4096", butterfly(4096), BF16, 80), ("butterfly 4096", butterfly(4096), BF16, 89),
    ("butterfly 1024", butterfly(1024), F32, 90), ("butterfly 1024", butterfly(1024), C64, 90),
    ("K-matrix 4096", KALEIDOSCOPE, BF16, 90), ("K-matrix 4096", KALEIDOSCOPE, F32, 90),
    ("Monarch 32 blocks", MONARCH_32, F32, 90), ("Monarch 32 blocks", MONARCH_32, C64, 89),
    ("Monarch 64 blocks", MONARCH_64, BF16, 90), ("Monarch 64 blocks", MONARCH_64, BF16, 89),
    ("Monarch 64 blocks", MONARCH_64, F32, 90), ("Monarch 128 blocks", MONARCH_128, BF16, 90),
    ("BLAST 4096", BLAST, BF16, 90), ("low rank 1024", LOW_RANK, BF16, 90), ("low rank 1024", THIN, F32, 89),
)  # fmt: skip
MEMORY = {80: 166_912, 89: 101_376, 90: 232_448}  # bytes of shared memory that a program may have


def cases() -> Iterator[tuple[str, Needs]]:
    """Everything, by name."""
    for kind, patterns, dtype, capability in CASES:
        name, memory = f"{kind} {dtype} sm_{capability}", MEMORY[capability]
        for batch in (16, 32768):
            found = plan(patterns, patterns, batch, dtype, memory=memory)
            if found.chunk:
                yield f"{name} batch {batch}", chain(found, dtype, capability)
            else:
                for step in found.steps:
                    yield f"{name} forward {tuple(step.factor.pattern)}", alone(step, dtype, capability)
        back = plan(patterns, patterns, 32768, dtype, backward=True, memory=memory)
        pairs = 2 if dtype.is_complex else 1
        if back.chunk and all(is_whole(step, pairs) for step in back.steps):
            yield f"{name} batch 32768 backward", pulled_back(back, dtype, capability)
            continue
        for step in back.steps:
            single = f"{name} backward {tuple(step.factor.pattern)}"
            yield single, backward(step, dtype, capability)
            yield f"{single}, forward", alone(step, dtype, capability)
            yield f"{single}, transposed", alone(step, dtype, capability, turned=True)
    for widths, dtype, capability in (
        ((32, 32), BF16, 90), ((64, 16), BF16, 90), ((32, 16), BF16, 80), ((16, 16), F32, 90), ((32, 16), F32, 80),
    ):  # fmt: skip
        yield f"blocks {widths} held, {dtype} sm_{capability}", held(widths, dtype, capability)
    for patterns in (butterfly(64), butterfly(4096), KALEIDOSCOPE):
        for dtype in (BF16, C64):
            for needed in multiplied_out(patterns, dtype):
                yield f"{len(patterns)} factors multiplied out, {dtype} sm_90", needed


def main() -> None:
    """Print a line for each kernel: what it is, bytes spilled, bytes of shared memory, atomic instructions."""
    for name, needed in cases():
        print(f"{name}: {needed.spilled} {needed.shared} {needed.atomics}", flush=True)


if __name__ == "__main__":
    main()
