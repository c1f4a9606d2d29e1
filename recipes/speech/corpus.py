"""The utterances of a preset: batches to learn from, and what is validated and tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.data.speech import PHONES, Clips, Speech, Utterance, spoken_digits, strings, timit
from .features import frames
from .settings import Geometry, Settings

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Frames, how many each utterance has, labels from 1 on, how many each utterance has."""
FEWEST, MOST = 3, 7
"""Digits in a string."""
HELD_OUT_SEED = 20_201
"""Of the strings of validation and test, which are the same for all runs."""


@dataclass(frozen=True)
class Corpus:
    """Where utterances come from.

    Attributes:
        labels: how many different ones.
        batch: the utterances of a step.
        validation: to choose by.
        test: to report.
    """

    labels: int
    batch: Callable[[int], Sequence[Utterance]]
    validation: Sequence[Utterance]
    test: Sequence[Utterance]


def corpus(settings: Settings, seed: int, folder: Callable[[], Path], dry: bool) -> Corpus:
    """The corpus of a preset.

    Args:
        settings: say which.
        seed: of the batches.
        folder: gives the folder of the data, if they are needed.
        dry: noise in the place of the data.
    """
    if dry:
        return _noise(settings, len(PHONES) if settings.corpus == "timit" else 10)
    if settings.corpus == "timit":
        return _sentences(timit(folder()), settings.batch, seed)
    return _digits(
        _tones(settings.rate) if settings.corpus == "synthetic" else spoken_digits(folder()), settings, seed
    )


def tensors(utterances: Sequence[Utterance], geometry: Geometry) -> Batch:
    """Utterances as the recogniser and its loss want them."""
    pieces = [frames(torch.from_numpy(u.audio), geometry.width, geometry.hop) for u in utterances]
    labels = torch.tensor([1 + label for u in utterances for label in u.labels])
    counts = torch.tensor([len(u.labels) for u in utterances])
    return torch.cat(pieces), torch.tensor([len(piece) for piece in pieces]), labels, counts


def _digits(clips: Clips, settings: Settings, seed: int) -> Corpus:
    held_out = (settings.validation_speaker, settings.test_speaker)
    own = clips.of(sorted(set(clips.speakers) - set(held_out)))

    def batch(step: int) -> list[Utterance]:
        rng = np.random.default_rng((seed, step))
        return strings(own, settings.batch, rng, digits=(FEWEST, MOST), tempo=settings.tempo)

    parts = [
        strings(
            clips.of([speaker]),
            settings.strings,
            np.random.default_rng((HELD_OUT_SEED, k)),
            digits=(FEWEST, MOST),
        )
        for k, speaker in enumerate(held_out)
    ]
    return Corpus(10, batch, *parts)


def _sentences(speech: Speech, size: int, seed: int) -> Corpus:
    epoch = len(speech.train) // size

    def batch(step: int) -> list[Utterance]:
        order = np.random.default_rng((seed, step // epoch)).permutation(len(speech.train))
        first = step % epoch * size
        return [speech.train[k] for k in order[first : first + size]]

    return Corpus(len(PHONES), batch, speech.validation, speech.test)


def _noise(settings: Settings, labels: int) -> Corpus:
    def batch(step: int) -> list[Utterance]:
        rng = np.random.default_rng(step)
        audio = 1000 * rng.standard_normal((settings.batch, settings.rate), dtype=np.float32)
        return [Utterance(x, tuple(rng.integers(labels, size=5).tolist())) for x in audio]

    return Corpus(labels, batch, batch(1)[:2], batch(2)[:2])


def _tones(rate: int) -> Clips:
    """Digits that are pairs of tones, spoken by four speakers of different pitch."""
    rng = np.random.default_rng(0)
    audio, words, speakers = [], [], []
    for k, speaker in enumerate("abcd"):
        for digit in range(10):
            time = np.arange(round(rate * rng.uniform(0.2, 0.3))) / rate
            pitch = (0.1 + 0.05 * (digit % 5)) * (1 + 0.02 * k), (0.3 + 0.1 * (digit // 5)) * (1 + 0.02 * k)
            sound = np.sum([np.sin(2 * np.pi * rate * f * time) for f in pitch], axis=0)
            audio.append((2000 * sound).astype(np.float32))
            words.append(digit)
            speakers.append(speaker)
    return Clips(audio, words, speakers, rate)
