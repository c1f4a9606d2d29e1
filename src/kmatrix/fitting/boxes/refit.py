"""The vectors of boxes that stay where they are: alternating least squares over one side of all boxes at once."""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix.fitting.boxes.terms import Terms, masks

PROXIMAL = 1e-10
"""Weight of the distance to the old numbers, relative: keeps equations solvable where boxes say the same."""
GAIN = 1e-3
"""A round that lowers the squared error by less than this share is the last."""


def refit(dense: Tensor, terms: Terms, rounds: int, *, gain: float = GAIN) -> Terms:
    """Alternating least squares: all left vectors given the right ones, then the other way round.

    Args:
        dense: the target ``(m, n)``.
        terms: the boxes; not changed.
        rounds: most rounds.
        gain: a round that lowers the squared error by less than this share is the last.
    """
    if not len(terms):
        return terms
    m, n = dense.shape
    on_rows, on_cols = masks(terms.rows, m), masks(terms.cols, n)
    left, right = balanced(terms.left, terms.right)
    before = float("inf")
    for _ in range(rounds):
        left = _side(dense, left, right, on_rows)
        right = _side(dense.mT, right, left, on_cols)
        left, right = balanced(left, right)
        error = float(torch.linalg.vector_norm(dense - left.mT @ right).square())
        if not error < before * (1 - gain):
            break
        before = error
    return Terms(terms.rows, terms.cols, left, right)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same products, the norm of each shared evenly between its two vectors."""
    ours, theirs = (torch.linalg.vector_norm(t, dim=1, keepdim=True) for t in (left, right))
    share = (theirs / ours).sqrt()
    share = torch.where(torch.isfinite(share) & (share > 0), share, 1.0)
    return left * share, right / share


def _side(dense: Tensor, old: Tensor, other: Tensor, inside: Tensor) -> Tensor:
    """Least squares for the entries of one side, row by row of ``dense``: each row has the boxes that meet it.

    Rows between two edges meet the same boxes and share their equations.
    """
    gram = other.conj() @ other.mT
    wanted = other.conj() @ dense.mT
    new = torch.zeros_like(old)
    patterns, group = torch.unique_consecutive(inside.mT, dim=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        active = torch.nonzero(pattern).squeeze(-1)
        if not len(active):
            continue
        here = torch.nonzero(group == k).squeeze(-1)
        equations = gram[active][:, active]
        weight = PROXIMAL * equations.diagonal().real.mean().clamp_min(torch.finfo(torch.float64).tiny)
        equations.diagonal().add_(weight)
        places = (active.unsqueeze(1), here)
        factor, info = torch.linalg.cholesky_ex(equations)
        right_side = wanted[places] + weight * old[places]
        new[places] = (
            torch.cholesky_solve(right_side, factor)
            if not int(info)
            else torch.linalg.lstsq(equations, right_side).solution
        )
    return new
