"""A sum of rank-one boxes while it is being fitted: the vectors at full length, zero outside their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Terms:
    """``sum_k left_k right_k^T``, the vectors zero outside cyclic intervals ``start, ..., start + width - 1``.

    Attributes:
        rows: first row and height of each box, ``(K, 2)`` int64.
        cols: first column and width of each box, ``(K, 2)`` int64.
        left: ``(K, m)``.
        right: ``(K, n)``.
    """

    rows: Tensor
    cols: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def full(cls, left: Tensor, right: Tensor) -> Terms:
        """Boxes that are the whole matrix: ``left (K, m)``, ``right (K, n)``."""
        k, (m, n) = len(left), (left.shape[1], right.shape[1])
        whole = torch.tensor([[0, m], [0, n]])
        return cls(whole[0].repeat(k, 1), whole[1].repeat(k, 1), left, right)

    @classmethod
    def none(cls, dense: Tensor) -> Terms:
        """No boxes in a matrix of this shape and number type."""
        nowhere = torch.zeros(0, 2, dtype=torch.int64)
        return cls(nowhere, nowhere, dense.new_zeros(0, dense.shape[0]), dense.new_zeros(0, dense.shape[1]))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cost(self) -> int:
        """Sum of all widths."""
        return int(self.rows[:, 1].sum() + self.cols[:, 1].sum())

    @property
    def dense(self) -> Tensor:
        """The ``(m, n)`` matrix."""
        return self.left.mT @ self.right

    @property
    def energies(self) -> Tensor:
        """Squared Frobenius norm of each term."""
        norms = torch.linalg.vector_norm(self.left, dim=1) * torch.linalg.vector_norm(self.right, dim=1)
        squares: Tensor = norms.square()
        return squares

    @property
    def amplitude(self) -> float:
        """Frobenius norm of the terms as if they were orthogonal; far above that of their sum where they cancel."""
        return float(self.energies.sum().sqrt())

    def copy(self) -> Terms:
        """One whose tensors may be changed."""
        return Terms(self.rows.clone(), self.cols.clone(), self.left.clone(), self.right.clone())

    def take(self, which: Tensor) -> Terms:
        """Some of the terms, by index or mask."""
        return Terms(self.rows[which], self.cols[which], self.left[which], self.right[which])

    def alive(self) -> Terms:
        """Without terms that have an empty side."""
        living = (self.rows[:, 1] > 0) & (self.cols[:, 1] > 0)
        return self if bool(living.all()) else self.take(living)

    def and_also(self, other: Terms) -> Terms:
        """The terms of both."""
        parts = ((getattr(self, name), getattr(other, name)) for name in ("rows", "cols", "left", "right"))
        return Terms(*(torch.cat(pair) for pair in parts))


def masks(intervals: Tensor, n: int) -> Tensor:
    """``(K, n)``, true inside each cyclic interval ``(start, width)``."""
    places = torch.arange(n)
    return (places - intervals[:, :1]) % n < intervals[:, 1:]
