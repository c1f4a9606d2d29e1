"""Searching hyper-parameters with optuna; machines that are given the same storage help each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from .errors import RecipeError, complaint
from .processes import Processes
from .recipe import Case, Recipe, Row
from .results import digest

NOT_FINITE, DEFAULT, SETTINGS = "not finite", "default", "settings"
REPEATS = 50
"""So many suggestions in a row that were tried before end a search: there is nothing left to try."""
Found = dict[str, Any]
"""What a search found for a case: ``params``, None where those of the preset are the best, their ``value``, that of the
``default`` ones, and the number of ``trials``.
"""


def searched(
    recipe: Recipe[Any],
    settings: Any,
    case: Case,
    preset: str,
    trials: int,
    storage: str | Path,
    run: Callable[[Any], Row],
    among: Processes,
) -> Found | None:
    """Make trials for a case until there are so many in the storage; the best, None where there is nothing to search.

    Settings that were tried, those of the preset among them, are not tried again: of a grid every point is tried once.

    Args:
        recipe: with a ``search``.
        settings: of the preset.
        case: to find settings for.
        preset: a part of the study's name.
        trials: how many there shall be, with those that are there, by this machine or others.
        storage: where optuna keeps trials, a URL or a file; the study is ``RECIPE/PRESET/CASE`` and a digest of the
            settings.
        run: one run of the case with given settings.
        among: the processes that run a trial together.

    Raises:
        RecipeError: if optuna is missing.
    """
    optuna = _optuna()
    assert recipe.search is not None
    alone = Processes() if recipe.dealt else among  # where runs are dealt, so are trials
    if not among.agree(_searches(recipe, settings, case)):
        return None
    # A new file is made once a run went through: one that lacks its data leaves nothing behind.
    new = isinstance(storage, Path) and alone.agree(not storage.exists())
    own = float(run(settings)[recipe.objective[0]]) if new else None
    if isinstance(storage, Path):
        storage.parent.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{storage}"
    study = None
    # Trials of other settings say nothing about these.
    name = f"{recipe.name}/{preset}/{case.name}/{digest(settings, case, 0)}"
    for turn in range(among.world):  # one after the other: the first makes the tables of a new storage
        if alone.first and turn == among.rank:
            study = optuna.create_study(
                storage=storage, study_name=name, direction=recipe.objective[1], load_if_exists=True,
                sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
            )  # fmt: skip
        among.wait()
    if alone.agree(study.user_attrs.get(DEFAULT) if study is not None else None) is None:
        default = float(run(settings)[recipe.objective[0]]) if own is None else own
        if study is not None:
            study.set_user_attr(DEFAULT, default)
    repeats = 0
    while repeats < REPEATS and alone.agree(study is None or _scored(study) < trials):
        outcome = _try(recipe, settings, case, study, run, alone)
        if outcome == "nothing":
            break
        repeats = repeats + 1 if outcome == "known" else 0
    among.wait()
    return among.agree(_best(study, case.name) if among.first else {})


def _try(
    recipe: Recipe[Any], settings: Any, case: Case, study: Any, run: Callable[[Any], Row], among: Processes
) -> Literal["new", "known", "nothing"]:
    """One trial, unless its settings were tried before, or the case has nothing to search."""
    optuna = _optuna()
    assert recipe.search is not None
    trial = study.ask() if study is not None else None
    chosen = recipe.search(trial, settings, case) if trial is not None else None
    # The others learn what was suggested once the first has asked for all of it.
    params = among.agree(dict(trial.params) if trial is not None else {})
    if chosen is None:
        chosen = recipe.search(optuna.trial.FixedTrial(params), settings, case)
    failed = optuna.trial.TrialState.FAIL
    mark = digest(chosen, case, 0)
    known = among.agree(mark == digest(settings, case, 0) or _tried(study, mark) if params else True)
    if known:
        if study is not None:
            study.tell(trial, state=failed)
        return "known" if params else "nothing"
    try:
        score = float(run(chosen)[recipe.objective[0]])
    except BaseException:
        if study is not None:
            study.tell(trial, state=failed)
        raise
    if study is not None and trial is not None:
        trial.set_user_attr(SETTINGS, mark)
        if math.isfinite(score):
            study.tell(trial, score)
        else:
            trial.set_user_attr(NOT_FINITE, True)
            study.tell(trial, state=failed)
    return "new"


def _tried(study: Any, mark: str) -> bool:
    """Whether a trial with these settings has come to its end."""
    return study is not None and any(t.user_attrs.get(SETTINGS) == mark for t in study.get_trials())


def _searches(recipe: Recipe[Any], settings: Any, case: Case) -> bool:
    """Whether the case has anything to search."""
    assert recipe.search is not None
    trial = _optuna().create_study().ask()
    recipe.search(trial, settings, case)
    return bool(trial.params)


def _scored(study: Any) -> int:
    """Trials that ran to their end; those that were interrupted do not count."""
    from optuna.trial import TrialState

    done = (t.state == TrialState.COMPLETE or NOT_FINITE in t.user_attrs for t in study.get_trials())
    return sum(done)


def with_params(recipe: Recipe[Any], settings: Any, case: Case, found: Found | None) -> Any:
    """The settings of a case, with what a search has found for it if there was one."""
    if found is None or found["params"] is None or recipe.search is None:
        return settings
    return recipe.search(_optuna().trial.FixedTrial(found["params"]), settings, case)


def _best(study: Any, case: str) -> Found | None:
    if _scored(study) == 0:
        return None
    default = study.user_attrs[DEFAULT]
    found = {"default": default, "trials": _scored(study)}
    try:
        best = study.best_trial
    except ValueError:  # no trial gave a finite score
        return {"params": None, "value": default, **found}
    better = best.value < default if study.direction.name == "MINIMIZE" else best.value > default
    if not better and math.isfinite(default):  # the settings of the preset stay
        return {"params": None, "value": default, **found}
    return {"params": best.params, "value": best.value, **found}


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        reason, way_out = "optuna is missing", "pip install optuna"
        raise RecipeError(complaint("kmatrix recipe", "--search", "", reason, way_out)) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
