"""Searching hyper-parameters with optuna; machines that are given the same storage help each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import RecipeError, complaint
from .processes import Processes
from .recipe import Case, Recipe, Row

if TYPE_CHECKING:
    import optuna

Found = dict[str, Any]
"""What a search found for a case: ``params``, ``value`` and the number of ``trials``."""


def searched(
    recipe: Recipe[Any],
    settings: Any,
    case: Case,
    preset: str,
    trials: int,
    storage: str,
    run: Callable[[Any], Row],
    among: Processes,
) -> Found:
    """Make so many more trials for a case, and give the best of all in the storage.

    Args:
        recipe: with a ``search``.
        settings: of the preset.
        case: to find settings for.
        preset: a part of the study's name, ``RECIPE/PRESET/CASE``.
        trials: how many this call adds.
        storage: where optuna keeps trials, as a URL.
        run: one run of the case with given settings.
        among: the processes that run a trial together.

    Raises:
        RecipeError: if optuna is missing, no trial gave a finite score, or the row has no such entry.
    """
    optuna = _optuna()
    assert recipe.search is not None
    key, direction = recipe.objective
    study: Any = None
    if among.first:
        name = f"{recipe.name}/{preset}/{case.name}"
        study = optuna.create_study(
            storage=storage, study_name=name, direction=direction, load_if_exists=True,
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
        )  # fmt: skip
    for _ in range(trials):
        trial = study.ask() if study is not None else None
        # The others learn what was suggested once the first has asked for all of it.
        chosen = recipe.search(trial, settings, case) if trial is not None else None
        params = among.agree(dict(trial.params) if trial is not None else {})
        if chosen is None:
            chosen = recipe.search(optuna.trial.FixedTrial(params), settings, case)
        row = run(chosen)
        if key not in row:
            raise RecipeError(
                complaint(recipe.name, "--search", trials, f"runs give no {key!r}", "report this")
            )
        score = float(row[key])
        if study is not None and trial is not None:
            bad = not math.isfinite(score)
            study.tell(trial, None if bad else score, optuna.trial.TrialState.FAIL if bad else None)
    return among.agree(_best(study, case.name) if study is not None else {})


def with_params(recipe: Recipe[Any], settings: Any, case: Case, found: Found | None) -> Any:
    """The settings of a case, with what a search has found for it if there was one."""
    if found is None or recipe.search is None:
        return settings
    return recipe.search(_optuna().trial.FixedTrial(found["params"]), settings, case)


def _best(study: optuna.Study, case: str) -> Found:
    try:
        best = study.best_trial
    except ValueError:
        reason, way_out = "no trial gave a finite score", "search with more trials"
        raise RecipeError(complaint("kmatrix recipe", "--search", case, reason, way_out)) from None
    return {"params": best.params, "value": best.value, "trials": len(study.trials)}


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        reason, way_out = "optuna is missing", "pip install 'kmatrix[recipes]'"
        raise RecipeError(complaint("kmatrix recipe", "--search", "", reason, way_out)) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
