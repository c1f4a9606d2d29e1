"""Products, roundings and functions of tiles, as all kernels need them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def stacked_product(x, y, PRECISION: tl.constexpr):
    """``multiply`` for stacks, of which one of a single product is none, so that it may use wider instructions."""
    if x.shape[0] == 1:
        left = tl.reshape(x, (x.shape[1], x.shape[2]))
        right = tl.reshape(y, (y.shape[1], y.shape[2]))
        return multiply(left, right, PRECISION)[None, :, :]
    else:
        return multiply(x, y, PRECISION)


@triton.jit
def multiply(x, y, PRECISION: tl.constexpr):
    """A product of matrices, or of stacks of them, with sums in float32.

    ``PRECISION`` is ``input_precision`` of ``tl.dot``, or ``wide`` for factors that become float32 first: Triton's
    interpreter takes bfloat16 for whole numbers. Products of halves are exact in float32, so nothing else changes.
    """
    if PRECISION == "wide":
        return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def narrowed(x, TYPE: tl.constexpr, PRECISION: tl.constexpr):
    """Float32 as another type, rounded to the nearest; Triton's interpreter merely cuts bits off for bfloat16."""
    if PRECISION == "wide":
        if TYPE == tl.bfloat16:
            bits = x.to(tl.int32, bitcast=True)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
            x = tl.where(x == x, rounded, x)
    return x.to(TYPE)


@triton.jit
def activate(x, NAME: tl.constexpr):
    """What follows the bias: the functions of ``torch.nn.functional`` of these names, ``gelu`` the exact one."""
    if NAME == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif NAME == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif NAME == "silu":
        x = x / (1.0 + tl.exp(-x))
    return x
