"""Chains on the GPU whose numbers are settled: packed once, so that a product multiplies nothing out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.ends import Ends
from kmatrix.ops.triton.backend import device_of, plan_of
from kmatrix.ops.triton.launch import forward
from kmatrix.ops.triton.packing import Packed, pack
from kmatrix.ops.triton.plan import Plan

Groups = tuple[tuple[int, int], ...]
_NOWHERE = 2**31 - 1  # an entry of no vector: the kernels take zero


class Settled:
    """What ``ops.PreparedChain`` multiplies by on a GPU."""

    def __init__(self, weights: Sequence[Tensor], patterns: Patterns, ends: Ends) -> None:
        device = weights[0].device
        self._weights, self._patterns, self._ends = weights, patterns, ends
        self._gather, self._take = None, None
        self._packed: dict[Groups, Packed] = {}
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
        with device_of(x):
            packed = self._packed.get(groups) or self._pack(groups, plan)
            bias = ends.bias if self._take is None else None
            y = forward(x, self._weights, patterns, plan, packed=packed, gather=self._gather, bias=bias)
        if self._take is None:
            return y
        y = y[..., self._take]
        return y if ends.bias is None else y + ends.bias

    def _pack(self, groups: Groups, plan: Plan) -> Packed:
        """Pack for good, unless a graph is recorded: its numbers are there only when it is played."""
        packed = pack(self._weights, self._patterns, plan.steps)
        if self._weights[0].is_cuda:
            if torch.cuda.is_current_stream_capturing():
                return packed
            torch.cuda.current_stream().synchronize()  # once, so that products on any stream may read it
        return self._packed.setdefault(groups, packed)
