"""What is compared, at which sizes, for how long and at which rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..common import Case
from ..common.tasks import Schedule

if TYPE_CHECKING:
    import optuna

METHODS = {
    "dense": "dense",
    "gblr": "GBLR, learned boxes",
    "gblr-cut": "GBLR, learned from the cost of dense",
    "gblr-random": "GBLR, random boxes that stay",
    "low-rank": "low rank, one share for all",
    "low-rank-learned": "low rank, GBLR's budgets",
    "block-low-rank": "block low rank",
    "monarch": "Monarch",
}
"""Rows of the tables, and how they are called there."""
SCRATCH, DENSE = "scratch", "dense"
ONLY_SCRATCH = ("gblr-cut", "gblr-random")
"""Boxes at random places know nothing of a trained weight."""
SUBJECTS = ("vit", "characters")


@dataclass(frozen=True)
class Size:
    """A model and its training.

    Attributes:
        width: of the transformer.
        layers: of it.
        piece: the side of a patch, or the length of a text.
        schedule: from scratch; from dense it is a third of the steps.
    """

    width: int
    layers: int
    piece: int
    schedule: Schedule


@dataclass(frozen=True)
class Settings:
    """What all runs depend on.

    Attributes:
        preset: says which data.
        vit: the vision transformer.
        characters: the language model.
        budget: multiplications of the replaced matrices, as a share of dense's.
        rates: learning rates by the names of cases; ``rate`` for the others.
        rate: of everything but boxes.
        structure_rates: of widths and starts, which are shares of a side, by how a run begins.
        classes: of the photographs of ``paper``.
        pieces: of words, in ``paper``.
    """

    preset: str
    vit: Size
    characters: Size
    budget: float = 0.3
    rates: Mapping[str, float] = field(default_factory=dict)
    rate: float = 1e-3
    structure_rates: Mapping[str, float] = field(default_factory=lambda: {SCRATCH: 3e-3, DENSE: 1e-3})
    classes: int = 1000
    pieces: int = 50_257


def settings(preset: str) -> Settings:
    """Small: one core, minutes. Paper: ViT-B/16 on ImageNet and GPT-2 on WikiText-103."""
    if preset == "smoke":
        vit = Size(32, 1, 7, Schedule(8, 16, 3e-3, 2, 0.01))
        return Settings(preset, vit, Size(32, 1, 16, Schedule(8, 8, 3e-3, 2, 0.01)), rate=3e-3)
    if preset == "small":
        vit = Size(96, 2, 7, Schedule(1000, 32, 3e-3, 100, 0.01))
        characters = Size(128, 3, 64, Schedule(360, 16, 3e-3, 36, 0.01))
        return Settings(preset, vit, characters, rates=CHOSEN)
    # 310 epochs of 1,281,167 images in batches of 1024; 10 epochs of WikiText-103 in batches of 512 windows of 1024.
    vit = Size(768, 12, 16, Schedule(387_000, 1024, 1e-3, 12_500, 0.05))
    return Settings(preset, vit, Size(768, 12, 1024, Schedule(2_300, 512, 1.5e-3, 230, 0.1)), budget=0.33)


def cases(settings: Settings) -> Sequence[Case]:
    """Every method from scratch and from a trained dense model, on both subjects."""
    return [
        Case(f"{subject}/{start}/{method}", {"subject": subject, "start": start, "method": method})
        for subject in SUBJECTS
        for start in (SCRATCH, DENSE)
        for method in METHODS
        if start == SCRATCH or method not in ONLY_SCRATCH
    ]


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """The learning rate."""
    lr = trial.suggest_float("lr", 1e-4, 3e-2, log=True)
    return replace(settings, rates={**settings.rates, case.name: lr})


def rate_of(settings: Settings, case: str) -> float:
    """The learning rate of a case."""
    return settings.rates.get(case, settings.rate)


CHOSEN = {
    f"{subject}/{start}/{method}": rate
    for subject, start, rate, methods in (
        ("vit", SCRATCH, 1e-2, ("gblr", "gblr-random", "monarch")),
        ("vit", SCRATCH, 3e-3, ("dense", "gblr-cut", "low-rank", "low-rank-learned", "block-low-rank")),
        ("vit", DENSE, 3e-3, ("block-low-rank", "monarch")),
        ("vit", DENSE, 1e-3, ("dense", "low-rank", "low-rank-learned")),
        ("vit", DENSE, 3e-4, ("gblr",)),
        ("characters", SCRATCH, 1e-2, ("gblr", "gblr-random", "block-low-rank", "monarch")),
        ("characters", SCRATCH, 3e-3, ("dense", "gblr-cut", "low-rank", "low-rank-learned")),
        ("characters", DENSE, 3e-3, ("gblr", "low-rank", "low-rank-learned", "block-low-rank", "monarch")),
        ("characters", DENSE, 1e-3, ("dense",)),
    )
    for method in methods
}
"""Of the small preset: the best by validation with seed 0 of three rates (the README names them)."""
