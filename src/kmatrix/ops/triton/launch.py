"""Running the kernels forward: arguments, grids and buffers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.triton import resident
from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.packing import Packed, pack
from kmatrix.ops.triton.plan import Plan, Step

SHORTEST_CHAIN = 2  # factors that are worth a ring between them

Constants = tuple[int, ...]


def constants(step: Step, pairs: int, *, turned: bool = False) -> Constants:
    """What the kernels call ``F``.

    In order: ``a, b, c, d``; how many groups and diagonals the weight holds; vectors, diagonals, outputs, inputs and
    repetitions of a tile; strides of the weight along groups, diagonals, inputs and outputs. Nothing that depends on
    the number of vectors: each other tuple is another kernel to compile. ``turned`` multiplies by the transpose of the
    same weights.
    """
    (a, b, c, d), tied_a, tied_d = step.factor
    tile = step.tile
    inputs, outputs = c * pairs, b * pairs
    held_a, held_d = 1 if tied_a else a, 1 if tied_d else d
    strides = (0 if tied_a else held_d * inputs * outputs, 0 if tied_d else inputs * outputs)
    if turned:
        shape = (a, c, b, d, held_a, held_d, tile.vectors, tile.diagonals, tile.inputs, tile.outputs)
        return *shape, tile.steps, *strides, 1, outputs
    shape = (a, b, c, d, held_a, held_d, tile.vectors, tile.diagonals, tile.outputs, tile.inputs)
    return *shape, tile.steps, *strides, outputs, 1


def tiles_of(f: Constants, rows: int, pairs: int) -> int:
    """How many tiles so many vectors make."""
    a, b, _, d, _, _, vectors, diagonals, outputs, _, repetitions, *_ = f
    return a * -(-rows // (vectors * repetitions)) * -(-d // diagonals) * -(-b * pairs // outputs)


@lru_cache(maxsize=1024)
def links(
    plan: Plan, pairs: int, places: tuple[int, ...], lanes: tuple[int, ...]
) -> tuple[tuple[Constants, ...], int]:
    """What ``chain_kernel`` calls ``FACTORS``, and the number of tiles of a phase.

    Behind the constants of each factor stand its first tile, its number of tiles, where its weight and its scales
    begin, and where its input and its output lie in the ring, as multiples of a chunk.
    """
    found: list[Constants] = []
    total = behind = 0
    for step, place, lane in zip(plan.steps, places, lanes, strict=True):
        f = constants(step, pairs)
        tiles = tiles_of(f, plan.chunk, pairs)
        before, behind = behind, behind + (2 * step.factor.pattern.cols * pairs if found else 0)
        found.append((*f, total, tiles, place, lane, before, behind))
        total += tiles
    return tuple(found), total


def multiply(
    x: Tensor,
    plan: Plan,
    packed: Packed,
    *,
    n_out: int,
    gather: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str = "",
) -> Tensor:
    """Rows of numbers times a packed chain."""
    if gather is None and resident.applies(x, plan, n_out):
        return resident.multiply(x, plan, packed, bias=bias, activation=activation)
    pairs = 2 if x.is_complex() else 1
    x, y = real_rows(x), x.new_empty(x.shape[0], n_out)
    common: dict[str, Any] = {
        "scales": packed.scales, "gather": gather, "bias": bias, "n_in": x.shape[1], "n_out": n_out * pairs,
        "Q": pairs, "GATHERED": gather is not None,
        "PADDED": x.shape[1] < plan.steps[0].factor.pattern.cols * pairs,
        "CROPPED": n_out < plan.steps[-1].factor.pattern.rows, "SCALED": packed.scales is not None,
        "BIASED": bias is not None, "ACTIVATION": activation, "PRECISION": precision(),
    }  # fmt: skip
    run = _factor_by_factor if len(plan.steps) < SHORTEST_CHAIN or not plan.chunk else _through_ring
    run(x, real_rows(y), plan, packed, pairs, common)
    return y


def _through_ring(
    x: Tensor, y: Tensor, plan: Plan, packed: Packed, pairs: int, common: dict[str, Any]
) -> None:
    """The product in one launch."""
    from kmatrix.ops.triton.kernels import chain

    batch, steps = len(x), plan.steps
    factors, tiles = links(plan, pairs, packed.places, packed.lanes)
    chunks = -(-batch // plan.chunk)
    between = sum(step.factor.pattern.rows for step in steps[:-1]) * pairs
    ring = x.new_empty(2 * plan.chunk * between)
    counters = torch.zeros(1 + chunks * len(steps), dtype=torch.int32, device=x.device)
    chain.chain_kernel[(tiles * (chunks + len(steps) - 1),)](
        x, x.stride(0), y, y.stride(0), ring, packed.buffer, counters=counters, rows=batch, chunks=chunks,
        FACTORS=factors, CHUNK=plan.chunk, TILES=tiles,
        num_warps=max(step.tile.warps for step in steps), **common,
    )  # fmt: skip


def _factor_by_factor(
    x: Tensor, y: Tensor, plan: Plan, packed: Packed, pairs: int, common: dict[str, Any]
) -> None:
    """The product in a launch for each factor, all vectors between two of them in memory."""
    from kmatrix.ops.triton.kernels import factor

    last = len(plan.steps) - 1
    for i, step in enumerate(plan.steps):
        f = constants(step, pairs)
        target = y if i == last else x.new_empty(len(x), step.factor.pattern.rows * pairs)
        weights, scales = packed.factor(i)
        given = dict(common, scales=scales)
        if i > 0:
            given.update(GATHERED=False, PADDED=False, n_in=x.shape[1])
        if i < last:
            given.update(BIASED=False, ACTIVATION="", CROPPED=False)
        factor.factor_kernel[(tiles_of(f, len(x), pairs),)](
            x, x.stride(0), target, target.stride(0), weights, rows=len(x), F=f, LAST=i == last,
            num_warps=step.tile.warps, **given,
        )  # fmt: skip
        x = target


def real_rows(rows: Tensor) -> Tensor:
    """Rows of complex numbers as rows of pairs."""
    return torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows


def rows_of(x: Tensor) -> Tensor:
    """Vectors as rows whose numbers lie side by side."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def factor_product(
    x: Tensor,
    plan: Plan,
    i: int,
    packed: Packed,
    pairs: int,
    *,
    turned: bool = False,
    n_out: int | None = None,
) -> Tensor:
    """Rows of real numbers times factor ``i`` of a plan, or its transpose; ``n_out`` of the results, if they are fewer.

    Rows that are too short are padded with zeros.
    """
    from kmatrix.ops.triton.kernels import factor as kernels

    f = constants(plan.steps[i], pairs, turned=turned)
    a, b, c, d = f[:4]
    n, full = a * c * d * pairs, a * b * d * pairs
    n_out = full if n_out is None else n_out
    y = x.new_empty(x.shape[0], n_out)
    weights, scales = packed.factor(i)
    kernels.factor_kernel[(tiles_of(f, len(x), pairs),)](
        x, x.stride(0), y, y.stride(0), weights, scales, None, None, x.shape[0], x.shape[1], n_out,
        F=f, Q=pairs, GATHERED=False, PADDED=x.shape[1] < n, CROPPED=n_out < full, SCALED=scales is not None,
        LAST=n_out < full, BIASED=False, ACTIVATION="", PRECISION=precision(), num_warps=plan.steps[i].tile.warps,
    )  # fmt: skip
    return y


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Patterns,
    plan: Plan,
    *,
    packed: Packed | None = None,
    gather: Tensor | None = None,
    n_out: int | None = None,
    bias: Tensor | None = None,
    activation: str = "",
) -> Tensor:
    """The chain product, and what surrounds it: ``act((F_k ... F_1 x[gather])[:n_out] + bias)``.

    An ``x`` that is too short is padded with zeros. Weights that are ``packed`` already are not looked at.
    """
    packed = pack(weights, patterns, plan.steps) if packed is None else packed
    n_out = patterns[-1].rows if n_out is None else n_out
    added = None if bias is None else real_rows(bias.contiguous()[None])[0]
    y = multiply(
        rows_of(x), plan, packed,
        n_out=n_out, gather=gather, bias=added, activation=activation,
    )  # fmt: skip
    return y.view(*x.shape[:-1], n_out)
