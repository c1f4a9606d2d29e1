"""The registered operator ``kmatrix::segments_matmul``: what compiler, exporter, autocast and vmap know it by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops import segments_autograd
from kmatrix.ops.definition import check_alike
from kmatrix.ops.flops import announce_formulas
from kmatrix.ops.library import lower_precision
from kmatrix.ops.routing import AUTOCAST_DEVICES
from kmatrix.ops.segments_definition import check_segments, covered, reference_segments_matmul, side_factor
from kmatrix.ops.segments_dispatch import run, run_backward
from kmatrix.ops.segments_gradients import segments_gradients

_new_library: Callable[[str, str], Any] = torch.library.Library  # untyped in torch
_LIBRARY = _new_library("kmatrix", "FRAGMENT")
_LIBRARY.define(
    "segments_matmul(Tensor x, Tensor left, Tensor right, Tensor places, SymInt rows) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    "segments_matmul_backward("
    "Tensor grad, Tensor x, Tensor left, Tensor right, Tensor places, bool[3] need) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_NAME, _BACKWARD = "kmatrix::segments_matmul", "kmatrix::segments_matmul_backward"

SEGMENTS_MATMUL: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
SEGMENTS_MATMUL = torch.ops.kmatrix.segments_matmul.default


def decomposition(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """The operator in stock torch functions, for ``ExportedProgram.run_decompositions``.

    ``program.run_decompositions({torch.ops.kmatrix.segments_matmul.default: decomposition})`` leaves no trace of
    kmatrix.
    """
    return reference_segments_matmul(x, left, right, places, rows).contiguous()


def _kernel(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    # Whoever calls an operator by its name has checked nothing, and the backends read memory by these sizes.
    check_segments(_NAME, x, left, right, places, rows)
    return run(x, left, right, places, rows)


def _fake(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


def _backward_kernel(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, places: Tensor, need: list[bool]
) -> list[Tensor]:
    """The gradients that are needed, the others empty; only ever recorded by compilers, as a step without its own."""
    rows = grad.shape[-1]
    check_segments(_BACKWARD, x, left, right, places, rows)
    check_alike(_BACKWARD, "grad", grad, x)
    if grad.shape[:-1] != x.shape[:-1]:
        reason = f"x has {tuple(x.shape)}"
        raise ArgumentError(
            complaint(_BACKWARD, "grad.shape", tuple(grad.shape), reason, "pass a row for each of x")
        )
    arguments = grad, x, left, right, places, tuple(need)
    found = run_backward(*arguments) or segments_gradients(*arguments)
    return [x.new_empty(0) if one is None else one.contiguous() for one in found]


def _backward_fake(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, places: Tensor, need: list[bool]
) -> list[Tensor]:
    return [
        one.new_empty(one.shape if wanted else 0) for one, wanted in zip((x, left, right), need, strict=True)
    ]


def _batched_kernel(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """Gathers, products and sums: the older ``vmap`` of ``is_grads_batched`` knows few functions."""
    cols, boxes = x.shape[-1], places.shape[1]
    onto = _elementwise_factor(right, places[2], places[3], cols, boxes)
    back = _elementwise_factor(left, places[0], places[1], rows, boxes)
    middle = (x.unsqueeze(-1) * onto).sum(-2)
    return (middle.unsqueeze(-2) * back).sum(-1)


def _elementwise_factor(numbers: Tensor, start: Tensor, width: Tensor, size: int, boxes: int) -> Tensor:
    """``side_factor`` as a gather and a mask."""
    where = covered(start, width, size, numbers.shape[-1])
    entry = torch.zeros(size, boxes, dtype=torch.int64, device=start.device)
    entry[where.position, where.owner] = torch.arange(1, numbers.shape[-1] + 1, device=start.device)
    if not numbers.shape[-1]:
        return entry.to(numbers.dtype)
    taken = numbers[(entry - 1).clamp(min=0).reshape(-1)].reshape(size, boxes)
    return taken * (entry > 0).to(numbers.dtype)


def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    left: Tensor,
    right: Tensor,
    places: Tensor,
    rows: int,
) -> tuple[Tensor, int]:
    copies, (x_dim, left_dim, right_dim, places_dim, *_) = info.batch_size, in_dims
    if places_dim is not None:
        # Models stacked by torch.func: each copy has its own boxes, so each is a product of its own.
        given = zip((x, left, right, places), in_dims, strict=False)
        xs, lefts, rights, where = ([t] * copies if dim is None else t.unbind(dim) for t, dim in given)
        each = zip(xs, lefts, rights, where, strict=True)
        return torch.stack([SEGMENTS_MATMUL(*one, rows) for one in each]), 0
    if left_dim is None and right_dim is None and x_dim is not None:
        return SEGMENTS_MATMUL(x.movedim(x_dim, 0), left, right, places, rows), 0
    x = x.expand(copies, *x.shape) if x_dim is None else x.movedim(x_dim, 0)
    left, right = (
        side if dim is None else side.movedim(dim, 0) for side, dim in ((left, left_dim), (right, right_dim))
    )
    cols, boxes = x.shape[-1], places.shape[1]
    onto = side_factor(right, covered(places[2], places[3], cols, right.shape[-1]), cols, boxes)
    back = side_factor(left, covered(places[0], places[1], rows, left.shape[-1]), rows, boxes)
    products = x.reshape(copies, math.prod(x.shape[1:-1]), cols) @ onto @ back.mT
    return products.reshape(*x.shape[:-1], rows), 0


def _autocast_kernel(device: str) -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]:
    def kernel(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
        x, left, right = lower_precision(device, [x, left, right])
        with torch.autocast(device, enabled=False):
            return SEGMENTS_MATMUL(x, left, right, places, rows)

    return kernel


def _register() -> None:
    _LIBRARY.impl("segments_matmul", _kernel, "CompositeExplicitAutograd")
    _LIBRARY.impl("segments_matmul_backward", _backward_kernel, "CompositeExplicitAutograd")
    _LIBRARY.impl("segments_matmul", _batched_kernel, "Batched")
    for device in AUTOCAST_DEVICES:
        _LIBRARY.impl("segments_matmul", _autocast_kernel(device), f"Autocast{device.upper()}")
    torch.library.register_fake(_NAME, _fake, lib=_LIBRARY)
    torch.library.register_fake(_BACKWARD, _backward_fake, lib=_LIBRARY)
    torch.library.register_autograd(
        _NAME, segments_autograd.backward, setup_context=segments_autograd.setup_context, lib=_LIBRARY
    )
    torch.library.register_vmap(_NAME, _vmap, lib=_LIBRARY)
    announce_formulas()


_register()
