"""What the runs depend on, for each preset, which cases there are, and which K-matrices stand for a target."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import kmatrix as km

from ..common import Case
from .targets import NAMES

if TYPE_CHECKING:
    import optuna

LOW_RANK, SPARSE, CONSTRUCTION, FIT, GRADIENT = "low-rank", "sparse", "construction", "fit", "gradient"
TERMS = {"k": 1, "low-rank": 1, "sparse": 4, "convolution": 2, "fastfood": 2, "random": 1}
"""Parameters allowed, in multiples of those of one term of OBB."""


def budget(target: str, n: int) -> int:
    """Parameters of ``(OBB)^c``: with these the paper's two baselines come out digit for digit."""
    return TERMS[target] * n * (int(math.log2(n)) + 1)


CLASSES = {
    "k": ("OBB",),
    "low-rank": ("OBB",),
    "sparse": ("(OBB)^4",),
    "convolution": ("BB* tied",),
    "fastfood": ("(OBB)^2", "D (OBB)^2 D"),
    "random": ("OBB", "(OBB)^2"),
}
"""K-matrices that are fitted and trained; the last of two holds more parameters than the budget."""


def structure(name: str, n: int) -> km.Structure:
    """The structure of a name in ``CLASSES``."""
    if name == "BB* tied":
        # A butterfly between two bit reversals is a member of B*, so this is BB* with equal blocks in every factor.
        return km.RealPart(km.FixedBPBP(depth=2))
    if name == "D (OBB)^2 D":
        return km.Product((km.Diagonal(), km.OBB(width=2), km.Diagonal()), (n, n))
    return km.OBB(width=int(name.partition("^")[2] or 1))


@dataclass(frozen=True)
class Settings:
    """Settings of all runs.

    Attributes:
        n: size of the matrices, a power of two of at least 32.
        trials: random starts of a run, side by side.
        steps: of Adam; where blocks are tied, where it is most of the work, and elsewhere.
        rates: the rate of a trial is drawn log-uniformly from this range.
        finalists: trials that are polished.
        trial: L-BFGS steps for each of them.
        polish: most L-BFGS steps for the best.
        patience: seconds after which a fit stops with the best so far; none if it may take its time.
    """

    n: int = 256
    trials: int = 4
    steps: tuple[int, int] = (400, 100)
    rates: tuple[float, float] = (0.01, 0.1)
    finalists: int = 3
    trial: int = 100
    polish: int = 1000
    patience: float | None = None

    def steps_for(self, name: str) -> int:
        """Adam steps for a class."""
        return self.steps["tied" not in name]


def settings(preset: str) -> Settings:
    """Settings of a preset."""
    if preset == "paper":
        # The range of rates is the paper's; it does not say how many trials and steps.
        return Settings(
            trials=20, steps=(4000, 1000), rates=(1e-3, 0.5), finalists=5, trial=500, polish=10_000
        )
    if preset == "small":
        return Settings()
    return Settings(n=32, trials=2, steps=(10, 10), trial=5, polish=20, patience=0.2)


def cases(settings: Settings) -> list[Case]:
    """Every target by every method, and by every class of K-matrices."""
    found = []
    for target in NAMES:
        methods = [LOW_RANK, SPARSE, *([CONSTRUCTION] if target != "random" else [])]
        found += [Case(f"{target}/{m}", {"target": target, "method": m}) for m in methods]
        for method in (FIT, GRADIENT):
            for name in CLASSES[target]:
                plain = name.replace("*", "").replace(" ", "")
                options = {"target": target, "method": method, "class": name}
                found.append(Case(f"{target}/{method}/{plain}", options))
    return found


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """The rate of learning, over the paper's range; nothing else has one."""
    if case.options["method"] != GRADIENT:
        return settings
    rate = trial.suggest_float("rate", 1e-3, 0.5, log=True)
    return replace(settings, rates=(rate, rate))
