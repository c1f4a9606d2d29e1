"""The second operation of the library: a vector multiplied by a sum of rank-one boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix.ops import segments_library as segments_library  # registers the operator
from kmatrix.ops.dispatch import allow_definition, resolved
from kmatrix.ops.flops import announce_formulas
from kmatrix.ops.library import lower_precision
from kmatrix.ops.routing import Route, is_autocast, is_plain, route
from kmatrix.ops.segments_autograd import multiply_operator, multiply_watched
from kmatrix.ops.segments_definition import check_segments, reference_segments_matmul
from kmatrix.ops.segments_dispatch import native_is_next, run, with_bias
from kmatrix.ops.segments_native import Sizes, repeated

_WHERE = "segments_matmul"
_compiling = torch.compiler.is_dynamo_compiling


def segments_matmul(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """Multiply vectors by a sum of rank-one boxes, each on a cyclic segment of the rows and one of the columns.

    ``y = sum_k left_k <right_k, x[columns of box k]>``, added on the rows of box ``k``; a segment of width ``w`` that
    starts at ``l`` holds the positions ``l, l + 1, ..., l + w - 1`` modulo the side. The products with ``right`` are
    plain sums, nothing is conjugated.

    Kernels of our own run for real numbers on the CPU ("native") and for bfloat16, float16, float32 and complex64 on
    NVIDIA GPUs ("triton"); elsewhere the factors are filled up with zeros ("portable").

    Numbers are meant to be finite. Where one is infinite or NaN, the backend and the number of vectors decide which
    results become NaN: it may meet zeros beside a segment.

    Args:
        x: the vectors, shape ``(*, n)``; floating point, real or complex, finite.
        left: the numbers on the rows, box after box, each as long as its segment: shape ``(sum of row widths,)``.
        right: the numbers on the columns, likewise: shape ``(sum of column widths,)``.
        places: int64 ``(4, K)``: the rows ``row_start, row_width, col_start, col_width``; starts in ``0 .. side-1``,
            widths in ``0 .. side``.
        rows: how many rows the matrix has.

    Returns:
        The products, shape ``(*, rows)``. Differentiable to any order in ``x``, ``left`` and ``right``, in reverse and
        forward mode and under ``torch.func``; compiles and exports as one operator,
        ``torch.ops.kmatrix.segments_matmul``. Under autocast everything is cast as for ``F.linear``.

    Raises:
        ArgumentError: if shapes or devices do not fit, or a box lies outside of the matrix.
        DtypeError: if ``x`` is not floating point, or ``left`` or ``right`` has another number type.
        BackendUnavailableError: if ``use_backend`` asks for a backend that cannot run this product.

    Example:
        >>> import torch
        >>> places = torch.tensor([[1], [2], [3], [2]])  # rows 1 and 2, columns 3 and (cyclically) 0
        >>> segments_matmul(torch.arange(4.0), torch.tensor([1.0, 10.0]), torch.ones(2), places, rows=3)
        tensor([ 0.,  3., 30.])

    Reference: arXiv 2310.18882 (generalised block low-rank matrices), after training.
    """
    if not _compiling():
        again = repeated_segments(x, left, right, places, rows)
        if again is not None:
            return again
    if isinstance(x, Tensor) and is_autocast(x):
        x, left, right = lower_precision(x.device.type, [x, left, right])
    check_segments(_WHERE, x, left, right, places, rows)
    how = route(x, (left, right, places))
    if how is Route.DIRECT:
        return run(x, left, right, places, rows)
    if how is Route.AUTOGRAD:
        return multiply_watched(x, left, right, places, rows)
    if how is Route.DEFINITION:
        allow_definition(how.value)
        return reference_segments_matmul(x, left, right, places, rows)
    if not torch.compiler.is_compiling():
        announce_formulas()
    return multiply_operator(x, left, right, places, rows)


def repeated_segments(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    places: Tensor,
    rows: int,
    sizes: Sizes | None = None,
    bias: Tensor | None = None,
) -> Tensor | None:
    """``segments_matmul``, plus a bias, for a few rows of sizes that ran before; None if anything is unusual.

    A caller that knows the sizes ``(columns, rows, boxes, len(left), len(right))`` spares looking them up.
    """
    if not native_is_next():
        return None
    again = repeated(x, left, right, places, rows, sizes, bias)
    if isinstance(again, Tensor):
        return again
    if not again:
        return None
    y = multiply_watched(x, left, right, places, rows)
    return y if bias is None else y + bias


def segments_affine(
    x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int, bias: Tensor
) -> Tensor | None:
    """``segments_matmul`` plus a bias in one pass of the kernels; None where they do not run or something watches."""
    if _compiling() or is_autocast(x):
        return None
    if not is_plain(bias) or bias.dtype != x.dtype or bias.shape != (rows,) or bias.device != x.device:
        return None
    check_segments(_WHERE, x, left, right, places, rows)
    if route(x, (left, right, places, bias)) is not Route.DIRECT or not bias.is_contiguous() or bias.is_neg():
        return None
    x, left, right = resolved([x, left, right])
    backend = with_bias(x, left, right, places, rows)
    return None if backend is None else backend.run(x, left, right, places, rows, bias)
