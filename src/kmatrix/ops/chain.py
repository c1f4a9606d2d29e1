"""The one operation of the library: a vector multiplied by a chain of Kronecker-sparse factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops import dispatch
from kmatrix.ops.autograd import multiply_operator, multiply_watched
from kmatrix.ops.calls import record, repeated
from kmatrix.ops.definition import Pattern as Pattern
from kmatrix.ops.definition import (
    Patterns,
    check_numbers,
    check_sizes,
    check_weights,
    reference_chain_matmul,
)
from kmatrix.ops.flops import announce_formulas
from kmatrix.ops.library import lower_precision
from kmatrix.ops.output import multiply_into, repeat_into
from kmatrix.ops.routing import Route, is_autocast, route

_WHERE = "chain_matmul"
_compiling = torch.compiler.is_dynamo_compiling  # whether the bytecode is traced; other traces are modes


def chain_matmul(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Sequence[tuple[int, int, int, int]] | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Multiply vectors by a chain of Kronecker-sparse factors.

    ``y = F_k ... F_2 F_1 x``, where the factor of pattern ``(a, b, c, d)`` with weight ``w`` is
    ``y[A,B,D] = sum_C w[A,B,C,D] * x[A,C,D]``: an ``(a*b*d) x (a*c*d)`` matrix supported on
    ``I_a (x) ones(b, c) (x) I_d``. No factors at all give a copy of ``x``.

    Args:
        x: the vectors, shape ``(*, n)`` with ``n = a*c*d`` of the first factor; floating point, real or
            complex.
        weights: one tensor for each factor, **in order of application** (``weights[0]`` hits ``x`` first), of
            shape ``(a, b, c, d)``, of the dtype and on the device of ``x``. A weight may have size 1 along
            ``a`` or ``d`` or both: it is then tied, that is, the same for all groups or all diagonals.
        patterns: the pattern of each factor; needed only when weights are tied, else read off their shapes.
        out: where to put the products: of their shape, dtype and device. It may share memory with ``x`` or a
            weight; the products are right all the same. Only for plain calls: no gradients, no transforms, no
            compiler.

    Returns:
        The products, shape ``(*, m)`` with ``m = a*b*d`` of the last factor, contiguous, or ``out``. Differentiable to
        any order in ``x`` and the weights, in reverse and forward mode and under ``torch.func``; compiles and
        exports as one operator, ``torch.ops.kmatrix.chain_matmul``. Under autocast everything is cast as for
        ``F.linear``.

    Raises:
        ArgumentError: if shapes, patterns or devices do not fit, or if ``out`` is given and the call is not plain.
        DtypeError: if ``x`` is not floating point, or a weight has another dtype (a real weight for complex
            ``x`` included): nothing is promoted in silence.
        BackendUnavailableError: if ``use_backend`` asks for a backend that cannot run this product.

    Example:
        >>> x = torch.arange(4.0)
        >>> sums = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).reshape(1, 2, 2, 1)  # tied along a and d
        >>> chain_matmul(x, [sums, sums], [(2, 2, 2, 1), (1, 2, 2, 2)])  # the Hadamard transform of size 4
        tensor([ 6., -2., -4.,  0.])

    Reference:
        Dao, Gu, Eichhorn, Rudra and Re, Learning fast algorithms for linear transforms using butterfly
        factorizations (2019), for butterflies; Gonon et al., Fast inference with Kronecker-sparse matrices
        (arXiv:2405.15013), for general patterns.
    """
    if not _compiling():
        if out is not None:
            if repeat_into(out, x, weights, patterns):
                return out
        else:
            again = repeated(x, weights, patterns)
            if again is not None:
                return again if isinstance(again, Tensor) else multiply_watched(x, weights, again)
    chain = _checked_chain(x, weights, patterns)
    if is_autocast(x):
        x, *weights = lower_precision(x.device.type, [x, *weights])
    check_numbers(_WHERE, x, weights)
    if out is not None:
        return multiply_into(out, x, weights, chain, patterns)
    if not chain:
        return x.clone(memory_format=torch.contiguous_format)
    how = route(x, weights)
    if how is Route.DIRECT:
        record(x, weights, patterns, chain)
        return dispatch.run(x, weights, chain)
    if how is Route.AUTOGRAD:
        return multiply_watched(x, weights, chain)
    if how is Route.DEFINITION:
        dispatch.allow_definition(how.value)
        return reference_chain_matmul(x, weights, chain)
    if not torch.compiler.is_compiling():
        announce_formulas()
    return multiply_operator(x, list(weights), chain)


