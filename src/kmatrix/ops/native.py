"""The native backend: fused kernels on the CPU, forward and backward.

The vectors are read where they lie, in rows or in columns; the weights are packed once and kept until their
bytes change. The arithmetic of half precision is float32.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.ends import Ends, OutsideError
from kmatrix.ops.native_cache import PACKED
from kmatrix.ops.native_layout import HALF, Description, Vectors, described, vectors
from kmatrix.ops.native_module import DTYPE_CODES, NativeChain, native_part, threads
from kmatrix.ops.native_plan import Schedule, backward_passes, batch_class, default_schedule
from kmatrix.ops.verdict import Verdict
from kmatrix.ops.wisdom import learned_schedule


class Native:
    """Fused kernels of our own on the CPU."""

    name = "native"

    def can_run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Verdict:
        """Everything dense on the CPU that is not empty, where the compiled part is there."""
        part = native_part()
        if part.module is None:
            return Verdict(False, part.reason)
        if x.device.type != "cpu":
            return Verdict(False, f"x is on {x.device}, the native kernels compute on the CPU")
        if x.dtype not in DTYPE_CODES:
            return Verdict(False, f"no native arithmetic for {x.dtype}")
        if not x.numel() or not all(map(all, patterns)):
            return Verdict(False, "empty tensors need no speed")
        return Verdict(True, part.reason)

    def run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
        """The product through the fused kernels."""
        return multiply(x, weights, patterns)

    def run_backward(
        self, grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, need_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients, recomputing the vectors between the factors tile by tile."""
        return gradients(grad, x, weights, patterns, need_x)


def multiply(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Patterns,
    ends: Ends | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The product of a nonempty batch, contiguous or in ``out``, whose memory is nobody else's."""
    weights, description = described(weights, patterns)
    source = vectors(x)
    n_out = description.n_out if ends is None else ends.n_out
    if out is None:
        out = torch.empty((*x.shape[:-1], n_out), dtype=x.dtype, device="cpu")
    target = vectors(out)
    run_kernel(description, weights, ends, source, target)
    return out if target.tensor.data_ptr() == out.data_ptr() else out.copy_(target.tensor.view(out.shape))


class Ready(NamedTuple):
    """A chain that can run: whether it has packed the weights, and the fingerprint of all it has copied.

    ``key`` is that of the cache; None if nothing was copied.
    """

    chain: NativeChain
    packed: bool
    stamp: int
    key: Hashable = None


def run_kernel(
    description: Description,
    weights: Sequence[Tensor],
    ends: Ends | None,
    source: Vectors,
    target: Vectors,
) -> None:
    """Multiply from one place in memory to another, by the kernel that the schedule names."""
    pointers = [w.data_ptr() for w in weights]
    schedule = schedule_of(description, source.batch, ends)
    chain, packed, *_ = ready_chain(description, schedule, pointers, ends)
    if packed:
        chain.forward(*source.place, *target.place, source.batch, threads())
    else:
        chain.rows(pointers, *source.place, *target.place, source.batch, threads())


def gradients(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, need_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of ``x`` (if needed) and of every weight; the batch is not empty."""
    weights, description = described(weights, patterns)
    if description.expanded:  # a weight that is expanded and not tied has a gradient for each of its numbers
        weights, description = described([w.contiguous() for w in weights], patterns)
    source, upstream = vectors(x), vectors(grad)
    passes = backward_passes(description.patterns, description.dtype)
    schedule = schedule_of(description, source.batch)._replace(kernel="tiles", passes=passes)
    pointers = [w.data_ptr() for w in weights]
    chain = ready_chain(description, schedule, pointers, packed=True).chain
    grad_x = torch.empty(x.shape, dtype=x.dtype, device="cpu") if need_x else None
    target = (0, 0, 1) if grad_x is None else (grad_x.data_ptr(), x.shape[-1], 1)
    wide = torch.float32 if x.dtype in HALF else x.dtype
    grad_weights = [torch.empty(w.shape, dtype=wide, device="cpu") for w in weights]
    places = [g.data_ptr() for g in grad_weights]
    chain.backward(*upstream.place, *source.place, *target, places, source.batch, threads())
    return grad_x, ([g.to(x.dtype) for g in grad_weights] if x.dtype in HALF else grad_weights)


def schedule_of(description: Description, batch: int, ends: Ends | None = None) -> Schedule:
    """What was learned by measuring, else the rule."""
    return _schedule(description, batch_class(batch), threads(), ends is not None and ends.selects)


@lru_cache(maxsize=1024)
def _schedule(description: Description, batch: int, workers: int, selects: bool) -> Schedule:
    patterns, dtype = description.patterns, description.dtype
    learned = learned_schedule(patterns, dtype, batch, workers, selects)
    return learned or default_schedule(patterns, dtype, batch, selects)


def forget_schedules() -> None:
    """Ask again, because something was learned or a file was replaced."""
    _schedule.cache_clear()


def new_chain(description: Description, schedule: Schedule, ends: Ends | None = None) -> NativeChain:
    """A chain of the kernels, without weights.

    Raises:
        OutsideError: if an index of the caller's is one that only stock torch understands.
    """
    part = native_part()
    module = part.module
    assert module is not None  # ``can_run`` was asked first
    if ends is not None and ends.points_outside:
        raise OutsideError
    return module.Chain(
        description.code,
        description.flat_patterns,
        description.strides,
        list(schedule.passes),
        schedule.tile_vectors,
        description.n_in if ends is None else ends.n_in,
        description.n_out if ends is None else ends.n_out,
        None if ends is None or ends.gather is None else ends.gather.tolist(),
        None if ends is None or ends.take is None else ends.take.tolist(),
        part.isa,
    )


@lru_cache(maxsize=256)
def _plain_chain(description: Description, schedule: Schedule) -> NativeChain:
    """A chain for the kernel that needs no packed weights."""
    return new_chain(description, schedule)


def ready_chain(
    description: Description,
    schedule: Schedule,
    pointers: list[int],
    ends: Ends | None = None,
    *,
    packed: bool = False,
) -> Ready:
    """A chain for the weights at these addresses as they are now.

    ``packed`` says that they must be packed, whatever the schedule says.
    """
    in_rows = schedule.kernel == "rows" and not packed
    if in_rows and (ends is None or ends.trivial):
        return Ready(_plain_chain(description, schedule), False, 0)

    def new() -> NativeChain:
        chain = new_chain(description, schedule, ends)
        if ends is not None and ends.bias is not None:
            chain.set_bias(ends.bias.data_ptr())
        if not in_rows:
            chain.pack(pointers)  # last: the bias is packed with the weights
        return chain

    places, spans = ([], []) if in_rows else (list(pointers), list(description.nbytes))
    if ends is not None:
        places += [t.data_ptr() for t in ends.sources]
        spans += [t.nbytes for t in ends.sources]
    module = native_part().module
    assert module is not None
    stamp = module.fingerprint(places, spans)

    def make() -> tuple[NativeChain, int | None]:
        chain = new()
        if module.fingerprint(places, spans) != stamp:  # somebody wrote while the numbers were copied
            return chain, None
        return chain, sum(spans) if in_rows else chain.packed_nbytes

    key = description, schedule, in_rows, None if ends is None else ends.key, tuple(places)
    return Ready(PACKED.get(key, stamp, make), not in_rows, stamp, key)
