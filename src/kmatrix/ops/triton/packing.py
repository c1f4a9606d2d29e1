"""Weights as the kernels read them: factors multiplied out, inputs before outputs, complex numbers as real blocks.

Runs, which butterflies are made of, and pairs of runs go through one launch; what else can be multiplied out goes
through stock torch. Products are made in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.merging import merge_group
from kmatrix.ops.schedule import Shapes
from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.plan import Step
from kmatrix.ops.triton.runs import Run, path_constants, runs_of
from kmatrix.ops.triton.tiles import power_of_two

Constants = tuple[int, ...]
HALF = (torch.bfloat16, torch.float16)
APART = 64  # numbers that the place of a factor is a multiple of, for wide loads


class Packed(NamedTuple):
    """All factors of a plan in one buffer of real numbers, and the weights they were made from.

    Attributes:
        buffer: the factors.
        places: where each begins.
        scales: what the numbers of each group and diagonal of each factor are to be multiplied by: a product of float16
            may be beyond what float16 holds. None for other number types, and where nothing is multiplied out.
        lanes: where the scales of each factor begin.
        source: the weights, flat.
    """

    buffer: Tensor
    places: tuple[int, ...]
    scales: Tensor | None
    lanes: tuple[int, ...]
    source: Tensor

    def factor(self, i: int) -> tuple[Tensor, Tensor | None]:
        """The numbers of one factor, to the end of the buffer, and its scales."""
        return self.buffer[self.places[i] :], None if self.scales is None else self.scales[self.lanes[i] :]


def pack(weights: Sequence[Tensor], patterns: Patterns, steps: Sequence[Step]) -> Packed:
    """Multiply out and pack."""
    pairs = 2 if weights[0].is_complex() else 1
    source, shapes = _flat(weights), shapes_of(weights)
    sizes = [step.factor.numel * pairs * pairs for step in steps]
    places = begins([-(-size // APART) * APART for size in sizes])
    scaled = source.dtype == torch.float16 and any(step.stop - step.start > 1 for step in steps)
    buffer = torch.empty(
        places[-1] + sizes[-1], dtype=torch.float32 if scaled else source.dtype, device=source.device
    )
    jobs, programs = product_jobs(tuple(patterns), shapes, tuple(steps), places, pairs)
    if jobs:
        from kmatrix.ops.triton.kernels import paths as kernels

        kernels.product_kernel[(programs,)](
            source, buffer, JOBS=jobs, Q=pairs, PRECISION=precision(exact=True)
        )
    begun = {job[2] for job in jobs}
    for step, place, size in zip(steps, places, sizes, strict=True):
        if place not in begun:  # neither a run nor two
            block = _block(weights[step.start : step.stop], patterns[step.start : step.stop], buffer.dtype)
            buffer[place : place + size].view(block.shape).copy_(block)
    lanes = begins([_lanes(step) for step in steps])
    if not scaled:
        return Packed(buffer, places, None, lanes, source)
    scales = [
        _scaled(buffer[p : p + size].view(_lanes(s), -1))
        for s, p, size in zip(steps, places, sizes, strict=True)
    ]
    return Packed(buffer.to(source.dtype), places, torch.cat(scales), lanes, source)


def begins(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where each of several parts begins that lie one after the other."""
    return tuple(accumulate(sizes[:-1], initial=0))


def _lanes(step: Step) -> int:
    """Groups times diagonals that have a block of their own."""
    (a, _, _, d), tied_a, tied_d = step.factor
    return (1 if tied_a else a) * (1 if tied_d else d)


def _scaled(blocks: Tensor) -> Tensor:
    """Divide each row by a power of two, so that its largest number is in the upper range of float16; these powers."""
    exponent = torch.frexp(blocks.abs().amax(1)).exponent - 14
    blocks.copy_(torch.ldexp(blocks, -exponent[:, None]))
    return torch.ldexp(torch.ones_like(blocks[:, 0]), exponent)


def _flat(weights: Sequence[Tensor]) -> Tensor:
    """The numbers of all weights one after the other, as real ones."""
    flat = torch.cat([w.reshape(-1) for w in weights])
    return torch.view_as_real(flat).flatten() if flat.is_complex() else flat


def shapes_of(weights: Sequence[Tensor]) -> Shapes:
    """The shapes, to look plans and constants up by."""
    return tuple([tuple(w.shape) for w in weights])


def source_places(shapes: Shapes) -> tuple[int, ...]:
    """Where each weight begins among all, in entries."""
    return begins([prod(shape) for shape in shapes])


@lru_cache(maxsize=1024)
def product_jobs(
    patterns: Patterns, shapes: Shapes, steps: tuple[Step, ...], places: tuple[int, ...], pairs: int
) -> tuple[tuple[Constants, ...], int]:
    """What ``product_kernel`` calls ``JOBS``, for the steps that are runs or pairs of them, and how many programs.

    Of each: the first program, and how many; where the product begins; ``b``, the numbers between both runs, and ``c``;
    how many diagonals have a block of their own; outputs, numbers between and inputs of a program; whether strides grow
    in either run, and how many factors it has. The paths of the runs stand behind.
    """
    sources = source_places(shapes)
    found: list[Constants] = []
    total = 0
    for step, place in zip(steps, places, strict=True):
        runs = runs_of(patterns, step.start, step.stop)
        if runs is None:
            continue
        (a, b, c, d), tied_a, tied_d = step.factor
        held_a, held_d = 1 if tied_a else a, 1 if tied_d else d
        between = patterns[runs[0].stop - 1].rows // (runs[0].a * runs[0].d)
        most = 64 if len(runs) == 1 else 32 // pairs  # the product of two runs is summed in registers
        block_b, block_c = power_of_two(b, most), power_of_two(c, most)
        programs = held_a * held_d * -(-c // block_c) * -(-b // block_b)
        head = (
            total,
            programs,
            place,
            b,
            between,
            c,
            held_d,
            block_b,
            power_of_two(between, 32 // pairs),
            block_c,
        )
        lengths = [run.stop - run.start for run in runs] + [0] * (2 - len(runs))
        paths = [flat_path(patterns, shapes, run, sources) for run in runs]
        found.append(
            (*head, int(runs[0].growing), int(runs[-1].growing), *lengths, *chain.from_iterable(paths))
        )
        total += programs
    return tuple(found), total


def flat_path(patterns: Patterns, shapes: Shapes, run: Run, sources: Sequence[int]) -> tuple[int, ...]:
    """``path_constants`` of all factors of a run, one behind the other."""
    return tuple(chain.from_iterable(path_constants(patterns, shapes, run, sources)))


def _block(weights: Sequence[Tensor], patterns: Patterns, target: torch.dtype) -> Tensor:
    """Factors as one of shape ``(a or 1, d or 1, c, b)``, of pairs of each where numbers are complex."""
    dtype = weights[0].dtype
    if len(weights) > 1 and dtype in HALF:
        merged = merge_group([w.float() for w in weights], patterns).to(target)
    else:
        merged = merge_group(weights, patterns)
    turned = merged.permute(0, 3, 2, 1)
    if not dtype.is_complex:
        return turned
    # y = w x is (re, im) @ [[re w, im w], [-im w, re w]], inputs before outputs
    rows = torch.stack([turned.real, turned.imag], -1), torch.stack([-turned.imag, turned.real], -1)
    return torch.stack(rows, -3).flatten(-2).flatten(2, 3)
