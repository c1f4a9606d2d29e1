"""The norm in which a layer's error counts, and low rank in it: one decomposition for all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

WIDE_UP_TO = 2048
"""Sides up to which decompositions are in float64; beyond, float32 halves time and memory."""
RANDOMISED_FROM, OVERSAMPLING, POWER_STEPS = 1024, 32, 2
"""Smaller side from which few leading directions come from random ones, how many more, and how often multiplied."""


@dataclass(frozen=True)
class Metric:
    """The weight of a layer and the second moments of its inputs.

    Attributes:
        weight: ``(m, n)``, float64 or, for large layers, float32.
        second: ``(n, n)`` of the same type, or ``None`` for the identity (no calibration: the Frobenius norm).
        ridge: what is added to the diagonal of ``second`` in equations that are solved, as a share of its mean.
    """

    weight: Tensor
    second: Tensor | None
    ridge: float = 1e-3

    @classmethod
    def of(cls, weight: Tensor, second: Tensor | None, *, ridge: float = 1e-3) -> Metric:
        """In the number type that suits the size."""
        dtype = torch.float64 if max(weight.shape) <= WIDE_UP_TO else torch.float32
        wide = weight.detach().to(dtype)
        return cls(wide, None if second is None else second.to(dtype), ridge)

    def blind(self) -> Metric:
        """The same weight in the Frobenius norm."""
        return Metric(self.weight, None, self.ridge)

    def energy_of(self, gap: Tensor) -> float:
        """``tr(E C E^T)`` of an ``(m, n)`` matrix ``E``."""
        through = gap if self.second is None else gap @ self.second
        return max(float((through * gap).sum(dtype=torch.float64)), 0.0)

    @cached_property
    def energy(self) -> float:
        """``tr(W C W^T)``: the mean squared norm of the outputs."""
        return self.energy_of(self.weight)

    def error(self, approximation: Tensor) -> float:
        """``tr((W - A) C (W - A)^T) / tr(W C W^T)``; 0 or infinite if ``W C W^T`` is 0."""
        gap = self.energy_of(self.weight - approximation.to(self.weight))
        if self.energy > 0:
            return gap / self.energy
        return 0.0 if gap == 0 else float("inf")

    @cached_property
    def regular(self) -> Tensor | None:
        """The second moments with the ridge, positive definite."""
        if self.second is None:
            return None
        mean = float(self.second.diagonal().mean())
        # Inputs that are all zero leave any matrix free to take their place.
        eye = torch.eye(self.second.shape[0], dtype=self.second.dtype, device=self.second.device)
        return self.second + (self.ridge * mean if mean > 0 else 1.0) * eye

    def leading(self, rank: int, generator: torch.Generator) -> Tensor:
        """An orthonormal basis ``(m, rank)``, most important direction first.

        With ``U_r`` the leading left singular vectors of ``W C^(1/2)``, the nearest matrix of rank ``r`` is
        ``U_r U_r^T W`` for every ``r``: it needs no inverse of ``C^(1/2)``, so inputs may be dead or dependent.
        """
        m, n = self.weight.shape
        small = min(m, n)
        if small >= RANDOMISED_FROM and 2 * (rank + OVERSAMPLING) <= small:
            return self._leading_randomised(rank, generator)
        through = self.weight if self.second is None else self.weight @ self.second
        if m <= n:
            return _eigenvectors(through @ self.weight.mT)[:, :rank]
        # A tall weight: the eigenvectors of the smaller Gram matrix of W S, with S S^T = C.
        rooted = self.weight if self.second is None else self.weight @ root(self.second)
        vectors = _eigenvectors(rooted.mT @ rooted)
        # QR keeps the order, and completes the basis where singular values vanish.
        return _orthonormal(rooted @ vectors[:, :rank])

    def _leading_randomised(self, rank: int, generator: torch.Generator) -> Tensor:
        """Subspace iteration with ``W C W^T`` from random directions, then an exact decomposition inside.

        Reference: Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.3.
        """
        m = self.weight.shape[0]
        draws = torch.randn(m, rank + OVERSAMPLING, generator=generator, dtype=torch.float32)
        basis = draws.to(self.weight)
        for _ in range(POWER_STEPS):
            basis = _orthonormal(self._squared(basis))
        return basis @ _eigenvectors(basis.mT @ self._squared(basis))[:, :rank]

    def _squared(self, basis: Tensor) -> Tensor:
        right = self.weight.mT @ basis
        return self.weight @ (right if self.second is None else self.second @ right)


def root(second: Tensor) -> Tensor:
    """``S`` with ``S S^T = C`` for a positive semidefinite ``C``; negative eigenvalues, rounding, count as zero."""
    values, vectors = torch.linalg.eigh(second)
    scaled: Tensor = vectors * values.clamp_min(0).sqrt()
    return scaled


def _eigenvectors(matrix: Tensor) -> Tensor:
    """Of a matrix symmetric up to rounding, those of the largest eigenvalues first."""
    vectors: Tensor = torch.linalg.eigh(0.5 * (matrix + matrix.mT)).eigenvectors
    return vectors.flip(-1)


def _orthonormal(matrix: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis
