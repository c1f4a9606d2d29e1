"""Weights as the kernels read them: factors multiplied out, inputs before outputs, complex numbers as real blocks.

Runs, which butterflies are made of, and pairs of runs go through kernels of their own; what else can be multiplied out
goes through stock torch. Products are made in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.merging import merge_group, merge_group_gradients
from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.plan import LEAST, Step, power_of_two
from kmatrix.ops.triton.runs import Path, Run, path_constants, runs_of

_HALF = (torch.bfloat16, torch.float16)
_APART = 64  # numbers that the place of a factor is a multiple of, for wide loads


class Packed(NamedTuple):
    """All factors of a plan in one buffer of real numbers, and the weights they were made from.

    Attributes:
        buffer: the factors.
        places: where each begins.
        scales: what the numbers of each group and diagonal of each factor are to be multiplied by: a product of float16
            may be beyond what float16 holds. None for other number types, and where nothing is multiplied out.
        lanes: where the scales of each factor begin.
        source: the weights, flat.
        sources: where each begins there, in entries.
    """

    buffer: Tensor
    places: tuple[int, ...]
    scales: Tensor | None
    lanes: tuple[int, ...]
    source: Tensor
    sources: tuple[int, ...]

    def factor(self, i: int) -> tuple[Tensor, Tensor | None]:
        """The numbers of one factor, to the end of the buffer, and its scales."""
        return self.buffer[self.places[i] :], None if self.scales is None else self.scales[self.lanes[i] :]


def pack(weights: Sequence[Tensor], patterns: Patterns, steps: Sequence[Step]) -> Packed:
    """Multiply out and pack."""
    pairs = 2 if weights[0].is_complex() else 1
    source, sources = _flat(weights)
    sizes = [step.factor.numel * pairs * pairs for step in steps]
    places = _begin([-(-size // _APART) * _APART for size in sizes])
    scaled = source.dtype == torch.float16 and any(step.stop - step.start > 1 for step in steps)
    buffer = torch.empty(
        places[-1] + sizes[-1], dtype=torch.float32 if scaled else source.dtype, device=source.device
    )
    for step, place, size in zip(steps, places, sizes, strict=True):
        target = buffer[place : place + size]
        runs = _runs(patterns, step.start, step.stop)
        if runs is None:
            block = _block(weights[step.start : step.stop], patterns[step.start : step.stop], buffer.dtype)
            target.view(block.shape).copy_(block)
        else:
            _multiply_out(source, sources, target, step, runs, weights, patterns, pairs)
    lanes = _begin([_lanes(step) for step in steps])
    if not scaled:
        return Packed(buffer, places, None, lanes, source, sources)
    scales = [
        _scaled(buffer[p : p + size].view(_lanes(s), -1))
        for s, p, size in zip(steps, places, sizes, strict=True)
    ]
    return Packed(buffer.to(source.dtype), places, torch.cat(scales), lanes, source, sources)


def _begin(sizes: Sequence[int]) -> tuple[int, ...]:
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


def _flat(weights: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """The numbers of all weights one after the other, as real ones, and where those of each begin, in entries."""
    flat = torch.cat([w.reshape(-1) for w in weights])
    sources, total = [], 0
    for w in weights:
        sources.append(total)
        total += w.numel()
    return (torch.view_as_real(flat).flatten() if flat.is_complex() else flat), tuple(sources)


_runs = lru_cache(maxsize=1024)(runs_of)


@lru_cache(maxsize=1024)
def _path(
    patterns: Patterns, shapes: tuple[tuple[int, ...], ...], run: Run, sources: tuple[int, ...]
) -> Path:
    return path_constants(patterns, shapes, run, sources)


def _paths(
    runs: Sequence[Run], weights: Sequence[Tensor], patterns: Patterns, sources: tuple[int, ...]
) -> list[Path]:
    shapes = tuple([tuple(w.shape) for w in weights])
    return [_path(tuple(patterns), shapes, run, sources) for run in runs]


def _multiply_out(
    source: Tensor,
    sources: tuple[int, ...],
    target: Tensor,
    step: Step,
    runs: Sequence[Run],
    weights: Sequence[Tensor],
    patterns: Patterns,
    pairs: int,
) -> None:
    from kmatrix.ops.triton.kernels import paths as kernels

    (a, b, c, d), tied_a, tied_d = step.factor
    held_a, held_d = 1 if tied_a else a, 1 if tied_d else d
    between = patterns[runs[0].stop - 1].rows // (runs[0].a * runs[0].d)
    paths = _paths(runs, weights, patterns, sources)
    most = 64 if len(runs) == 1 else 32 // pairs  # the product of two runs is summed in registers
    block_b, block_c = power_of_two(b, most), power_of_two(c, most)
    kernels.product_kernel[(held_a * held_d, -(-c // block_c), -(-b // block_b))](
        source, target, FIRST=paths[0], SECOND=paths[1] if len(paths) > 1 else (),
        GROWS_FIRST=runs[0].growing, GROWS_SECOND=runs[-1].growing, B=b, R=between, C=c, HELD_D=held_d,
        LANES=held_d, Q=pairs, BB=block_b, BR=power_of_two(between, 32 // pairs), BC=block_c,
        PRECISION=precision(exact=True),
    )  # fmt: skip


def _block(weights: Sequence[Tensor], patterns: Patterns, target: torch.dtype) -> Tensor:
    """Factors as one of shape ``(a or 1, d or 1, c, b)``, of pairs of each where numbers are complex."""
    dtype = weights[0].dtype
    if len(weights) > 1 and dtype in _HALF:
        merged = merge_group([w.float() for w in weights], patterns).to(target)
    else:
        merged = merge_group(weights, patterns)
    turned = merged.permute(0, 3, 2, 1)
    if not dtype.is_complex:
        return turned
    # y = w x is (re, im) @ [[re w, im w], [-im w, re w]], inputs before outputs
    rows = torch.stack([turned.real, turned.imag], -1), torch.stack([-turned.imag, turned.real], -1)
    return torch.stack(rows, -3).flatten(-2).flatten(2, 3)


def unpacked_gradients(
    gradients: Sequence[Tensor],
    packed: Packed,
    weights: Sequence[Tensor],
    patterns: Patterns,
    steps: Sequence[Step],
) -> list[Tensor]:
    """Gradients of the weights from those of the packed factors, which are real, float32 and of the kernels' shapes."""
    found: list[Tensor] = []
    for gradient, step in zip(gradients, steps, strict=True):
        runs = _runs(patterns, step.start, step.stop)
        if runs is not None and len(runs) == 1 and step.stop - step.start > 1:
            found += _run_gradients(gradient, packed, step, runs[0], weights, patterns)
            continue
        group = slice(step.start, step.stop)
        turned = _complex_gradient(gradient) if weights[0].dtype.is_complex else gradient
        wide = [w.float() if w.dtype in _HALF else w for w in weights[group]]
        found += merge_group_gradients(turned.permute(0, 3, 2, 1), wide, patterns[group])
    return [g.to(w.dtype).contiguous() for g, w in zip(found, weights, strict=True)]


