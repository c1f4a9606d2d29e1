"""Gradients of weights from those of packed factors: the way of ``packing`` back.

All runs go through one launch; pairs of runs, and what else stock torch has multiplied out, through stock torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.merging import merge_group_gradients
from kmatrix.ops.schedule import Shapes
from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.packing import (
    HALF,
    Constants,
    Packed,
    flat_path,
    shapes_of,
    source_places,
)
from kmatrix.ops.triton.plan import Step
from kmatrix.ops.triton.runs import as_run
from kmatrix.ops.triton.tiles import LEAST, power_of_two

# Numbers of a weight times paths through each, and paths, that a program looks at at a time.
_EDGES, _PATHS = 2048, 64
Jobs = tuple[tuple[Constants, ...], tuple[tuple[int, tuple[int, ...]], ...], int]


def unpacked_gradients(
    gradients: Tensor, packed: Packed, weights: Sequence[Tensor], patterns: Patterns, steps: Sequence[Step]
) -> list[Tensor]:
    """Gradients of the weights from those of the packed factors, which lie as these do, in float32."""
    pairs = 2 if weights[0].is_complex() else 1
    found = _of_runs(gradients, packed, weights, patterns, steps, pairs)
    for step, place in zip(steps, packed.places, strict=True):
        if step.start in found:
            continue
        (a, b, c, d), tied_a, tied_d = step.factor
        shape = (1 if tied_a else a, 1 if tied_d else d, c * pairs, b * pairs)
        gradient = gradients[place : place + prod(shape)].view(shape)
        turned = _complex_gradient(gradient) if pairs == 2 else gradient
        group = range(step.start, step.stop)
        wide = [weights[i].float() if weights[i].dtype in HALF else weights[i] for i in group]
        merged = merge_group_gradients(turned.permute(0, 3, 2, 1), wide, patterns[step.start : step.stop])
        found |= dict(zip(group, merged, strict=True))
    return [found[i].to(w.dtype).contiguous() for i, w in enumerate(weights)]


def _of_runs(
    gradients: Tensor,
    packed: Packed,
    weights: Sequence[Tensor],
    patterns: Patterns,
    steps: Sequence[Step],
    pairs: int,
) -> dict[int, Tensor]:
    """Gradients of all weights in steps that are runs, by their number."""
    from kmatrix.ops.triton.kernels import paths as kernels

    shapes = shapes_of(weights)
    jobs, made, programs = gradient_jobs(tuple(patterns), shapes, tuple(steps), packed.places, pairs)
    if not jobs:
        return {}
    dtype = packed.source.dtype
    if any(shape != shapes[i] for i, shape in made):
        dtype = torch.float32  # what is added up along ties is rounded after
    sizes = [prod(shape) * pairs for _, shape in made]
    numbers = gradients.new_empty(sum(sizes), dtype=dtype)
    kernels.gradient_kernel[(programs,)](
        packed.source, gradients, numbers, JOBS=jobs, Q=pairs, PRECISION=precision(exact=True)
    )
    found = {}
    # Outputs of an operator share no memory.
    parts: tuple[Tensor, ...] = tuple(torch.ops.aten.split_with_sizes_copy.default(numbers, sizes))
    for (i, shape), part in zip(made, parts, strict=True):
        whole = torch.view_as_complex(part.view(*shape, 2)) if pairs == 2 else part.view(shape)
        found[i] = whole if shape == shapes[i] else whole.sum_to_size(shapes[i])
    return found


@lru_cache(maxsize=1024)
def gradient_jobs(
    patterns: Patterns, shapes: Shapes, steps: tuple[Step, ...], places: tuple[int, ...], pairs: int
) -> Jobs:
    """What ``gradient_kernel`` calls ``JOBS``; which weight each is of, and of what shape without ties; and programs.

    Of each: the first program, and how many; where the gradient of the weight begins and that of the product; ``b``,
    ``c`` and diagonals of the product that have a block of their own; numbers of the weight in a lane and paths through
    each, and how many of both a program looks at; whether strides grow, how many factors the run has, and which of them
    this is. The path of the run stands behind.
    """
    sources = source_places(shapes)
    found: list[Constants] = []
    made: list[tuple[int, tuple[int, ...]]] = []
    total = 0
    sizes: list[int] = []
    for step, place in zip(steps, places, strict=True):
        run = as_run(patterns, step.start, step.stop)
        if run is None:
            continue
        (a, b, c, d), tied_a, tied_d = step.factor
        held_a, held_d = 1 if tied_a else a, 1 if tied_d else d
        path = flat_path(patterns, shapes, run, sources)
        for i in range(step.stop - step.start):
            _, p_b, p_c, p_d, p_a = path[13 * i : 13 * i + 5]
            edges = p_a * p_b * p_c * p_d
            free = b * c // edges
            block = power_of_two(free, _PATHS, 1)
            rows = max(min(power_of_two(edges, _EDGES // block, 1), _EDGES // block), LEAST)
            shape = (held_a * p_a, p_b, p_c, p_d * held_d)
            programs = held_a * held_d * -(-edges // rows)
            begin = sum(sizes)
            sizes.append(prod(shape) * pairs)
            head = (total, programs, begin, place, b, c, held_d, edges, free, rows, block)
            found.append((*head, int(run.growing), step.stop - step.start, i, *path))
            made.append((step.start + i, shape))
            total += programs
    return tuple(found), tuple(made), total


def _complex_gradient(gradient: Tensor) -> Tensor:
    """What ``packing`` made of complex numbers, pulled back."""
    a, d, c, b = gradient.shape
    pairs = gradient.view(a, d, c // 2, 2, b // 2, 2)
    real = pairs[:, :, :, 0, :, 0] + pairs[:, :, :, 1, :, 1]
    return torch.complex(real, pairs[:, :, :, 0, :, 1] - pairs[:, :, :, 1, :, 0])
