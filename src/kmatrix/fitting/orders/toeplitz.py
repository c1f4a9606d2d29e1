"""Circulant, Toeplitz and Hankel matrices: how far a matrix is from them, and the order of shuffled rows or columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix._permutations import Index

Kind = Literal["circulant", "toeplitz", "hankel"]
FLOOR = 1e-12
"""Relative errors below this are rounding in the numbers that were handed in."""
_PROBES = 8  # rows whose follower is looked for before all are
_RIVALS = 4  # followers by inner product that are compared exactly
_ROOT = 1e-7  # distances from inner products are not seen below the root of rounding


@dataclass(frozen=True)
class ToeplitzOrder:
    """The order under which a matrix is circulant, Toeplitz or Hankel, or why none was found.

    Attributes:
        found: whether ``W[row_perm][:, col_perm]`` is of that kind up to the tolerance.
        kind: of what kind (a row-shuffled Hankel matrix is found as the Toeplitz matrix that it also is).
        row_perm: which row of ``W`` comes where.
        col_perm: which column of ``W`` comes where.
        error: relative Frobenius distance to that kind under these orders (infinite if none was found).
        reason: what was done to get there, or why it failed.
    """

    found: bool
    kind: Kind
    row_perm: Index
    col_perm: Index
    error: float
    reason: str


def toeplitz_distance(matrix: Tensor, kind: Kind) -> float:
    r"""Relative Frobenius distance to the nearest circulant, Toeplitz or Hankel matrix.

    The nearest one averages along wrapped diagonals, diagonals or antidiagonals, these being orthogonal parts.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        kind: one of ``"circulant"`` (square only), ``"toeplitz"``, ``"hankel"``.

    Raises:
        ArgumentError: if the matrix is not square and the kind is circulant.

    Example:
        >>> w = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
        >>> toeplitz_distance(w, "hankel"), round(toeplitz_distance(w, "toeplitz"), 3)
        (0.0, 0.424)
    """
    m, n = matrix.shape
    if kind == "circulant" and m != n:
        shape = tuple(matrix.shape)
        raise ArgumentError(
            complaint("toeplitz_distance", "matrix.shape", shape, "not square", "pass kind='toeplitz'")
        )
    i, j = torch.arange(m).unsqueeze(1), torch.arange(n)
    line = {"circulant": (i - j) % m, "toeplitz": i - j + n - 1, "hankel": i + j}[kind].flatten()
    count = torch.zeros(m + n, dtype=torch.float64).index_add(0, line, torch.ones(m * n, dtype=torch.float64))
    total = torch.zeros(m + n, dtype=matrix.dtype).index_add(0, line, matrix.flatten())
    off = torch.linalg.vector_norm(matrix.flatten() - (total / count.clamp_min(1.0))[line])
    return float(off / torch.linalg.vector_norm(matrix).clamp_min(torch.finfo(torch.float64).tiny))


def find_toeplitz_order(matrix: Tensor, *, tol: float = FLOOR) -> ToeplitzOrder:
    """Find the order of the rows, or else of the columns, under which a matrix is circulant or Toeplitz.

    In a Toeplitz matrix each row is the one before, moved by one place: ``b[1:] == a[:-1]``. So every row is linked to
    the row that starts as it goes on, and the chain of links is followed from the row that follows none. In a
    circulant matrix the move wraps around and the chain closes.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        tol: relative Frobenius distance to accept.

    Raises:
        DtypeError: if the matrix has another dtype.
        ArgumentError: if it is not a matrix of finite numbers.

    Example:
        >>> w = torch.arange(5.0, dtype=torch.float64)
        >>> circulant = torch.stack([w.roll(k) for k in (0, 3, 1, 4, 2)])
        >>> order = find_toeplitz_order(circulant)
        >>> order.found, order.kind, order.row_perm.tolist()
        (True, 'circulant', [0, 2, 4, 1, 3])
    """
    _check(matrix)
    m, n = matrix.shape
    natural = (np.arange(m, dtype=np.int64), np.arange(n, dtype=np.int64))
    best = ToeplitzOrder(
        False, "toeplitz", *natural, float("inf"), "no two rows or columns follow each other"
    )
    for candidate in _candidates(matrix, max(tol, FLOOR)):
        if candidate.error <= max(tol, FLOOR):
            return candidate
        if candidate.error < best.error:
            reason = f"{candidate.reason} leaves a relative distance of {candidate.error:.1e}"
            best = ToeplitzOrder(False, candidate.kind, *natural, candidate.error, reason)
    return best


def _candidates(matrix: Tensor, tol: float) -> Iterator[ToeplitzOrder]:
    """The natural order for each kind, then the chains of rows and of columns."""
    m, n = matrix.shape
    rows, cols = np.arange(m, dtype=np.int64), np.arange(n, dtype=np.int64)
    kinds: tuple[Kind, ...] = ("circulant", "toeplitz") if m == n else ("toeplitz",)
    for kind in (*kinds, "hankel"):
        yield ToeplitzOrder(True, kind, rows, cols, toeplitz_distance(matrix, kind), "the natural order")
    for kind in kinds:
        order = _chain(matrix, tol, wraps=kind == "circulant")
        if order is not None:
            error = toeplitz_distance(matrix[torch.from_numpy(order)], kind)
            yield ToeplitzOrder(True, kind, order, cols, error, "ordering the rows")
        order = _chain(matrix.T, tol, wraps=kind == "circulant")
        if order is not None:
            error = toeplitz_distance(matrix[:, torch.from_numpy(order)], kind)
            yield ToeplitzOrder(True, kind, rows, order, error, "ordering the columns")


def _chain(matrix: Tensor, tol: float, *, wraps: bool) -> Index | None:
    """The rows from the first to the last, each the one before moved by one place; ``None`` if they make no chain."""
    ends, starts = (matrix.roll(1, 1), matrix) if wraps else (matrix[:, :-1], matrix[:, 1:])
    m = len(matrix)
    if m < 2 or 0 in ends.shape:
        return None
    scale = float(matrix.abs().square().mean()) * ends.shape[1]
    probe = torch.linspace(0, m - 1, min(_PROBES, m)).long()
    gaps, _ = _followers(ends[probe], starts, probe)
    if int((gaps > max(10 * tol, _ROOT) ** 2 * scale).sum()) > 1:
        return None
    gaps, follower = _followers(ends, starts, torch.arange(m))
    after = follower.tolist()
    last = None if wraps else int(gaps.argmax())
    heads = set(range(m)) - {b for a, b in enumerate(after) if a != last}
    at = 0 if wraps or not heads else heads.pop()
    order = [at]
    while at != last and len(order) < m:
        at = after[at]
        order.append(at)
    return np.array(order, dtype=np.int64) if len(set(order)) == m else None


def _followers(ends: Tensor, starts: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """For each end the nearest start among the other rows: squared distance and row number."""
    near = starts.abs().square().sum(1) - 2 * (ends @ starts.mH).real
    near[torch.arange(len(own)), own] = torch.inf
    rivals = near.topk(min(_RIVALS, len(starts) - 1), largest=False).indices
    exact = (starts[rivals] - ends.unsqueeze(1)).abs().square().sum(2)
    gaps, which = exact.min(1)
    return gaps, rivals.gather(1, which.unsqueeze(1))[:, 0]


def _check(matrix: Tensor) -> None:
    where = "find_toeplitz_order"
    if matrix.dtype not in (torch.float64, torch.complex128):
        raise DtypeError(
            complaint(where, "matrix.dtype", matrix.dtype, "too narrow", "use .double() or .cdouble()")
        )
    if matrix.ndim != 2 or 0 in matrix.shape:
        shape = tuple(matrix.shape)
        raise ArgumentError(complaint(where, "matrix.shape", shape, "not a matrix", "pass rows and columns"))
    if not bool(torch.isfinite(matrix.abs()).all()):
        raise ArgumentError(complaint(where, "matrix", "...", "holds NaN or infinity", "clean it first"))
