"""A chain product with its surroundings: what matrices call, so that permutations and corners cost nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix.ops import dispatch, native
from kmatrix.ops.calls import record
from kmatrix.ops.calls import repeated as repeated
from kmatrix.ops.chain import chain_matmul
from kmatrix.ops.definition import Pattern as Pattern
from kmatrix.ops.definition import Patterns, check_weights
from kmatrix.ops.ends import Ends, OutsideError, cropping, padding
from kmatrix.ops.routing import Route, is_autocast, is_plain, route

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
) -> Tensor:
    """Multiply a selection of the input by a chain, select from the output, add a bias.

    ``y = (F_k ... F_1 x[gather])[take][:rows] + bias``, where an ``x`` that is too short is padded with zeros
    first.

    Args:
        x: the vectors, shape ``(*, n)`` with ``n`` at most the number of columns of the first factor.
        weights: as for ``chain_matmul``; at least one.
        patterns: the pattern of each factor.
        gather: an index of that many columns, each one of ``0..cols-1``; None for all in order.
        take: an index of rows of the last factor; None for all in order.
        rows: how many of the selected outputs to keep, the first ones; None for all.
        bias: one number for each output that is kept.

    Returns:
        The result; differentiable, compiled and transformed as ``chain_matmul`` is.

    Example:
        >>> swap, p = torch.tensor([1, 0]), Pattern(1, 2, 2, 1)
        >>> chain_apply(torch.tensor([1.0, 2.0]), [torch.eye(2).view(p)], (p,), gather=swap)
        tensor([2., 1.])
    """
    if gather is None and take is None and bias is None and rows in (None, patterns[-1].rows):
        if x.ndim and x.shape[-1] == patterns[0].cols:
            return chain_matmul(x, weights, patterns)
    others = tuple([t for t in (gather, take, bias) if t is not None])
    kind = _kind(patterns, gather is None, take is None, bias is None, rows)
    if not torch.compiler.is_dynamo_compiling():
        again = repeated(x, weights, patterns, others, kind)
        if isinstance(again, Tensor):
            return again
        ends = _foldable(x, weights, patterns, gather, take, rows, bias)
        if ends is not None and not ends.trivial:
            record(x, weights, patterns, patterns, ends, kind)
            x, *weights = dispatch.resolved([x, *weights])
            y = _folded(x, weights, patterns, ends)
            if y is not None:
                return y
    cols = patterns[0].cols
    if x.shape[-1] < cols:
        x = functional.pad(x, (0, cols - x.shape[-1]))
    y = chain_matmul(x if gather is None else x[..., gather], weights, patterns)
    y = y if take is None else y[..., take]
    y = y if rows is None or rows == y.shape[-1] else y[..., :rows]
    return y if bias is None else y + bias.to(y.dtype)  # autocast may have lowered the products alone


def _kind(patterns: Patterns, no_gather: bool, no_take: bool, no_bias: bool, rows: int | None) -> int:
    """Which surroundings are given, and a size that none of them tells."""
    given = no_gather + 2 * no_take + 4 * no_bias
    return 8 * (patterns[-1].rows if rows is None else rows) + given


def kind_of_call(patterns: Patterns, n: int, *, gather: bool, take: bool, bias: bool, rows: int) -> int:
    """What ``repeated`` calls a ``chain_apply`` to vectors of size ``n`` with these surroundings."""
    if gather or take or bias or rows != patterns[-1].rows or n != patterns[0].cols:
        return _kind(patterns, not gather, not take, not bias, rows)
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
    n_out = selected if rows is None else rows
    if n_out < selected:
        take = cropping(n_out) if take is None else take[:n_out]
    if bias is not None and (bias.dtype != x.dtype or bias.shape != (n_out,)):
        return None
    pending = tuple([(index, size) for index, size in unchecked if index is not None])
    return Ends(n, n_out, padded, take, bias, given, pending)
