"""Every structure at several sizes for one layer: how far each is from the weight, as the layer's inputs see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kmatrix._errors import KMatrixError
from kmatrix.compress.metric import Metric
from kmatrix.compress.sizes import DEFAULT, Family, members
from kmatrix.compress.weighted import aware, blind, low_rank
from kmatrix.structures import LowRank, Monarch, Structure, StructuredMatrix

AWARE, BLIND = "activation-aware", "activation-blind"


@dataclass(frozen=True)
class Candidate:
    """One structure fitted to one layer.

    Attributes:
        structure: what it is.
        method: ``"activation-aware"`` or ``"activation-blind"``, the nearer of the two.
        error: ``tr((W - A) C (W - A)^T) / tr(W C W^T)``, the relative squared error of the outputs.
        impact: ``tr(G (W - A) C (W - A)^T)``, ``G`` of the output gradients with a diagonal of mean 1.
        blind_error: the error of the member nearest in the Frobenius norm; None where it was not made.
        num_params: numbers held.
        flops: operations for one vector.
        seconds: spent on fitting it.
        make: makes the matrix, in the number type of the weight.
    """

    structure: Structure
    method: str
    error: float
    impact: float
    blind_error: float | None
    num_params: int
    flops: int
    seconds: float
    make: Callable[[], StructuredMatrix]


def candidates(
    metric: Metric,
    families: Sequence[Family] = DEFAULT,
    *,
    dtype: torch.dtype,
    prune: bool = True,
    seed: int = 0,
    blind_too: bool = True,
    step: Callable[[str], None] | None = None,
) -> tuple[list[Candidate], list[tuple[Structure, str]]]:
    """Fit every member of the families that is smaller than dense.

    Args:
        metric: the weight, and the second moments of the inputs.
        dtype: number type of the matrices.
        families: structures, and classes whose sizes are chosen.
        prune: whether a family is left at the size from which low rank is nearer.
        seed: of the random directions of large decompositions.
        blind_too: whether low rank is fitted in the Frobenius norm as well, to show what the activations are worth.
        step: called with each structure before it is fitted.

    Returns:
        The candidates, and the structures that could not be fitted with the reason.
    """
    m, n = metric.weight.shape
    wanted = members(families, m, n)
    ranks = [s for s in wanted if isinstance(s, LowRank)]
    found: list[Candidate] = []
    failed: list[tuple[Structure, str]] = []
    if ranks:
        if step is not None:
            step("low rank")
        try:
            found += _low_rank(metric, ranks, dtype, seed, blind_too)
        except RuntimeError as error:  # a decomposition that did not converge
            failed += [(structure, f"could not be fitted: {error}") for structure in ranks]
    bound = [(c.num_params, c.impact) for c in found]
    for group in _alike([s for s in wanted if not isinstance(s, LowRank)]):
        lost = ""
        # Beyond low rank, structures gain most where they are small: from there up, until low rank is nearer.
        for structure in sorted(group, key=lambda s: s.num_params(m, n)):
            if lost:
                failed.append((structure, lost))
                continue
            if step is not None:
                step(type(structure).__name__)
            try:
                one = _one(metric, structure, dtype)
            except (KMatrixError, RuntimeError) as error:
                failed.append((structure, f"could not be fitted: {error}"))
                continue
            found.append(one)
            if prune and any(size <= one.num_params and i < one.impact for size, i in bound):
                lost = f"not fitted: low rank is nearer already where {structure} has fewer numbers"
    return found, failed


def _alike(structures: Sequence[Structure]) -> list[list[Structure]]:
    """Grouped by family and grid: members that differ in size alone."""
    groups: dict[tuple[object, ...], list[Structure]] = {}
    for structure in structures:
        alone = isinstance(structure, Monarch)  # its grid is its size
        grid = None if alone else getattr(structure, "nblocks", None)
        groups.setdefault((type(structure), grid), []).append(structure)
    return list(groups.values())


def _one(metric: Metric, structure: Structure, dtype: torch.dtype) -> Candidate:
    start = time.perf_counter()
    first = blind(metric, structure)
    matrix, method = first.to(dtype), BLIND
    with torch.no_grad():
        blind_error = metric.error(first.to_dense())
        if metric.second is not None:
            dense, nearer = first.to_dense(), aware(metric, structure, first)
            if metric.impact(nearer.to_dense()) < metric.impact(dense):
                matrix, method = nearer.to(dtype), AWARE
        dense = matrix.to_dense()
        error, impact = metric.error(dense), metric.impact(dense)
    size, flops = matrix.num_params, matrix.flops
    seconds = time.perf_counter() - start
    return Candidate(structure, method, error, impact, blind_error, size, flops, seconds, lambda: matrix)


def _low_rank(
    metric: Metric, structures: Sequence[LowRank], dtype: torch.dtype, seed: int, blind_too: bool
) -> list[Candidate]:
    """All ranks from one decomposition: the factors of a smaller rank are the beginning of those of a larger one."""
    start = time.perf_counter()
    m, n = metric.weight.shape
    most = max(s.rank for s in structures)
    generator = torch.Generator().manual_seed(seed)
    left, right = metric.low_rank(most, generator)
    errors = _errors(metric, left, right)
    impacts = errors * metric.energy if metric.outer is None else _impacts(metric, left, right)
    unseen = errors
    if metric.second is not None:
        unseen = _errors(metric, *metric.blind().low_rank(most, generator)) if blind_too else torch.tensor([])
    left, right = left.to(dtype), right.to(dtype)
    each = (time.perf_counter() - start) / len(structures)
    method = BLIND if metric.second is None else AWARE
    made = []
    for structure in structures:
        r = min(structure.rank, len(errors) - 1)
        error, impact = float(errors[r]), float(impacts[r])
        blind_error = float(unseen[r]) if len(unseen) else None
        size, flops = structure.num_params(m, n), structure.flops(m, n)
        make = partial(low_rank, (m, n), structure, left, right)
        made.append(Candidate(structure, method, error, impact, blind_error, size, flops, each, make))
    return made


def low_rank_factors(metric: Metric, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """``L``, ``B`` and the relative errors of ``L_r B_r`` for every ``r`` from 0 to a rank."""
    left, right = metric.low_rank(rank, torch.Generator().manual_seed(seed))
    return left, right, _errors(metric, left, right)


def _errors(metric: Metric, left: Tensor, right: Tensor) -> Tensor:
    """The relative error of ``L_r B_r`` for every ``r`` from 0."""
    gaps = _gaps(metric.weight, metric.second, metric.energy, left, right)
    return gaps / metric.energy if metric.energy > 0 else gaps


def _impacts(metric: Metric, left: Tensor, right: Tensor) -> Tensor:
    """The impact of ``L_r B_r`` for every ``r`` from 0."""
    outer = metric.outer
    assert outer is not None
    weighed = outer.unsqueeze(-1) * left if outer.ndim == 1 else outer @ left
    return _gaps(
        metric.weight, metric.second, metric.impact(torch.zeros_like(metric.weight)), left, right, weighed
    )


def _gaps(
    weight: Tensor,
    second: Tensor | None,
    whole: float,
    left: Tensor,
    right: Tensor,
    weighed: Tensor | None = None,
) -> Tensor:
    """``tr(G (W - A_r) C (W - A_r)^T)`` of ``A_r = L_r B_r`` for every ``r``, from ``G L`` and the value for ``A = 0``.

    It is ``whole - 2 sum_i X_ii + sum_ij Y_ij`` over ``i, j < r``, with ``X = L^T G W C B^T`` and
    ``Y = (L^T G L) * (B C B^T)``: running sums.
    """
    weighed = left if weighed is None else weighed
    through = right if second is None else right @ second
    crossed = ((weighed.mT @ weight) * through).sum(1, dtype=torch.float64).cumsum(0)
    squared = ((weighed.mT @ left) * (through @ right.mT)).double().cumsum(0).cumsum(1).diagonal()
    gaps = whole - 2 * crossed + squared
    return torch.cat([gaps.new_full((1,), whole), gaps]).clamp_min(0)
