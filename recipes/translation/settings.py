"""What the runs depend on, for each preset."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..common import Case
from .families import FAMILIES
from .model import Dropout, Size

if TYPE_CHECKING:
    import optuna

TATOEBA, PYDOCS, IWSLT = "tatoeba", "pydocs", "iwslt14"


@dataclass(frozen=True)
class Corpus:
    """Where sentences come from.

    Attributes:
        title: in the names of cases.
        source: language that is translated.
        target: language it is translated into.
        name: of the files, none for ``train.de`` and so on.
        pieces: joint pieces of words at most.
        longest: words of a training sentence at most.
    """

    title: str
    source: str
    target: str
    name: str = ""
    pieces: int = 10_000
    longest: int = 175


@dataclass(frozen=True)
class Speed:
    """How sentences per second are measured.

    Attributes:
        size: of the model.
        corpus: whose test sentences are translated; random words of such lengths without.
        pairs: training pairs that the pieces of words are learned from.
        sentences: how many, of evenly spread lengths.
        shortest: words of a reference at least, EOS among them.
        longest: words of a reference at most.
        rounds: how often all of them are translated by everybody.
    """

    size: Size = field(default_factory=Size)
    corpus: Corpus | None = None
    pairs: int = 5_000
    sentences: int = 9
    shortest: int = 5
    longest: int = 48
    rounds: int = 5


@dataclass(frozen=True)
class Settings:
    """Settings of all runs.

    Attributes:
        corpora: what is translated.
        families: in place of the decoder's linear layers, on the first corpus.
        few: the same on the other corpora.
        size: of the model; its numbers of words hold where there are no data.
        dropout: in training.
        steps: of the optimiser.
        words: in a batch, of either language, at most.
        lr: highest learning rate.
        dense_lr: the rate of all that is dense, times ``lr``.
        structure_lr: the rate of structured matrices, times ``lr``.
        search_steps: of a trial of a search; ``steps`` if None.
        warmup: steps until then.
        warmup_from: share of the rate that the warm-up begins with.
        weight_decay: of Adam.
        smoothing: of labels.
        average: how many states are averaged.
        average_every: steps between them.
        beam: hypotheses.
        penalty: exponent of the length that scores are divided by.
        every: steps between checkpoints.
        speed: how speed is measured.
        synthetic: random sentences and their reversals instead of data.
    """

    corpora: tuple[Corpus, ...]
    families: tuple[str, ...]
    few: tuple[str, ...]
    size: Size
    dropout: Dropout
    steps: int
    words: int
    lr: float
    warmup: int
    average_every: int
    dense_lr: float = 1.0
    structure_lr: float = 1.0
    search_steps: int | None = None
    warmup_from: float = 0.0
    weight_decay: float = 1e-4
    smoothing: float = 0.1
    average: int = 10
    beam: int = 4
    penalty: float = 1.0
    every: int = 200
    speed: Speed = field(default_factory=Speed)
    synthetic: bool = False


def settings(preset: str) -> Settings:
    """Settings of a preset."""
    if preset == "paper":
        return Settings(
            (Corpus(IWSLT, "de", "en"),),
            ("dense", *FAMILIES, EVERYWHERE),
            (),
            Size(),
            Dropout(),
            steps=50_000,
            words=4_000,
            lr=5e-4,
            warmup=4_000,
            warmup_from=1e-7 / 5e-4,
            average_every=1_000,
            every=1_000,
            speed=Speed(corpus=Corpus(IWSLT, "de", "en")),
        )
    if preset == "small":
        return Settings(
            (
                Corpus(TATOEBA, "de", "en", TATOEBA, pieces=4_000),
                Corpus(PYDOCS, "en", "fr", PYDOCS, pieces=4_000, longest=30),
            ),
            ("dense", *FAMILIES, EVERYWHERE),
            ("dense", "b"),
            Size(128, 256, 4, (3, 7), (3, 7), 3_000, 3_000),
            Dropout(0.1, 0.1, 0.1),
            steps=600,
            search_steps=200,
            words=1_000,
            lr=6e-3,  # of the grid around 3e-3 the best for the dense model
            warmup=100,
            average_every=10,
            every=150,
            speed=Speed(corpus=Corpus(PYDOCS, "en", "fr", PYDOCS)),
        )
    return Settings(
        (Corpus("reversed", "a", "b"),),
        ("dense", *FAMILIES, EVERYWHERE),
        (),
        Size(16, 32, 2, (3,), (3, 5), 24, 24),
        Dropout(),
        steps=4,
        words=200,
        lr=3e-3,
        warmup=2,
        average_every=1,
        average=2,
        beam=2,
        every=2,
        speed=Speed(Size(16, 32, 2, (3,), (3, 5), 24, 24), sentences=2, shortest=3, longest=6, rounds=1),
        synthetic=True,
    )


EVERYWHERE = "b-everywhere"
"""B in the four linear layers, in the projections of attention, and as the output layer."""


def cases(settings: Settings) -> list[Case]:
    """Every family on the first corpus, some on the others; then speed."""
    found = []
    for number, corpus in enumerate(settings.corpora):
        for family in settings.few if number else settings.families:
            options = {"part": "quality", "corpus": number, "family": family.removesuffix("-everywhere")}
            found.append(Case(f"{corpus.title}/{family}", {**options, "everywhere": family == EVERYWHERE}))
    return found + [
        Case(f"speed/{group}", {"part": "speed", "group": group}) for group in ("decoder", "whole")
    ]


RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The paper's grid for the rate of structured matrices, times that of dense ones."""


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """The rate of structured matrices, as in the paper; for the dense model its one rate, for speed nothing."""
    if case.options["part"] != "quality":
        return settings
    if case.options["family"] == "dense":
        return replace(settings, dense_lr=trial.suggest_categorical("dense_lr", RATES))
    return replace(settings, structure_lr=trial.suggest_categorical("structure_lr", RATES))
