"""Running the kernels backward: the vectors between factors are computed again, then a launch for each factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.triton.available import precision
from kmatrix.ops.triton.launch import constants, factor_product, real_rows, rows_of
from kmatrix.ops.triton.packing import Packed, pack, unpacked_gradients
from kmatrix.ops.triton.plan import Plan

PARTS = 528  # programs that share the vectors in a backward pass: some for each processor of a large GPU


def factor_gradients(
    grad: Tensor, x: Tensor, plan: Plan, i: int, packed: Packed, pairs: int, need_x: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of the rows and of factor ``i``, for rows of real numbers; that of the factor in float32."""
    from kmatrix.ops.triton.kernels import gradient as kernels

    step = plan.steps[i]
    batch, tile = x.shape[0], step.tile
    f = constants(step, pairs)
    a, b, c, d, held_a, held_d = f[:6]
    b, c = b * pairs, c * pairs
    whole = b <= tile.outputs and c <= tile.inputs
    stacked = held_d > 1 and tile.diagonals > 1
    d_tiles = -(-d // tile.diagonals)
    places = a * d_tiles * -(-b // tile.outputs) * -(-c // tile.inputs)
    steps = _power_below(batch * places // (PARTS * tile.vectors))
    parts = -(-batch // (steps * tile.vectors))
    sums = x.new_empty((parts, a, d if stacked else d_tiles, c, b), dtype=torch.float32)
    fused = need_x and whole
    grad_x = torch.empty_like(x) if fused else None
    target = x if grad_x is None else grad_x
    kernels.gradient_kernel[(parts * places,)](
        grad, grad.stride(0), x, x.stride(0), target, target.stride(0), *packed.factor(i), sums, batch,
        F=f, Q=pairs, STEPS=steps, NEED_X=fused, SCALED=packed.scales is not None,
        PRECISION=precision(), num_warps=tile.warps,
    )  # fmt: skip
    if need_x and not whole:
        grad_x = factor_product(grad, plan, i, packed, pairs, turned=True)
    tied = [0] + [1] * (held_a == 1) + [2] * (held_d == 1)
    return grad_x, sums.sum(tied).view(held_a, held_d, c, b)


def _power_below(size: int) -> int:
    """The largest power of two up to ``size``, so that few kernels are compiled; at least one."""
    return 1 << max(size.bit_length() - 1, 0)


def gradients(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, plan: Plan, need_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of ``x`` (if needed) and of every weight; the vectors between factors are computed again."""
    pairs = 2 if x.is_complex() else 1
    packed = pack(weights, patterns, plan.steps)
    inputs = [real_rows(rows_of(x))]
    for i in range(len(plan.steps) - 1):
        inputs.append(factor_product(inputs[-1], plan, i, packed, pairs))
    upstream: Tensor | None = real_rows(rows_of(grad))
    found: list[Tensor] = []
    for i in reversed(range(len(plan.steps))):
        assert upstream is not None
        wanted = need_x or i > 0
        upstream, gradient = factor_gradients(upstream, inputs.pop(), plan, i, packed, pairs, wanted)
        found.append(gradient)
    grad_weights = unpacked_gradients(found[::-1], packed, weights, patterns, plan.steps)
    if upstream is None:
        return None, grad_weights
    rows = torch.view_as_complex(upstream.view(len(upstream), -1, 2)) if pairs == 2 else upstream
    return rows.reshape(x.shape), grad_weights
