"""Polishing a chain: each factor in turn becomes the best given the others; errors only fall."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops import Pattern, chain_matmul

_RIDGE = (
    1e-14  # relative: makes the step well-defined where the factor is not, and still never raises the error
)
_CHUNK = 1 << 23  # numbers gathered at once for small groups
_SMALL = 32  # unknowns up to which Gram matrices are formed group by group
_STALLED = 1e-3  # relative gain of a sweep below which it is the last


@dataclass(frozen=True)
class Polished:
    """A chain after some sweeps.

    Attributes:
        weights: the factors in order of application.
        errors: relative Frobenius error before the first sweep and after each.
    """

    weights: tuple[Tensor, ...]
    errors: tuple[float, ...]


def polish(
    matrix: Tensor,
    weights: Sequence[Tensor],
    patterns: Sequence[Pattern],
    *,
    sweeps: int = 20,
    tol: float = 0.0,
    deadline: float = math.inf,
) -> Polished:
    r"""Improve all factors of a chain by alternating least squares, the exact minimum for one factor at a time.

    With ``L`` the product of the later factors and ``R`` that of the earlier ones, factor ``F`` gets the step
    ``D`` on its support that minimises ``||W - L (F + D) R||_F``. Two unknowns meet in one equation only if their
    columns of ``L`` and their rows of ``R`` overlap, so the problem falls apart into groups: ``rho_i x rho_(i-1)``
    unknowns each in a tile-rank butterfly, all of the factor in a kaleidoscope. A step is taken only if the
    error falls; where ``L`` or ``R`` lack rank a minute ridge picks the shortest step.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        weights: untied factors in order of application, of shape ``patterns[i]``, near a minimum.
        patterns: their supports.
        sweeps: most passes over all factors.
        tol: relative Frobenius error at which to stop.
        deadline: clock time (``time.monotonic``) at which to stop.

    Raises:
        ArgumentError: if a weight is tied or not of its pattern's shape, or the chain has another shape than ``W``.

    Example:
        >>> w = torch.kron(torch.ones(2, 2), torch.eye(2)).double()
        >>> patterns = [Pattern(1, 2, 2, 2)]
        >>> polish(w, [torch.zeros(1, 2, 2, 2).double()], patterns).errors[-1] < 1e-12
        True
    """
    _check(matrix, weights, patterns)
    norm = float(torch.linalg.vector_norm(matrix)) or 1.0
    factors = [w.clone() for w in weights]
    groups = [_groups(patterns, i) for i in range(len(factors))]
    residual = matrix - _product(factors, matrix.shape[1], matrix.dtype)
    errors = [float(torch.linalg.vector_norm(residual)) / norm]
    for _ in range(sweeps):
        for i in range(len(factors)):
            if time.monotonic() > deadline:
                break
            candidate = factors[i] + _step(residual, factors, i, groups[i])
            trial = [*factors[:i], candidate, *factors[i + 1 :]]
            left_over = matrix - _product(trial, matrix.shape[1], matrix.dtype)
            if torch.linalg.vector_norm(left_over) < torch.linalg.vector_norm(residual):
                factors, residual = trial, left_over
        errors.append(float(torch.linalg.vector_norm(residual)) / norm)
        if errors[-1] <= tol or errors[-1] > (1 - _STALLED) * errors[-2]:
            break
    return Polished(tuple(factors), tuple(errors))


def _around(residual: Tensor, weights: Sequence[Tensor], i: int) -> tuple[Tensor, Tensor]:
    """The product of the factors after factor ``i``, transposed, and the product of those before it."""
    _, b, _, d = weights[i].shape
    later = torch.eye(weights[i].shape[0] * b * d, dtype=residual.dtype)
    return chain_matmul(later, weights[i + 1 :]), _product(weights[:i], residual.shape[1], residual.dtype)


def _slope(residual: Tensor, left: Tensor, right: Tensor, pattern: Pattern) -> Tensor:
    """Inner products of the residual with what each number of a factor contributes to the product."""
    a, b, c, d = pattern
    seen = (left.conj() @ residual).reshape(a, b, d, -1)
    return torch.einsum("abdn,acdn->abcd", seen, right.reshape(a, c, d, -1).conj()).flatten()


def _product(weights: Sequence[Tensor], n: int, dtype: torch.dtype) -> Tensor:
    """The dense matrix of the first factors of a chain on ``n`` columns; the identity if there are none."""
    return chain_matmul(torch.eye(n, dtype=dtype), weights).T


def _step(residual: Tensor, weights: Sequence[Tensor], i: int, groups: Sequence[Tensor]) -> Tensor:
    """The step of factor ``i`` that leaves the least residual."""
    pattern = Pattern(*weights[i].shape)
    left, right = _around(residual, weights, i)
    slope = _slope(residual, left, right, pattern)
    rows, cols = _ends(pattern)
    step = torch.zeros_like(slope)
    for members in groups:
        gram = _gram(left, rows[members]) * _gram(right, cols[members])
        ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).real.mean(1).clamp_min(torch.finfo(torch.float64).tiny)
        gram = gram + ridge[:, None, None] * torch.eye(members.shape[1], dtype=gram.dtype)
        step[members] = torch.linalg.solve(gram, slope[members])
    return step.reshape(pattern)


def _gram(vectors: Tensor, members: Tensor) -> Tensor:
    """Inner products within each group: ``(groups, k, k)`` from ``(count, length)`` and ``(groups, k)``."""
    if members.shape[1] > _SMALL:
        every = vectors.conj() @ vectors.mT
        return every[members.unsqueeze(2), members.unsqueeze(1)]
    picked = vectors[members]
    return picked.conj() @ picked.mT


def _ends(pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Row and column of each number of a factor, in the order of its weight."""
    a, b, c, d = pattern
    group, low = torch.arange(a).reshape(a, 1, 1, 1), torch.arange(d)
    rows = (group * b + torch.arange(b).reshape(b, 1, 1)) * d + low
    cols = (group * c + torch.arange(c).reshape(c, 1)) * d + low
    return rows.expand(pattern).flatten(), cols.expand(pattern).flatten()


