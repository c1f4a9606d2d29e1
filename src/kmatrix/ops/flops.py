"""What the operators cost, told to torch's FLOP counter.

The counter's module loads triton where that is installed, so importing it here would slow down every import
of kmatrix. Instead the formulas are handed over once it has been loaded by whoever counts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch

from kmatrix.ops.definition import unflatten_patterns
from kmatrix.ops.routing import dispatch_modes


def announce_formulas() -> None:
    """Give the formulas to the FLOP counter if it is loaded, and to counters that are already counting."""
    module = sys.modules.get("torch.utils.flop_counter")
    if module is None:
        return
    formulas = {
        torch.ops.kmatrix.chain_matmul: _flops,
        torch.ops.kmatrix.chain_matmul_backward: _backward_flops,
    }
    if hasattr(torch.ops.kmatrix, "segments_matmul"):  # registered after the chain
        formulas[torch.ops.kmatrix.segments_matmul] = _segments_flops
    for operator, formula in formulas.items():
        if operator not in module.flop_registry:
            module.register_flop_formula(operator)(formula)
    for mode in dispatch_modes():
        counter = getattr(mode, "counter", mode)
        if isinstance(counter, module.FlopCounterMode):
            for operator in formulas:
                counter.flop_registry.setdefault(operator, module.flop_registry[operator])


def _flops(
    x_shape: Sequence[int], weights: Sequence[Sequence[int]], patterns: Sequence[int], *_: Any, **__: Any
) -> int:
    """A multiply and an add for each entry of each factor and each vector, tied or not."""
    return 2 * math.prod(x_shape[:-1]) * sum(pattern.numel for pattern in unflatten_patterns(patterns))


def _segments_flops(
    x_shape: Sequence[int], left: Sequence[int], right: Sequence[int], *_: Any, **__: Any
) -> int:
    """A multiply and an add for each number and each vector."""
    return 2 * math.prod(x_shape[:-1]) * (left[0] + right[0])


def _backward_flops(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weights: Sequence[Sequence[int]],
    patterns: Sequence[int],
    need_x: bool,
    *_: Any,
    **__: Any,
) -> int:
    """Once each for the gradients of the weights, those of the vectors, and the vectors again."""
    sizes = [pattern.numel for pattern in unflatten_patterns(patterns)]
    return 2 * math.prod(x_shape[:-1]) * (sum(sizes) + sum(sizes[0 if need_x else 1 :]) + sum(sizes[:-1]))
