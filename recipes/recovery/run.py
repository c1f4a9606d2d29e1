"""One run: a target by one method."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import kmatrix as km

from ..common import Case, Row, Run
from ..common.trials import polish, race
from .settings import CONSTRUCTION, GRADIENT, LOW_RANK, SPARSE, Settings, budget, structure
from .targets import Target, target


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Frobenius errors; only learning depends on the seed, the rest is done for the first alone."""
    method, name = case.options["method"], case.options["target"]
    made = target(name, settings.n)
    allowed = budget(name, settings.n)
    if method == GRADIENT:
        return {**learned(made.dense, case.options["class"], settings, run), "budget": allowed}
    if run.seed > 1:
        return {"error": None, "note": "does not depend on the seed"}
    if method == CONSTRUCTION:
        return {**constructed(made), "budget": allowed}
    if method == LOW_RANK:
        wanted: km.Structure = km.LowRank(allowed // (2 * settings.n))
    elif method == SPARSE:
        wanted = km.Sparse(allowed)
    else:
        wanted = structure(case.options["class"], settings.n)
    limit = 1.0 if run.dry else settings.patience
    found = km.fit(made.dense, wanted, tol=1e-12, batches=(), max_seconds=limit)
    return {
        "error": distance(made.dense, found.matrix),
        "num_params": found.matrix.num_params,
        "budget": allowed,
        "how": found.method,
    }


def learned(dense: Tensor, name: str, settings: Settings, run: Run) -> Row:
    """Random starts by Adam, the best of them by L-BFGS; nothing is known of the target but its entries."""
    wanted = structure(name, settings.n)
    # The real part of a complex matrix is taken by the loss.
    wanted = wanted.of if isinstance(wanted, km.RealPart) else wanted
    dtype = torch.complex64 if isinstance(wanted, km.FixedBPBP) else torch.float32
    generator = torch.Generator().manual_seed(run.seed)
    members = [
        wanted.random(*dense.shape, dtype=dtype, generator=generator).to(run.device)
        for _ in range(settings.trials)
    ]
    low, high = (math.log(rate) for rate in settings.rates)
    rates = torch.empty(settings.trials).uniform_(low, high, generator=generator).exp()
    raced = race(members, rates, dense, run, settings.steps_for(name), finalists=settings.finalists)
    made = [(float(rates[index]), matrix.double()) for index, _, matrix in raced]
    trial, most = (1, 0) if run.dry else (settings.trial, settings.polish)
    tried = [(polish(matrix, dense, trial), k) for k, (_, matrix) in enumerate(made)]
    rate, best = made[min(tried)[1]]
    error = polish(best, dense, most, enough=1e-10)
    return {
        "error": error * math.sqrt(dense.numel()),
        "num_params": best.num_params * (2 if dtype.is_complex else 1),
        "rate": rate,
        "how": "gradient learning from random starts",
    }


def constructed(made: Target) -> Row:
    """The K-matrix that a theorem gives: its error, and how large it is."""
    assert made.exact is not None
    row: Row = {
        "error": distance(made.dense, made.exact),
        "num_params": made.exact.num_params * (2 if made.exact.dtype.is_complex else 1),
        "how": made.theorem,
    }
    form = made.exact.structure
    if isinstance(form, km.Kaleidoscope):
        row |= {"width": form.width, "expansion": form.expansion}
    return row


def distance(dense: Tensor, matrix: km.StructuredMatrix) -> float:
    """Frobenius norm of the difference; an imaginary part of the matrix counts, too."""
    with torch.no_grad():
        return float(torch.linalg.vector_norm(dense - matrix.to_dense()))
