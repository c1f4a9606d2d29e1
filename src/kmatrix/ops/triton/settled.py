"""Chains on the GPU whose numbers are settled: packed once, so that a product is one launch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.ends import Ends
from kmatrix.ops.triton.backend import device_of, plan_of
from kmatrix.ops.triton.launch import forward
from kmatrix.ops.triton.packing import Packed, pack

_NOWHERE = 2**31 - 1  # an entry of no vector: the kernels take zero


class Settled:
    """What ``ops.PreparedChain`` multiplies by on a GPU."""

    def __init__(self, weights: Sequence[Tensor], patterns: Patterns, ends: Ends) -> None:
        device = weights[0].device
        self._weights, self._patterns, self._ends = weights, patterns, ends
        self._gather, self._take = None, None
        self._packed: dict[object, Packed] = {}
        if ends.gather is not None:
            self._gather = ends.gather.masked_fill(ends.gather < 0, _NOWHERE).to(device)
        if ends.take is not None:
            self._take = ends.take.to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply ``(*, n_in) -> (*, n_out)``."""
        ends, patterns = self._ends, self._patterns
        whole = x.new_empty(1).expand(*x.shape[:-1], patterns[0].cols)  # of the size the chain itself takes
        plan = plan_of(whole, self._weights, patterns)
        groups = tuple([(step.start, step.stop) for step in plan.steps])
        packed = self._packed.get(groups)
        with device_of(x):
            if packed is None:
                packed = self._packed.setdefault(groups, pack(self._weights, patterns, plan.steps))
            bias = ends.bias if self._take is None else None
            y = forward(x, self._weights, patterns, plan, packed=packed, gather=self._gather, bias=bias)
        if self._take is None:
            return y
        y = y[..., self._take]
        return y if ends.bias is None else y + ends.bias
