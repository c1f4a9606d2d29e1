"""Running the kernels backward: the vectors between factors are computed again, and nothing is added in a random order.

A chain takes one launch; a factor alone, or a chain with blocks that no tile holds whole, a launch for each product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.backend import batch_class
from kmatrix.ops.triton.launch import (
    SHORTEST_CHAIN,
    Constants,
    constants,
    factor_product,
    real_rows,
    rows_of,
    tiles_of,
)
from kmatrix.ops.triton.packing import Packed, pack
from kmatrix.ops.triton.plan import Plan, Step, shelves
from kmatrix.ops.triton.unpacking import unpacked_gradients

PARTS = 528  # programs that share the vectors in a backward pass: some for each processor of a large GPU


def factor_gradients(
    grad: Tensor, x: Tensor, plan: Plan, i: int, packed: Packed, pairs: int, need_x: bool, total: Tensor
) -> Tensor | None:
    """Gradient of rows of real numbers, and into ``total`` that of factor ``i``."""
    from kmatrix.ops.triton.kernels import gradient as kernels

    step = plan.steps[i]
    batch, tile = x.shape[0], step.tile
    f = constants(step, pairs)
    a, b, c, d = f[:4]
    b, c = b * pairs, c * pairs
    d_tiles = -(-d // tile.diagonals)
    places = a * d_tiles * -(-b // tile.outputs) * -(-c // tile.inputs)
    steps = _power_below(batch_class(batch) * places // (PARTS * tile.vectors))
    parts = -(-batch // (steps * tile.vectors))
    sums = x.new_empty(_shape_of_sums(step, pairs, parts), dtype=torch.float32)
    whole = is_whole(step, pairs)
    fused = need_x and whole
    grad_x = x.new_empty(x.shape) if fused else None
    target = x if grad_x is None else grad_x
    kernels.gradient_kernel[(parts * places,)](
        grad, grad.stride(0), x, x.stride(0), target, target.stride(0), *packed.factor(i), sums, batch, x.shape[1],
        grad.shape[1], F=f, Q=pairs, STEPS=steps, NEED_X=fused, PADDED=x.shape[1] < step.factor.pattern.cols * pairs,
        CROPPED=grad.shape[1] < step.factor.pattern.rows * pairs, SCALED=packed.scales is not None,
        PRECISION=precision(), num_warps=tile.warps,
    )  # fmt: skip
    if need_x and not whole:
        grad_x = factor_product(grad, plan, i, packed, pairs, turned=True, n_out=x.shape[1])
    _add_up(sums, step, pairs, packed.places[i], total)
    return grad_x


def _power_below(size: int) -> int:
    """The largest power of two up to ``size``, so that few kernels are compiled; at least one."""
    return 1 << max(size.bit_length() - 1, 0)


def is_whole(step: Step, pairs: int) -> bool:
    """Whether a tile holds all inputs and outputs of a group."""
    pattern, tile = step.factor.pattern, step.tile
    return pattern.b * pairs <= tile.outputs and pattern.c * pairs <= tile.inputs


def _shape_of_sums(step: Step, pairs: int, shares: int) -> tuple[int, ...]:
    """What the kernels call ``sums``: diagonals that share their matrix are added up in a tile."""
    (a, b, c, d), _, tied_d = step.factor
    across = -(-d // step.tile.diagonals) if tied_d or step.tile.diagonals == 1 else d
    return shares, a, across, c * pairs, b * pairs


def _add_up(sums: Tensor, step: Step, pairs: int, place: int, total: Tensor) -> None:
    """The gradient of a packed factor from the shares of all programs, into its place among those of all factors."""
    (a, b, c, d), tied_a, tied_d = step.factor
    shape = (1, 1 if tied_a else a, 1 if tied_d else d, c * pairs, b * pairs)
    tied = [0] + [1] * tied_a + [2] * tied_d
    torch.sum(sums, tied, keepdim=True, out=total[place : place + prod(shape)].view(shape))


@lru_cache(maxsize=1024)
def stages(
    plan: Plan, pairs: int, places: tuple[int, ...], lanes: tuple[int, ...], sums: tuple[int, ...]
) -> tuple[tuple[Constants, ...], int, int]:
    """What ``pullback_kernel`` calls ``STAGES``, the number of tiles of a phase, and numbers in the ring for a vector.

    ``stage`` says what stands behind the constants of each factor. The products of factor ``k`` are read by the factor
    behind it and again by its gradient, which is as many stages later as there are chunks on their shelf.
    """
    steps = plan.steps
    k_last = len(steps) - 1
    rows = [step.factor.pattern.rows * pairs for step in steps[:-1]]
    rooms = [
        count - 2 for count in shelves(len(steps), backward=True)
    ]  # of the products of factor k, in chunks
    sizes = [room * size for room, size in zip(rooms, rows, strict=True)]
    forward = [sum(sizes[:k]) for k in range(k_last)]  # where they begin
    back = [sum(sizes) + 2 * sum(rows[:k]) for k in range(k_last)]  # where their gradients begin
    found: list[Constants] = []
    total = 0

    def append(
        k: int, source: tuple[int, int], target: tuple[int, int], reader: int, upstream: int = 0
    ) -> None:
        nonlocal total
        f = constants(steps[k], pairs)
        tiles = tiles_of(f, plan.chunk, pairs)
        found.append((*f, total, tiles, places[k], *source, *target, reader, upstream, lanes[k], sums[k]))
        total += tiles

    def products(k: int) -> tuple[int, int]:
        """Where the input of factor ``k`` lies, and its room; the first one's is that of the chain."""
        return (forward[k - 1], rooms[k - 1]) if k else (0, 1)

    for k in range(k_last):
        append(k, products(k), products(k + 1), 2 * k_last - k - 1)
    for s, k in enumerate(reversed(range(k_last + 1)), k_last):
        target, reader = ((back[k - 1], 2), s + 1) if k else ((0, 1), s)
        append(k, products(k), target, reader, back[k] if k < k_last else 0)
    return tuple(found), total, sum(sizes) + 2 * sum(rows)