def explain_dispatch(
    x: Tensor, weights: Sequence[Tensor], patterns: Sequence[tuple[int, int, int, int]] | None = None
) -> dispatch.Explanation:
    """Say which backend ``chain_matmul`` would run on these arguments and why; runs nothing.

    Args:
        x: as for ``chain_matmul``.
        weights: as for ``chain_matmul``.
        patterns: as for ``chain_matmul``.

    Returns:
        The route, the backend (None if ``use_backend`` asks for one that cannot run) and the reasons, by
        name.

    Raises:
        ArgumentError: as ``chain_matmul``.
        DtypeError: as ``chain_matmul``.

    Example:
        >>> told = explain_dispatch(torch.ones(3, 4), [torch.ones(2, 1, 2, 1)])
        >>> told.route
        'a plain call: the backend runs at once'
        >>> told.reasons["portable"]
        'merged factors, stock torch kernels'
    """
    chain = _checked_chain(x, weights, patterns)
    check_numbers(_WHERE, x, weights)
    return dispatch.explain(x, weights, chain, route(x, weights))


def check_chain(
    where: str, weights: Sequence[Tensor], patterns: Sequence[tuple[int, int, int, int]] | None
) -> Patterns:
    """The patterns of a chain whose weights fit each other in shape, number type and device; raises if not."""
    if not all(isinstance(w, Tensor) for w in weights):
        kinds = sorted({type(w).__name__ for w in weights})
        raise DtypeError(complaint(where, "weights", kinds, "not all tensors", "pass torch.Tensors"))
    chain = _as_chain(where, weights, patterns)
    probe = torch.empty(chain[0].cols, dtype=weights[0].dtype, device="meta")
    check_sizes(where, probe, chain)
    check_numbers(where, weights[0], weights, x_is="weights[0]")
    return chain


def _checked_chain(
    x: Tensor, weights: Sequence[Tensor], patterns: Sequence[tuple[int, int, int, int]] | None
) -> Patterns:
    """The patterns of a chain that fits together and fits ``x``; raises if it does not."""
    if not isinstance(x, Tensor):
        raise DtypeError(complaint(_WHERE, "x", type(x).__name__, "not a tensor", "pass a torch.Tensor"))
    if x.ndim == 0:
        way_out = "pass x of shape (*, n)"
        raise ArgumentError(
            complaint(_WHERE, "x.shape", tuple(x.shape), "there is no last dimension", way_out)
        )
    chain = _as_chain(_WHERE, weights, patterns)
    check_sizes(_WHERE, x, chain)
    return chain


def _as_chain(
    where: str, weights: Sequence[Tensor], patterns: Sequence[tuple[int, int, int, int]] | None
) -> Patterns:
    if patterns is None:
        return tuple([_shape_as_pattern(where, w.shape, i) for i, w in enumerate(weights)])
    chain = tuple([_as_pattern(where, p, i) for i, p in enumerate(patterns)])
    check_weights(where, weights, chain)
    return chain


def _shape_as_pattern(where: str, shape: Sequence[int], i: int) -> Pattern:
    if len(shape) != 4:
        way_out = "pass weights of shape (a, b, c, d)"
        raise ArgumentError(complaint(where, f"weights[{i}].shape", tuple(shape), "not a factor", way_out))
    return Pattern._make(shape)


def _as_pattern(where: str, sizes: Sequence[int], i: int) -> Pattern:
    if len(sizes) != 4:
        way_out = "pass Pattern(a, b, c, d)"
        raise ArgumentError(complaint(where, f"patterns[{i}]", tuple(sizes), "not four sizes", way_out))
    return Pattern._make(sizes)
