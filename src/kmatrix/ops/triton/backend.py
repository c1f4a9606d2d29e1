"""What ``ops.dispatch`` calls: whether the kernels take a product, and the product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.ends import Ends
from kmatrix.ops.triton.available import can_compute
from kmatrix.ops.triton.chip import chip
from kmatrix.ops.triton.plan import Plan, plan
from kmatrix.ops.triton.tuning import learned
from kmatrix.ops.verdict import Verdict

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)
# Numbers in a block by bytes of a number: beyond, arithmetic takes longer than memory, and matrix products are what
# stock torch makes best.
_WIDEST = {2: 1 << 16, 4: 1 << 12}


class Triton:
    """Fused kernels on NVIDIA GPUs; on the CPU only in Triton's interpreter, and only if asked for by name."""

    name = "triton"

    def can_run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Verdict:
        """Everything on a GPU in the number types of the kernels that is not empty and whose blocks are not wide."""
        ok, reason = can_compute(x, DTYPES, _asked_for())
        if not ok:
            return Verdict(False, reason)
        if not x.numel() or not all(map(all, patterns)):
            return Verdict(False, "empty tensors need no speed")
        widest = max(p.b * p.c for p in patterns)
        if widest > _WIDEST[x.dtype.itemsize // (1 + x.is_complex())]:
            return Verdict(
                False, f"a block of {widest} numbers is a matrix product that stock torch makes best"
            )
        return Verdict(True, f"{reason}, {in_words(plan_of(x, weights, patterns))}")

    def run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
        """The product, in one launch."""
        from kmatrix.ops.triton.launch import forward

        with device_of(x):
            return forward(x, weights, patterns, plan_of(x, weights, patterns))

    def run_surrounded(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        patterns: Patterns,
        *,
        gather: Tensor | None,
        n_out: int,
        bias: Tensor | None,
        activation: str,
    ) -> Tensor:
        """``act((F_k ... F_1 x[gather])[:n_out] + bias)`` in one launch, ``x`` padded with zeros if it is too short."""
        from kmatrix.ops.triton.launch import forward

        plan = plan_of(x, weights, patterns)
        with device_of(x):
            return forward(
                x, weights, patterns, plan, gather=gather, n_out=n_out, bias=bias, activation=activation
            )

    def settled(
        self, weights: Sequence[Tensor], patterns: Patterns, ends: Ends
    ) -> Callable[[Tensor], Tensor]:
        """A function that multiplies by these numbers, packed once for each way to group the factors."""
        from kmatrix.ops.triton.settled import Settled

        return Settled(weights, patterns, ends)

    def run_backward(
        self, grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, need_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients: of a chain in one launch, and those of what was multiplied out in another."""
        from kmatrix.ops.triton.backward import gradients

        with device_of(x):
            return gradients(grad, x, weights, patterns, plan_of(x, weights, patterns, backward=True), need_x)


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Where Triton is to launch: on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def plan_of(x: Tensor, weights: Sequence[Tensor], patterns: Patterns, *, backward: bool = False) -> Plan:
    """The plan for these arguments, which are not empty."""
    batch = x.numel() // x.shape[-1]
    shapes = tuple([tuple(w.shape) for w in weights])
    chain, group = tuple(patterns), batch_class(batch)
    choice = None if backward else learned(chain, x.dtype, group, x.device)
    memory = chip(x.device).shared
    return plan(chain, shapes, group, x.dtype, backward=backward, choice=choice, memory=memory)


def batch_class(batch: int) -> int:
    """16, 64, 256, ..., 65536: numbers of vectors that share a plan, and so their compiled kernels."""
    return 1 << min(max(4, 2 * (((batch - 1).bit_length() + 1) // 2)), 16)


@lru_cache(maxsize=1024)
def in_words(found: Plan) -> str:
    """The factors as multiplied out."""
    return "factors " + ", ".join("x".join(map(str, step.factor.pattern)) for step in found.steps)


def _asked_for() -> bool:
    from kmatrix.ops.dispatch import requested  # which imports this module

    return requested() == Triton.name