def _in_one_launch(
    grad: Tensor, x: Tensor, plan: Plan, packed: Packed, pairs: int, need_x: bool, total: Tensor
) -> Tensor | None:
    """Gradient of rows, and into ``total`` those of all factors, of a chain whose tiles hold blocks whole."""
    from kmatrix.ops.triton.kernels import pullback as kernels

    steps = plan.steps
    shapes = [
        _shape_of_sums(step, pairs, plan.chunk // (step.tile.vectors * step.tile.steps)) for step in steps
    ]
    sizes = [prod(shape) for shape in shapes]
    places = tuple(accumulate(sizes[:-1], initial=0))
    told, tiles, between = stages(plan, pairs, packed.places, packed.lanes, places)
    chunks = -(-len(x) // plan.chunk)
    ring = x.new_empty(between * plan.chunk)
    sums = x.new_empty(sum(sizes), dtype=torch.float32)
    counters = torch.zeros(1 + chunks * len(told), dtype=torch.int32, device=x.device)
    grad_x = x.new_empty(x.shape) if need_x else None
    target = x if grad_x is None else grad_x
    kernels.pullback_kernel[(tiles * (chunks + len(told) - 1),)](
        grad, grad.stride(0), x, x.stride(0), target, target.stride(0), ring, packed.buffer, packed.scales, sums,
        counters, len(x), x.shape[1], grad.shape[1], chunks, STAGES=told, Q=pairs, NEED_X=need_x,
        PADDED=x.shape[1] < steps[0].factor.pattern.cols * pairs,
        CROPPED=grad.shape[1] < steps[-1].factor.pattern.rows * pairs, SCALED=packed.scales is not None,
        PRECISION=precision(), CHUNK=plan.chunk, TILES=tiles,
        num_warps=max(step.tile.warps for step in steps),
    )  # fmt: skip
    for step, share, shape, place in zip(steps, torch.split(sums, sizes), shapes, packed.places, strict=True):
        _add_up(share.view(shape), step, pairs, place, total)
    return grad_x


def _one_by_one(
    grad: Tensor, x: Tensor, plan: Plan, packed: Packed, pairs: int, need_x: bool, total: Tensor
) -> Tensor | None:
    """The same factor by factor, all vectors between two of them in memory."""
    inputs = [x]
    for i in range(len(plan.steps) - 1):
        inputs.append(factor_product(inputs[-1], plan, i, packed, pairs))
    upstream: Tensor | None = grad
    for i in reversed(range(len(plan.steps))):
        assert upstream is not None
        upstream = factor_gradients(upstream, inputs.pop(), plan, i, packed, pairs, need_x or i > 0, total)
    return upstream


def gradients(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, plan: Plan, need_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of ``x`` (if needed) and of every weight; the vectors between factors are computed again.

    An ``x`` or a ``grad`` that is too short is padded with zeros; the gradient of ``x`` is as short as ``x``.
    """
    pairs = 2 if x.is_complex() else 1
    packed = pack(weights, patterns, plan.steps)
    ring = plan.chunk and len(plan.steps) >= SHORTEST_CHAIN and all(is_whole(s, pairs) for s in plan.steps)
    run = _in_one_launch if ring else _one_by_one
    total = torch.empty(packed.buffer.shape, dtype=torch.float32, device=x.device)
    grad_x = run(real_rows(rows_of(grad)), real_rows(rows_of(x)), plan, packed, pairs, need_x, total)
    grad_weights = unpacked_gradients(total, packed, weights, patterns, plan.steps)
    if grad_x is None:
        return None, grad_weights
    rows = torch.view_as_complex(grad_x.view(len(grad_x), -1, 2)) if pairs == 2 else grad_x
    return rows.reshape(x.shape), grad_weights
