"""One run: a target of a size learned by gradient, fitted, or approximated."""

from __future__ import annotations

import math
from itertools import count

import torch
from torch import Tensor

import kmatrix as km

from ..common import Case, Row, Run
from ..common.trials import polish, race
from . import baselines
from .models import Init, hardened, name_of, random_member
from .settings import BASELINES, GRADIENT, SUCCESS, WIDE, Settings
from .targets import rmse, target

_ENTRIES = 1 << 21  # of all trials that run side by side
_SMALL = 64  # what has no optimisation steps is tried at this size in a dry run


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Errors as RMSE over entries; only learning depends on the seed, the rest is done for the first alone."""
    name, n, method = (case.options[key] for key in ("target", "n", "method"))
    if method == GRADIENT:
        return learned(settings, name, n, run)
    if run.seed > 1:
        return {"rmse": None, "note": "does not depend on the seed"}
    dense = target(name, min(n, _SMALL) if run.dry else n)
    if method == BASELINES:
        return approximated(dense, settings)
    return fitted(dense, settings)


def learned(settings: Settings, name: str, n: int, run: Run) -> Row:
    """Batches of trials until one is below the paper's 1e-4 or all are used up; the best of them."""
    dense = target(name, n)
    generator = torch.Generator().manual_seed(run.seed)
    steps = settings.steps[name_of(name) == "BPBP"]
    most = settings.trials(name, n)
    best: Row = {"rmse": math.inf}
    tried = 0
    for batch in count():
        together = max(2, min(settings.together, most - tried, _ENTRIES // n**2))
        init, tied = _turns(settings, batch)
        members = [
            random_member(name, n, init=init, tied_logits=tied, generator=generator, device=run.device)
            for _ in range(together)
        ]
        low, high = (math.log(rate) for rate in settings.rates)
        rates = torch.empty(together).uniform_(low, high, generator=generator).exp()
        raced = race(
            members, rates, dense, run, steps, finalists=settings.finalists, title=f"batch {batch + 1}"
        )
        tried += together
        polished = finished([matrix for _, _, matrix in raced], dense, settings, run)
        if polished[0] < best["rmse"]:
            error, which, matrix = polished
            index, relaxed, _ = raced[which]
            best = {
                "rmse": error, "relaxed_rmse": relaxed, "rate": float(rates[index]), "init": init,
                "tied_logits": tied, "num_params": 2 * matrix.num_params,
            }  # fmt: skip
        if best["rmse"] < SUCCESS or tried >= most or run.dry:
            break
    return {**best, "trials": tried, "model": name_of(name), "success": best["rmse"] < SUCCESS}


def _turns(settings: Settings, batch: int) -> tuple[Init, bool]:
    """Tied logits first, where both are tried; the start changes every other batch."""
    tied = batch % 2 == 0 if settings.logits == "both" else settings.logits == "tied"
    orthogonal = batch // 2 % 2 == 0 if settings.init == "both" else settings.init == "orthogonal"
    return ("orthogonal" if orthogonal else "normal"), tied


def finished(
    matrices: list[km.StructuredMatrix], dense: Tensor, settings: Settings, run: Run
) -> tuple[float, int, km.StructuredMatrix]:
    """Round the permutations, polish each a little and the best to the end: its error, which it is, and itself."""
    steps = 1 if run.dry else settings.trial
    made = [hardened(matrix).double() for matrix in matrices]
    errors = []
    for matrix in made:
        errors.append(polish(matrix, dense, steps, enough=settings.enough))
        if errors[-1] < SUCCESS:
            break
    which = min(range(len(errors)), key=errors.__getitem__)
    error = errors[which]
    if not run.dry:
        error = polish(made[which], dense, settings.polish, enough=settings.enough)
    return error, which, made[which]


def fitted(dense: Tensor, settings: Settings) -> Row:
    """``km.fit``; where it finds nothing fast, the best family with as many parameters as the budget, too."""
    found = km.fit(dense, tol=settings.tol, batches=())
    scale = rmse(dense, torch.zeros_like(dense))
    allowed = baselines.budget(len(dense))
    row: Row = {
        "rmse": found.relative_error * scale,
        "num_params": found.matrix.num_params,
        "budget": allowed,
        "family": found.method.split(":")[0],
        "fast": found.matrix.num_params <= WIDE * allowed and found.method != "dense",
    }
    if not row["fast"]:
        tried = km.compare(dense, budgets=(allowed / dense.numel(),))
        known = [a for a in tried if a.relative_error is not None]
        near = min(known, key=lambda a: a.relative_error or 0.0)
        row["within"] = {
            "rmse": (near.relative_error or 0.0) * scale, "num_params": near.num_params, "family": near.family
        }  # fmt: skip
    return row


def approximated(dense: Tensor, settings: Settings) -> Row:
    """The three baselines at the budget of a butterfly; ``rmse`` is that of the best."""
    allowed = baselines.budget(len(dense))
    both, rank = baselines.sparse_plus_low_rank(dense, allowed, settings.alternations)
    row: Row = {
        "sparse": baselines.sparse(dense, allowed),
        "low_rank": baselines.low_rank(dense, allowed),
        "sparse_low_rank": both,
        "rank": rank,
        "budget": allowed,
    }
    return {**row, "rmse": min(row["sparse"], row["low_rank"], both)}
