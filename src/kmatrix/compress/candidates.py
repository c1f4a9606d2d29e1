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
from kmatrix.structures import LowRank, Structure, StructuredMatrix

AWARE, BLIND = "activation-aware", "activation-blind"


@dataclass(frozen=True)
class Candidate:
    """One structure fitted to one layer.

    Attributes:
        structure: what it is.
        method: ``"activation-aware"`` or ``"activation-blind"``, the nearer of the two.
        error: ``tr((W - A) C (W - A)^T) / tr(W C W^T)``, the relative squared error of the outputs.
        blind_error: the same of the member nearest in the Frobenius norm; None where it was not made.
        num_params: numbers held.
        flops: operations for one vector.
        seconds: spent on fitting it.
        make: makes the matrix, in the number type of the weight.
    """

    structure: Structure
    method: str
    error: float
    blind_error: float | None
    num_params: int
    flops: int
    seconds: float
    make: Callable[[], StructuredMatrix]


def candidates(
    metric: Metric,
    *,
    dtype: torch.dtype,
    families: Sequence[Family] | None = None,
    seed: int = 0,
    blind_too: bool = True,
    step: Callable[[str], None] | None = None,
) -> tuple[list[Candidate], list[tuple[Structure, str]]]:
    """Fit every member of the families that is smaller than dense.

    Args:
        metric: the weight, and the second moments of the inputs.
        dtype: number type of the matrices.
        families: structures, and classes whose sizes are chosen; the default ones if not given.
        seed: of the random directions of large decompositions.
        blind_too: whether low rank is fitted in the Frobenius norm as well, to show what the activations are worth.
        step: called with each structure before it is fitted.

    Returns:
        The candidates, and the structures that could not be fitted with the reason.
    """
    m, n = metric.weight.shape
    wanted = members(DEFAULT if families is None else families, m, n)
    ranks = [s for s in wanted if isinstance(s, LowRank)]
    found: list[Candidate] = []
    failed: list[tuple[Structure, str]] = []
    if ranks:
        if step is not None:
            step("low rank")
        found += _low_rank(metric, ranks, dtype, seed, blind_too)
    for structure in wanted:
        if isinstance(structure, LowRank):
            continue
        if step is not None:
            step(type(structure).__name__)
        try:
            found.append(_one(metric, structure, dtype))
        except (KMatrixError, RuntimeError) as error:
            failed.append((structure, str(error)))
    return found, failed


def _one(metric: Metric, structure: Structure, dtype: torch.dtype) -> Candidate:
    start = time.perf_counter()
    first = blind(metric, structure)
    with torch.no_grad():
        blind_error = metric.error(first.to_dense())
        matrix = aware(metric, structure, first).to(dtype)
        error = metric.error(matrix.to_dense())
    method = AWARE if metric.second is not None and error < blind_error else BLIND
    return Candidate(
        structure,
        method,
        min(error, blind_error) if method == BLIND else error,
        blind_error,
        matrix.num_params,
        matrix.flops,
        time.perf_counter() - start,
        lambda: matrix,
    )


def _low_rank(
    metric: Metric, structures: Sequence[LowRank], dtype: torch.dtype, seed: int, blind_too: bool
) -> list[Candidate]:
    """All ranks from one decomposition: the basis of a smaller rank is the beginning of that of a larger one."""
    start = time.perf_counter()
    m, n = metric.weight.shape
    most = max(s.rank for s in structures)
    generator = torch.Generator().manual_seed(seed)
    basis, reduced, errors = _truncations(metric, metric, most, generator)
    unseen: Tensor | None = None
    if metric.second is not None and blind_too:
        _, _, unseen = _truncations(metric.blind(), metric, most, generator)
    basis, reduced = basis.to(dtype), reduced.to(dtype)
    each = (time.perf_counter() - start) / len(structures)
    made = []
    for structure in structures:
        r = structure.rank
        blind_error = float(errors[r]) if metric.second is None else None
        if unseen is not None:
            blind_error = float(unseen[r])
        make = partial(low_rank, (m, n), structure, basis, reduced)
        method = BLIND if metric.second is None else AWARE
        size, flops = structure.num_params(m, n), structure.flops(m, n)
        made.append(Candidate(structure, method, float(errors[r]), blind_error, size, flops, each, make))
    return made


def _truncations(
    through: Metric, judge: Metric, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A basis ``U`` that is best for one metric, ``U^T W``, and the errors of ``U_r U_r^T W`` for another, by ``r``.

    With ``D = W - U_r U_r^T W`` the error is ``tr(M) - 2 tr(U_r^T M U_r) + tr(U_r^T M U_r)``, ``M = W C W^T``, as
    long as ``U`` is orthonormal: what is kept is a running sum over columns.
    """
    basis = through.leading(most, generator)
    reduced = basis.mT @ judge.weight
    kept = reduced if judge.second is None else reduced @ judge.second
    each = (kept * reduced).sum(1, dtype=torch.float64)
    total = judge.energy
    left = (total - torch.cat([each.new_zeros(1), each.cumsum(0)])).clamp_min(0)
    errors = left / total if total > 0 else torch.zeros_like(left)
    return basis, reduced, errors