def _run_gradients(
    gradient: Tensor, packed: Packed, step: Step, run: Run, weights: Sequence[Tensor], patterns: Patterns
) -> list[Tensor]:
    from kmatrix.ops.triton.kernels import paths as kernels

    pairs = 2 if weights[0].is_complex() else 1
    (_, b, c, _), _, _ = step.factor
    held_a, held_d = gradient.shape[:2]
    path = _paths([run], weights, patterns, packed.sources)[0]
    found = []
    for i, w in enumerate(weights[run.start : run.stop]):
        _, p_b, p_c, p_d, p_a, *_ = path[i]
        edges = p_a * p_b * p_c * p_d
        free = b * c // edges
        shape = (held_a * p_a, p_b, p_c, p_d * held_d)
        numbers = gradient.new_empty((*shape, pairs) if pairs == 2 else shape)
        block = power_of_two(free, 64, 1)
        rows = max(power_of_two(edges, 2048 // block), LEAST)
        kernels.gradient_kernel[(held_a * held_d, -(-edges // rows))](
            packed.source, gradient, numbers, PATH=path, i=i, GROWING=run.growing, B=b, C=c, HELD_D=held_d,
            LANES=held_d, Q=pairs, EDGES=edges, FREE=free, BE=rows, BF=block,
        )  # fmt: skip
        whole = torch.view_as_complex(numbers) if pairs == 2 else numbers
        found.append(whole if whole.shape == w.shape else whole.sum_to_size(w.shape))
    return found


def _complex_gradient(gradient: Tensor) -> Tensor:
    """What ``_block`` made of complex numbers, pulled back."""
    a, d, c, b = gradient.shape
    pairs = gradient.view(a, d, c // 2, 2, b // 2, 2)
    real = pairs[:, :, :, 0, :, 0] + pairs[:, :, :, 1, :, 1]
    return torch.complex(real, pairs[:, :, :, 0, :, 1] - pairs[:, :, :, 1, :, 0])
