"""The portable fast path: merged factors and stock torch kernels, no native code.

The batch goes through all passes in slices small enough to stay in cache. Half precision is computed in
float32, which is nearer to the truth and, where the machine has no matrix instructions for it, faster.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kmatrix.ops.definition import Pattern
from kmatrix.ops.forms import FORMS, Form, as_rows
from kmatrix.ops.merging import merge_group, merge_group_gradients
from kmatrix.ops.schedule import SLICE_BYTES, Pass, Plan, plan

_HALF = (torch.bfloat16, torch.float16)


def portable_chain_matmul(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> Tensor:
    """The chain product of a nonempty batch, contiguous; not differentiable."""
    rows, weights = _rows(x), _computable(weights)
    passes, length = _plan(rows, weights, patterns, backward=False)
    forms = _forms(passes, weights, patterns)
    shape = (*x.shape[:-1], patterns[-1].rows)
    if rows.shape[0] <= length:
        return as_rows(_forward(rows, forms)).to(x.dtype).view(shape)
    out = x.new_empty(rows.shape[0], patterns[-1].rows)
    for part in _slices(rows.shape[0], passes, length):
        h = _forward(rows[part], forms)
        out[part] = h if h.ndim == 2 else h.reshape(-1, h.shape[-1]).t()
    return out.view(shape)


def portable_chain_gradients(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern], need_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of ``x`` (if needed) and of every weight; the batch is not empty."""
    rows, grads, computable = _rows(x), _rows(grad), _computable(weights)
    passes, length = _plan(rows, computable, patterns, backward=True)
    forms = _forms(passes, computable, patterns)
    adjoints = [form.adjoint() for form in forms]
    grad_x = rows.new_empty(rows.shape) if need_x else None
    totals: list[Tensor] = []
    for part in _slices(rows.shape[0], passes, length):
        g, gradients = _backward(grads[part], rows[part], forms, adjoints, need_x)
        totals = [t.add_(one) for t, one in zip(totals, gradients, strict=True)] if totals else gradients
        if grad_x is not None:
            grad_x[part] = as_rows(g)
    unmerged: list[Tensor] = []
    for one, form, total in zip(passes, forms, totals, strict=True):
        group = slice(one.start, one.stop)
        unmerged += merge_group_gradients(form.unpack(total), computable[group], patterns[group])
    grad_weights = [g.to(w.dtype).contiguous() for g, w in zip(unmerged, weights, strict=True)]
    return (None if grad_x is None else grad_x.view(x.shape)), grad_weights


def _rows(x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _computable(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.float() if t.dtype in _HALF else t for t in tensors]


def _plan(rows: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern], *, backward: bool) -> Plan:
    """The plan for these arguments; caches matter on the CPU only, and each of its cores has one."""
    on_cpu = rows.device.type == "cpu"
    return plan(
        tuple(patterns),
        tuple([w.shape for w in weights]),
        rows.shape[0],
        itemsize=weights[0].itemsize,
        backward=backward,
        slice_bytes=SLICE_BYTES * torch.get_num_threads() if on_cpu else sys.maxsize,
    )


def _forms(passes: Sequence[Pass], weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> list[Form]:
    """The factors of each pass, multiplied out and packed."""
    forms: list[Form] = []
    for start, stop, pattern, form in passes:
        merged = merge_group(weights[start:stop], patterns[start:stop])
        forms.append(FORMS[form].of(merged, pattern))
    return forms


def _slices(batch: int, passes: Sequence[Pass], length: int) -> Iterator[slice]:
    """The batch in slices; plain matrix products need no help to stay in cache."""
    step = batch if all(one.form == "gemm" for one in passes) else length
    for start in range(0, batch, step):
        yield slice(start, min(start + step, batch))


def _forward(rows: Tensor, forms: Sequence[Form]) -> Tensor:
    h = rows.float() if rows.dtype in _HALF else rows
    for form in forms:
        h = form.apply(form.operand(h))
    return h


def _backward(
    grad: Tensor, rows: Tensor, forms: Sequence[Form], adjoints: Sequence[Form], need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the vectors and of the packed weights, for one slice."""
    h, g = _computable([rows, grad])
    operands: list[Tensor] = []
    for form in forms:
        operands.append(form.operand(h))
        if len(operands) < len(forms):
            h = form.apply(operands[-1])
    gradients: list[Tensor] = []
    for i in reversed(range(len(forms))):
        upstream = adjoints[i].operand(g)
        gradients.append(forms[i].gradient(upstream, operands[i]))
        if i or need_x:
            g = adjoints[i].apply(upstream)
    return g, gradients[::-1]
