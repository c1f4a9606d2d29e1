"""What the runs depend on, for each preset, and which cases there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..common import Case
from .models import name_of
from .paper import SIZES, TRIALS
from .targets import TARGETS

if TYPE_CHECKING:
    import optuna

GRADIENT, FIT, BASELINES = "gradient", "fit", "baselines"
SUCCESS = 1e-4
"""The paper's: an error below counts as recovered, and the search for that target ends."""
WIDE = 2
"""Times the budget that a fit may hold and still be called fast; tables say what holds more than the budget."""


@dataclass(frozen=True)
class Settings:
    """Settings of all runs.

    Attributes:
        sizes: of the fit and of the baselines.
        learned: sizes that are learned by gradient, and the most trials for each.
        two_modules: the same for BPBP, whose trials are longer.
        together: trials that run side by side; fewer where they would fill the memory.
        steps: of Adam, for one module and for two.
        rates: the learning rate of a trial is drawn log-uniformly from this range.
        init: of the blocks, ``"normal"`` or ``"orthogonal"``; ``"both"`` takes turns, batch by batch.
        logits: ``"tied"``, one set of choices for all levels of a permutation, ``"free"``, one for each, or ``"both"``
            by turns.
        finalists: trials of a batch that are polished.
        trial: L-BFGS steps for each of them.
        polish: most L-BFGS steps for the best.
        enough: error at which polishing stops.
        tol: relative error that the fit has to reach.
        alternations: of the sparse and the low-rank part.
    """

    sizes: tuple[int, ...]
    learned: tuple[tuple[int, int], ...]
    two_modules: tuple[tuple[int, int], ...]
    together: int = 20
    steps: tuple[int, int] = (150, 1000)
    rates: tuple[float, float] = (0.02, 0.2)
    init: str = "orthogonal"
    logits: str = "both"
    finalists: int = 3
    trial: int = 60
    polish: int = 1500
    enough: float = 1e-6
    tol: float = 1e-10
    alternations: int = 20

    def trials(self, target: str, n: int) -> int:
        """The most trials for a target; zero where it is not learned."""
        two = name_of(target) == "BPBP"
        return dict(self.two_modules if two else self.learned).get(n, 0)


def settings(preset: str) -> Settings:
    """Settings of a preset."""
    if preset == "paper":
        # Sizes, trials and the range of rates are the paper's; a trial there is up to 80,000 steps.
        trials = tuple(zip(SIZES, TRIALS, strict=True))
        return Settings(
            SIZES, trials, trials, steps=(2000, 8000), rates=(1e-4, 0.5), init="both", trial=300, polish=6000
        )
    if preset == "small":
        learned = ((8, 40), (16, 40), (32, 40), (64, 40), (128, 20))
        return Settings(SIZES, learned, ((8, 40), (16, 60), (32, 40), (64, 20)))
    few = ((8, 4),)
    return Settings((8, 16), few, few, together=4, steps=(10, 10), trial=5, polish=20, alternations=2)


def cases(settings: Settings) -> list[Case]:
    """Every target and size, learned, fitted and approximated."""
    sizes = sorted({*settings.sizes, *dict(settings.learned), *dict(settings.two_modules)})
    return [
        Case(f"{target}/{n}/{method}", {"target": target, "n": n, "method": method})
        for n in sizes
        for target in TARGETS
        for method in (GRADIENT, FIT, BASELINES)
        if (settings.trials(target, n) if method == GRADIENT else n in settings.sizes)
    ]


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """Rate, start and ties of one batch of trials; the fit and the baselines have nothing to search."""
    if case.options["method"] != GRADIENT:
        return settings
    rate = trial.suggest_float("rate", 1e-4, 0.5, log=True)
    init = trial.suggest_categorical("init", ["normal", "orthogonal"])
    logits = trial.suggest_categorical("logits", ["tied", "free"])
    return replace(settings, rates=(rate, rate), init=init, logits=logits)
