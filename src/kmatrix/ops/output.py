"""Writing a product into a tensor that the caller brought along."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops import dispatch, native
from kmatrix.ops.calls import record, repeated
from kmatrix.ops.definition import Patterns
from kmatrix.ops.ends import Ends, check_plain
from kmatrix.ops.native_layout import overlap
from kmatrix.ops.routing import Route, is_plain, route

_WHERE = "chain_matmul"


def repeat_into(out: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: object) -> bool:
    """Whether the product is in ``out``, because a call like this one was recorded."""
    if not (is_plain(out) and isinstance(x, Tensor) and x.ndim and out.shape[:-1] == x.shape[:-1]):
        return False
    if not is_writable(out, out.shape) or repeated(x, weights, patterns, out=out) is not out:
        return False
    mark_written(out)
    return True


def multiply_into(
    out: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, given: object
) -> Tensor:
    """The product in ``out``; the other arguments have been checked, the patterns as they were given included."""
    check_plain(_WHERE, "out", out)
    how = route(x, [*weights, out])
    if how is not Route.DIRECT:
        reason = f"{how.obstacle}, and would not know that this memory is written"
        way_out = "leave out= away, or call under torch.no_grad() and outside of transforms"
        raise ArgumentError(complaint(_WHERE, "out", f"tensor{tuple(out.shape)}", reason, way_out))
    check_out(_WHERE, out, (*x.shape[:-1], patterns[-1].rows if patterns else x.shape[-1]), x)
    if not patterns:
        return out.copy_(x)
    record(x, weights, given, patterns)
    return run_into(out, x, weights, patterns, None)


def run_into(
    out: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, ends: Ends | None
) -> Tensor:
    """The product on plain tensors, straight into ``out`` where the kernels can write there."""
    x, *weights = dispatch.resolved([x, *weights])
    backend = dispatch.choose(x, weights, patterns)
    dispatch.observe(x, weights, patterns, backend, ends)
    others = [x, *weights, *(ends.sources if ends else [])]
    if isinstance(backend, native.Native) and not out.is_neg() and not out.is_conj():
        if not any(overlap(out, other) for other in others):
            mark_written(out)
            return native.multiply(x, weights, patterns, ends, out)
        return out.copy_(native.multiply(x, weights, patterns, ends))
    assert ends is None or ends.trivial  # only the native kernels fold them
    return out.copy_(backend.run(x, weights, patterns))


def is_writable(out: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has this shape and no lazy bits or rules of autograd in the way: the quick question.

    The native part asks the rest: type, memory, and whether its entries lie apart and away from the input.
    """
    if out.shape != shape or out.requires_grad or out.is_neg() or out.is_conj():
        return False
    return not out.is_inference() or torch.is_inference_mode_enabled()


def mark_written(out: Tensor) -> None:
    """Tell autograd that the numbers change, so that it refuses to differentiate through what it saved of them."""
    if not out.is_inference():
        increment_version(out)


def check_out(where: str, out: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise unless ``out`` can hold a result of this shape and of the dtype and device of ``like``."""
    check_plain(where, "out", out)
    if out.is_inference() and not torch.is_inference_mode_enabled():
        reason = "made in inference mode, which has ended"
        raise ArgumentError(complaint(where, "out", f"tensor{tuple(out.shape)}", reason, "pass out.clone()"))
    if out.shape != shape:
        raise ArgumentError(
            complaint(where, "out.shape", tuple(out.shape), "the product has another", f"pass shape {shape}")
        )
    if out.dtype != like.dtype:
        reason = f"the product has {like.dtype}"
        raise DtypeError(complaint(where, "out.dtype", out.dtype, reason, f"pass a tensor of {like.dtype}"))
    if out.device != like.device:
        reason = f"the product is on {like.device}"
        raise ArgumentError(complaint(where, "out.device", out.device, reason, "pass a tensor there"))
    if not lies_apart(out):
        reason = "several of its entries share one place in memory"
        raise ArgumentError(complaint(where, "out.stride", out.stride(), reason, "pass out.clone()"))


def lies_apart(out: Tensor) -> bool:
    """Whether every step along an axis is longer than all that the shorter steps reach together.

    Then no two entries share a place. Interleaved layouts that get by without are not made by slicing.
    """
    if not out.numel():
        return True
    reach = 0
    for stride, size in sorted(zip(out.stride(), out.shape, strict=True)):
        if size > 1 and stride <= reach:
            return False
        reach += (size - 1) * stride
    return True
