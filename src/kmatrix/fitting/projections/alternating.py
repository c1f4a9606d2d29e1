"""Fitting by alternation where no closed form exists: Kronecker sums with padded tiles, and sums of structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kmatrix.fitting.projections.truncation import truncate
from kmatrix.structures import Structure, StructuredMatrix

SMALLEST_GAIN = 1e-7
"""Alternation ends when a round lowers the error by less than this share of it."""
TRIAL_SHARE = 10
"""Every start gets one round in this many of the budget; the best of them gets the rest."""


def kronecker_factors(
    dense: Tensor, left_shape: tuple[int, int], right_shape: tuple[int, int], rank: int
) -> tuple[Tensor, Tensor]:
    """The factors ``(m1, n1, rank)`` and ``(rank, m2, n2)`` of the nearest Kronecker sum.

    With the tiles of the matrix as rows, a Kronecker sum is a matrix of rank at most ``rank``. Entries of
    tiles that lie outside the matrix are free, which leaves a low-rank problem with missing entries.
    """
    (m1, n1), (m2, n2) = left_shape, right_shape
    m, n = dense.shape

    def as_rows(matrix: Tensor) -> Tensor:
        padded = nn.functional.pad(matrix, (0, n1 * n2 - n, 0, m1 * m2 - m))
        return padded.reshape(m1, m2, n1, n2).transpose(1, 2).reshape(m1 * n1, m2 * n2)

    tall = as_rows(dense)
    left, right = (part[0] for part in truncate(tall.unsqueeze(0), rank))
    if (m1 * m2, n1 * n2) != (m, n):
        inside = as_rows(torch.ones_like(dense, dtype=torch.float64))
        complete = inside.all(1)
        starts = [right, truncate(tall[complete].unsqueeze(0), rank)[1][0]]
        scale = largest(dense)
        ends = [_fill_in(tall / scale, inside, start / scale**0.5) for start in starts]
        _, left, right = min(ends, key=lambda end: end[0])
        left, right = left * scale**0.5, right * scale**0.5
    return left.reshape(m1, n1, rank), right.reshape(rank, m2, n2)


def largest(matrix: Tensor) -> float:
    """Largest modulus of an entry, or 1 if all are zero: divided by it, squares neither overflow nor vanish."""
    return float(matrix.abs().amax()) or 1.0


def _fill_in(data: Tensor, inside: Tensor, right: Tensor, rounds: int = 200) -> tuple[float, Tensor, Tensor]:
    """Alternating least squares for ``left @ right`` near the entries of ``data`` where ``inside`` is one.

    ``data`` is zero elsewhere. Returns the error and the two factors.
    """
    best = (float("inf"), data, right)
    for _ in range(rounds):
        # Orthonormal factors keep the normal equations as well conditioned as the mask allows.
        right = torch.linalg.qr(right.mH).Q.mH if right.shape[0] <= right.shape[1] else right
        left = _rows_least_squares(data, inside, right)
        error = float(torch.linalg.vector_norm(data - inside * (left @ right)))
        gained = error < best[0] * (1 - SMALLEST_GAIN)
        if error < best[0]:
            best = error, left, right
        if not gained:
            break
        basis = torch.linalg.qr(left).Q if left.shape[0] >= left.shape[1] else left
        right = _rows_least_squares(data.mT, inside.mT, basis.mT).mT
    error, left, right = best
    norms = torch.linalg.vector_norm(left, dim=0).sqrt().clamp_min(1e-150)
    return error, left / norms, right * norms.unsqueeze(-1)


def _rows_least_squares(data: Tensor, inside: Tensor, basis: Tensor) -> Tensor:
    """The coefficients with which every row of ``data`` is nearest to the rows of ``basis``, over entries inside."""
    pairs = basis.conj().unsqueeze(1) * basis
    gram = torch.einsum("pq,stq->pst", inside.to(basis.dtype), pairs)
    projected = (data @ basis.mH).unsqueeze(-1)
    # Rows with fewer entries than the rank have singular equations, whose rounding must not be inverted.
    coefficients: Tensor = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ projected
    return coefficients.squeeze(-1)


def alternate_sum(
    dense: Tensor,
    terms: Sequence[Structure],
    onto: Callable[[Structure, Tensor], StructuredMatrix],
    *,
    rounds: int,
) -> list[StructuredMatrix]:
    """Members of the terms whose sum is near ``dense``: each in turn projected from what the others leave.

    Args:
        dense: the target, float64 or complex128.
        terms: the structures.
        onto: the projection.
        rounds: most times that every term is updated, from each of the starts (one per term to go first).
    """
    zeros = [torch.zeros_like(dense) for _ in terms]
    trial = max(1, rounds // TRIAL_SHARE)
    ends = [_alternate(dense, terms, first, onto, zeros, trial) for first in range(len(terms))]
    best = min(range(len(ends)), key=lambda first: ends[first][0])
    _, values, members = ends[best]
    if rounds > trial:
        _, _, members = _alternate(dense, terms, best, onto, values, rounds - trial)
    return members


def _alternate(
    dense: Tensor,
    terms: Sequence[Structure],
    first: int,
    onto: Callable[[Structure, Tensor], StructuredMatrix],
    values: Sequence[Tensor],
    rounds: int,
) -> tuple[float, list[Tensor], list[StructuredMatrix]]:
    """Update the terms in cyclic order from the given values; returns the error, the values and the members."""
    values = list(values)
    members: dict[int, StructuredMatrix] = {}
    rest = dense - torch.stack(values).sum(0)
    error, scale = float("inf"), largest(dense)
    for _ in range(rounds):
        before = error
        for k in [*range(first, len(terms)), *range(first)]:
            rest = rest + values[k]
            members[k] = onto(terms[k], rest)
            with torch.no_grad():
                values[k] = members[k].to_dense()
            rest = rest - values[k]
        error = float(torch.linalg.vector_norm(rest / scale))
        if not error < before * (1 - SMALLEST_GAIN):
            break
    return error, values, [members[k] for k in range(len(terms))]
