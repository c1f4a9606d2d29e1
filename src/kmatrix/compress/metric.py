"""The norm in which a layer's error counts, and low rank in it: one decomposition for all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

WIDE_UP_TO = 2048
"""Sides up to which decompositions are in float64; beyond, float32 halves time and memory."""
OUTER_RIDGE = 1e-2
"""What is added to the diagonal of ``G``, as a share of its mean: no output is taken to matter not at all."""
RANDOMISED_FROM, OVERSAMPLING, POWER_STEPS = 1024, 32, 2
"""Smaller side from which few leading directions come from random ones, how many more, and how often multiplied."""


@dataclass(frozen=True)
class Metric:
    """The weight of a layer, the second moments of its inputs, and those of the gradients of its outputs.

    Attributes:
        weight: ``(m, n)``, float64 or, for large layers, float32.
        second: ``(n, n)`` of the same type, or ``None`` for the identity (no calibration: the Frobenius norm).
        outer: ``(m, m)``, or its diagonal ``(m,)``: how much each direction of the output matters; ``None`` for all
            alike. Scaled to mean 1 on the diagonal, and made positive definite.
        ridge: what is added to the diagonal of ``second`` in equations that are solved, as a share of its mean.
    """

    weight: Tensor
    second: Tensor | None
    outer: Tensor | None = None
    ridge: float = 1e-3

    @classmethod
    def of(
        cls, weight: Tensor, second: Tensor | None, outer: Tensor | None = None, *, ridge: float = 1e-3
    ) -> Metric:
        """In the number type that suits the size."""
        dtype = torch.float64 if max(weight.shape) <= WIDE_UP_TO else torch.float32
        wide = weight.detach().to(dtype)
        if outer is not None:
            outer = _scaled(outer.to(dtype))
        return cls(wide, None if second is None else second.to(dtype), outer, ridge)

    def blind(self) -> Metric:
        """The same weight in the Frobenius norm."""
        return Metric(self.weight, None, None, self.ridge)

    def by_rows(self) -> tuple[Metric, Tensor | None]:
        """The metric of ``D W``, ``D`` diagonal, that comes nearest to this one, and ``D``: rows by how they matter."""
        if self.outer is None:
            return self, None
        diagonal = self.outer if self.outer.ndim == 1 else self.outer.diagonal()
        root_of_rows = diagonal.sqrt().unsqueeze(-1)
        return Metric(self.weight * root_of_rows, self.second, None, self.ridge), root_of_rows

    def impact(self, approximation: Tensor) -> float:
        """``tr(G (W - A) C (W - A)^T)``; that of ``error`` times ``energy`` where all outputs matter alike."""
        gap = self.weight - approximation.to(self.weight)
        if self.outer is None:
            return self.energy_of(gap)
        through = gap if self.second is None else gap @ self.second
        weighed = self.outer.unsqueeze(-1) * gap if self.outer.ndim == 1 else self.outer @ gap
        return max(float((through * weighed).sum(dtype=torch.float64)), 0.0)

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

    def low_rank(self, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``L (m, rank)`` and ``B (rank, n)`` such that ``L_r B_r`` is nearest of rank ``r`` for every ``r``.

        With ``U_r`` the leading left singular vectors of ``R W C^(1/2)`` and ``R R = G``, the nearest matrix of rank
        ``r`` is ``R^-1 U_r U_r^T R W``: it needs no inverse of ``C^(1/2)``, so inputs may be dead or dependent.
        """
        if self.outer is None:
            basis = self._leading(rank, generator)
            return basis, basis.mT @ self.weight
        if self.outer.ndim == 1:
            scale = self.outer.sqrt().unsqueeze(-1)
            basis = Metric(self.weight * scale, self.second)._leading(rank, generator)
            return basis / scale, (basis * scale).mT @ self.weight
        values, vectors = torch.linalg.eigh(self.outer)
        scales = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
        # In the eigenvectors of G the root is a scaling.
        turned = scales.unsqueeze(-1) * (vectors.mT @ self.weight)
        basis = Metric(turned, self.second)._leading(rank, generator)
        return vectors @ (basis / scales.unsqueeze(-1)), basis.mT @ turned

    def _leading(self, rank: int, generator: torch.Generator) -> Tensor:
        """Leading left singular vectors of ``W C^(1/2)``, an orthonormal ``(m, rank)``."""
        m, n = self.weight.shape
        small = min(m, n)
        rank = min(rank, small)
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


def _scaled(outer: Tensor) -> Tensor:
    """With a diagonal of mean 1 and a ridge; all ones where no gradient arrived."""
    diagonal = outer if outer.ndim == 1 else outer.diagonal()
    mean = diagonal.mean()
    if not float(mean) > 0:
        return torch.ones_like(diagonal)
    scaled = outer / mean
    ridge = OUTER_RIDGE if outer.ndim == 1 else OUTER_RIDGE * torch.eye(len(outer)).to(outer)
    whole: Tensor = scaled + ridge
    return whole
