"""One run of a case: how well a model translates, or how fast."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from ..common import Case, Row, Run
from ..common.data.translation import Pairs, translation
from .quality import quality
from .settings import Settings, Speed
from .speed import GROUPS, Sentence, compete, drawn, lengths
from .text import Language


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Train and score a model, or time all of them."""
    options = case.options
    if options["part"] == "quality":
        which = settings.corpora[options["corpus"]]
        return quality(settings, which, options["family"], options["everywhere"], run)
    speed = settings.speed
    sentences, source = _sentences(speed, None if settings.synthetic or run.dry else run)
    rounds = speed.rounds
    if run.dry:
        sentences, rounds = sentences[:1], 1
    found = compete(GROUPS[options["group"]], speed.size, sentences, rounds, run.progress)
    return {**found, "source": source}


def _sentences(speed: Speed, run: Run | None) -> tuple[list[Sentence], str]:
    if speed.corpus is None or run is None:
        generator = torch.Generator().manual_seed(0)
        words = speed.size.source
        return drawn(speed.sentences, speed.shortest, speed.longest, words, generator), "random words"
    sentences = _tested(run.data(), speed)
    return sentences, f"{speed.corpus.title} {speed.corpus.source}-{speed.corpus.target}"


@lru_cache(maxsize=1)
def _tested(folder: Path, speed: Speed) -> list[Sentence]:
    """Sentences of the test set, in words of a dictionary of the model's size."""
    which = speed.corpus
    assert which is not None
    pairs: Pairs = translation(folder, which.source, which.target, which.name)
    language = Language(pairs.train[: speed.pairs], which.pieces)
    picked = lengths(language.encode(pairs.test), speed.sentences, speed.shortest, speed.longest)
    # The dictionary of a stand-in may be larger than the model's; which words are said takes no time.
    return [(source.clamp(max=speed.size.source - 1), count) for source, count in picked]
