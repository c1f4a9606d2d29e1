"""Sizes, schedules and rates of the three presets, and the front ends that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..common import Case

LEARNED = ("kaleidoscope", "dense", "low-rank", "circulant", "hybrid")
FRONT_ENDS = ("kaleidoscope", "mfsc", "fft", "dense", "low-rank", "circulant", "identity", "hybrid")
RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)
"""Learning rates of the front end among which the paper searches."""


@dataclass(frozen=True)
class Geometry:
    """How audio is cut into frames of 25 ms.

    Attributes:
        rate: samples in a second.
        hop_ms: milliseconds between the beginnings of two frames.
        bands: mel filters.
    """

    rate: int
    hop_ms: int = 10
    bands: int = 23

    @property
    def width(self) -> int:
        """Samples in a frame."""
        return self.rate * 25 // 1000

    @property
    def hop(self) -> int:
        """Samples between the beginnings of two frames."""
        return self.rate * self.hop_ms // 1000

    @property
    def n(self) -> int:
        """Points of the transforms: a frame with zeros behind it, to a power of two."""
        return 1 << (self.width - 1).bit_length()


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its front end and seed.

    Attributes:
        corpus: ``synthetic``, ``digits`` or ``timit``.
        rate: samples in a second.
        hop_ms: from one frame to the next. The paper says that frames of 25 ms overlap by 10, which makes 15; Kaldi,
            whose labels it uses, has 10.
        layers: of the LSTM.
        hidden: of each layer and direction.
        dropout: between layers.
        pool: how many frames of log power are averaged into one for the LSTM.
        per_utterance: whether every front end's features have mean 0 and variance 1 in each utterance; MFSC has that
            in any case.
        steps: of the optimiser; the hybrid makes 34 for 24 as in the paper.
        batch: utterances in a step.
        lr: of RMSProp, but for the front end.
        front_lr: of the front end, by its name.
        every: steps between validations.
        tempo: change of tempo and pitch in training.
        strings: of digits for validation and for the test, each.
        validation_speaker: whose clips choose.
        test_speaker: whose clips are reported.
        timing_seconds: of clock time for the comparison with MFSC.
    """

    corpus: str
    rate: int
    hop_ms: int
    layers: int
    hidden: int
    dropout: float
    pool: int
    per_utterance: bool
    steps: int
    batch: int
    lr: float = 1.6e-3
    front_lr: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(LEARNED, 2e-4))
    every: int = 100
    tempo: float = 0.0
    strings: int = 0
    validation_speaker: str = ""
    test_speaker: str = ""
    timing_seconds: float = 1.0

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.rate, self.hop_ms)


PRESETS = {
    "smoke": Settings(
        "synthetic", rate=2_000, hop_ms=15, layers=1, hidden=16, dropout=0.0, pool=3, per_utterance=True,
        steps=4, batch=4, every=2, strings=4, validation_speaker="c", test_speaker="d", timing_seconds=0.02,
    ),
    "small": Settings(
        "digits", rate=8_000, hop_ms=15, layers=1, hidden=96, dropout=0.2, pool=3, per_utterance=True,
        steps=300, batch=16, lr=0.016, tempo=0.1, strings=150, validation_speaker="theo", test_speaker="yweweler",
        timing_seconds=0.5,
    ),
    # PyTorch-Kaldi's LSTM for TIMIT: 4 x 550, batches of 8, 24 epochs of 462 steps.
    "paper": Settings(
        "timit", rate=16_000, hop_ms=10, layers=4, hidden=550, dropout=0.2, pool=1, per_utterance=False,
        steps=24 * 462, batch=8, every=462,
    ),
}  # fmt: skip


def settings(preset: str) -> Settings:
    return PRESETS[preset]


def cases(_: Settings) -> list[Case]:
    return [Case(name, {"front": name}) for name in FRONT_ENDS]
