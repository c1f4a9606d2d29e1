"""A chain product with its surroundings: what matrices call, so that permutations and corners cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops import dispatch, native
from kmatrix.ops.calls import record
from kmatrix.ops.calls import repeated as repeated
from kmatrix.ops.chain import chain_matmul
from kmatrix.ops.definition import Pattern as Pattern
from kmatrix.ops.definition import Patterns, check_weights
from kmatrix.ops.ends import Ends, OutsideError, cropping, padding
from kmatrix.ops.on_gpu import multiply_with_ends
from kmatrix.ops.routing import Route, is_autocast, is_plain, route

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}
PLAIN = -1  # what `repeated` calls a product without surroundings
_INDEX = (torch.int64, torch.int32)  # the others are masks to torch, or nothing


def chain_apply(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Patterns,
    *,
    gather: Tensor | None = None,
    take: Tensor | None = None,
    rows: int | None = None,
    bias: Tensor | None = None,
    activation: str = "",
    pairs: bool = False,
    transposed: bool = False,
) -> Tensor:
    """Multiply a selection of the input by a chain, select from the output, add a bias.

    ``y = act((F_k ... F_1 x[gather])[take][:rows] + bias)``, where an ``x`` that is too short is padded with zeros
    first. With ``transposed`` the chain is ``F_1^T ... F_k^T`` instead.

    Args:
        x: the vectors, shape ``(*, n)`` with ``n`` at most the number of columns of the first factor.
        weights: as for ``chain_matmul``; at least one.
        patterns: the pattern of each factor.
        gather: an index of that many columns, each one of ``0..cols-1``; None for all in order. The GPU kernels, which
            wait for nothing, take zero where it points outside.
        take: an index of rows of the last factor; None for all in order.
        rows: how many of the selected outputs to keep, the first ones; None for all.
        bias: one number for each output that is kept.
        activation: "relu", "gelu" (the exact one) or "silu" of ``torch.nn.functional``; none if empty. On a GPU it
            is part of the product's kernel; "gelu" and "silu" only where autograd does not watch.
        pairs: whether the weights hold complex numbers, as real pairs along a last axis.
        transposed: whether to multiply by the plain transpose of the chain.

    Returns:
        The result; differentiable, compiled and transformed as ``chain_matmul`` is.

    Example:
        >>> swap, p = torch.tensor([1, 0]), Pattern(1, 2, 2, 1)
        >>> chain_apply(torch.tensor([1.0, 2.0]), [torch.eye(2).view(p)], (p,), gather=swap)
        tensor([2., 1.])
    """
    if activation:
        return _activated(
            x,
            weights,
            patterns,
            activation,
            gather=gather,
            take=take,
            rows=rows,
            bias=bias,
            pairs=pairs,
            transposed=transposed,
        )
    cols, full = patterns[0].cols, patterns[-1].rows
    if transposed:
        cols, full = full, cols
    viewed = pairs or transposed
    if not viewed and gather is None and take is None and bias is None and rows in (None, full):
        if x.ndim and x.shape[-1] == cols:
            return chain_matmul(x, weights, patterns)
    others = tuple([t for t in (gather, take, bias) if t is not None])
    kind = _kind(full if rows is None else rows, gather, take, bias, pairs, transposed)
    compiling = torch.compiler.is_dynamo_compiling()
    held = weights[::-1] if transposed else weights
    if not compiling:
        again = repeated(x, held, patterns, others, kind)
        if isinstance(again, Tensor):
            return again
    used, chain = _views(weights, patterns, pairs, transposed) if viewed else (weights, patterns)
    if not compiling:
        ends = _foldable(x, used, chain, gather, take, rows, bias)
        if ends is not None and (viewed or not ends.trivial):
            record(x, used, patterns, chain, ends, kind, held if viewed else None)
            plain, *plain_weights = dispatch.resolved([x, *used])
            y = _folded(plain, plain_weights, chain, ends)
            if y is not None:
                return y
        y = multiply_with_ends(x, used, chain, gather, take, rows, bias)
        if y is not None:
            return y
    if x.shape[-1] < cols:
        x = functional.pad(x, (0, cols - x.shape[-1]))
    y = chain_matmul(x if gather is None else x[..., gather], used, chain)
    y = y if take is None else y[..., take]
    y = y if rows is None or rows == y.shape[-1] else y[..., :rows]
    return y if bias is None else y + bias.to(y.dtype)  # autocast may have lowered the products alone


def _activated(
    x: Tensor, weights: Sequence[Tensor], patterns: Patterns, activation: str, **ends: Any
) -> Tensor:
    """``chain_apply`` and a function of its result, in one kernel where there is one."""
    if activation not in _ACTIVATIONS:
        way_out = f"use one of {', '.join(_ACTIVATIONS)}, or none"
        raise ArgumentError(
            complaint("chain_apply", "activation", repr(activation), "there is no such function", way_out)
        )
    if not torch.compiler.is_dynamo_compiling():
        pairs, transposed = ends["pairs"], ends["transposed"]
        used, chain = (
            _views(weights, patterns, pairs, transposed) if pairs or transposed else (weights, patterns)
        )
        places = ends["gather"], ends["take"], ends["rows"], ends["bias"]
        y = multiply_with_ends(x, used, chain, *places, activation)
        if y is not None:
            return y
    return _ACTIVATIONS[activation](chain_apply(x, weights, patterns, **ends))


def _views(
    weights: Sequence[Tensor], patterns: Patterns, pairs: bool, transposed: bool
) -> tuple[tuple[Tensor, ...], Patterns]:
    """The weights as a chain of its own, without copying a number, and its patterns."""
    used = tuple([torch.view_as_complex(w) for w in weights]) if pairs else tuple(weights)
    if not transposed:
        return used, patterns
    turned = tuple([w.transpose(1, 2) for w in reversed(used)])
    return turned, tuple([Pattern(a, c, b, d) for a, b, c, d in reversed(patterns)])


def _kind(
    rows: int, gather: object, take: object, bias: object, pairs: bool = False, transposed: bool = False
) -> int:
    """Which surroundings are given, how weights are read, and a size that none of the tensors tells."""
    given = (gather is not None) + 2 * (take is not None) + 4 * (bias is not None)
    return 32 * rows + given + 8 * pairs + 16 * transposed


def kind_of_call(
    patterns: Patterns, n: int, *, gather: bool, take: bool, bias: bool, rows: int, pairs: bool = False
) -> int:
    """What ``repeated`` calls a ``chain_apply`` to vectors of size ``n`` with these surroundings."""
    if pairs or gather or take or bias or rows != patterns[-1].rows or n != patterns[0].cols:
        return _kind(rows, gather or None, take or None, bias or None, pairs)
    return PLAIN


def _folded(x: Tensor, weights: Sequence[Tensor], patterns: Patterns, ends: Ends) -> Tensor | None:
    """The product where the native kernels run it, ends and all; else None."""
    backend = dispatch.choose(x, weights, patterns)
    if not isinstance(backend, native.Native):
        return None
    try:
        y = native.multiply(x, weights, patterns, ends)
    except OutsideError:
        return None
    dispatch.observe(x, weights, patterns, backend, ends)
    return y


def _foldable(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Patterns,
    gather: Tensor | None,
    take: Tensor | None,
    rows: int | None,
    bias: Tensor | None,
) -> Ends | None:
    """The ends of a call that nothing watches and that fits; None where it must go the ordinary way.

    Misfits are among the latter: ``chain_matmul`` has the words for them.
    """
    given = tuple([t for t in (gather, take, bias) if t is not None])
    if is_autocast(x) or x.ndim == 0 or x.device.type != "cpu":
        return None
    if any(t is not None and (t.ndim != 1 or t.dtype not in _INDEX) for t in (gather, take)):
        return None
    if not all(is_plain(t) and t.is_contiguous() and not t.is_neg() and not t.is_conj() for t in given):
        return None
    if route(x, weights if bias is None else [*weights, bias]) is not Route.DIRECT:
        return None
    if any(t.device != x.device for t in given) or any(
        w.dtype != x.dtype or w.device != x.device for w in weights
    ):
        return None
    check_weights("chain_apply", weights, patterns)
    cols, full = patterns[0].cols, patterns[-1].rows
    n = x.shape[-1]
    if n > cols or (gather is not None and (n < cols or len(gather) != cols)):
        return None
    unchecked = ((gather, cols), (take, full))
    padded = padding(n, cols) if n < cols else gather
    selected = full if take is None else len(take)
    n_out = selected if rows is None else min(rows, selected)
    if not n_out:
        return None  # nothing to compute
    if n_out < selected:
        take = cropping(n_out) if take is None else take[:n_out]
    if bias is not None and (bias.dtype != x.dtype or bias.shape != (n_out,)):
        return None
    pending = tuple([(index, size) for index, size in unchecked if index is not None])
    return Ends(n, n_out, padded, take, bias, given, pending)