def _groups(patterns: Sequence[Pattern], i: int) -> list[Tensor]:
    """The unknowns of factor ``i`` that depend on each other: tables ``(groups, k)``, one for each group size ``k``."""
    ones = [torch.ones(p) for p in patterns]
    left = chain_matmul(torch.eye(patterns[i].rows), ones[i + 1 :])
    right = _product(ones[:i], patterns[0].cols, torch.float32)
    rows, cols = _ends(patterns[i])
    meets = _overlapping(left)[rows] * len(right) + _overlapping(right)[cols]
    _, group, size = torch.unique(meets, return_inverse=True, return_counts=True)
    by_group = group.argsort(stable=True)
    step = max(1, _CHUNK // (len(left[0]) + len(right[0])))
    tables = []
    for k in sorted(set(size.tolist())):
        table = by_group[size[group[by_group]] == k].reshape(-1, k)
        share = max(1, step // k)
        tables += [table[start : start + share] for start in range(0, len(table), share)]
    return tables


def _overlapping(supports: Tensor) -> Tensor:
    """A number for each row of a nonnegative matrix, the same for rows with overlapping supports."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    meets = supports @ supports.T > 0
    labels = connected_components(coo_array(meets.numpy()), directed=False)[1]
    return torch.from_numpy(labels).long()


def _check(matrix: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> None:
    """Complain about a chain that cannot be polished."""
    where = "polish"
    shapes = [tuple(w.shape) for w in weights]
    if shapes != [tuple(p) for p in patterns] or not shapes:
        way_out = "expand tied weights to their patterns first"
        raise ArgumentError(complaint(where, "weights", shapes, "not the shapes of the patterns", way_out))
    joints = [(p.rows, q.cols) for p, q in itertools.pairwise(patterns)]
    ends = (patterns[-1].rows, patterns[0].cols)
    if ends != tuple(matrix.shape) or any(r != c for r, c in joints):
        reason = f"do not chain to a matrix of shape {tuple(matrix.shape)}"
        raise ArgumentError(complaint(where, "patterns", list(patterns), reason, "pass factors that fit"))
