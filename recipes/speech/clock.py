"""How long a front end takes beside MFSC, on one thread, for one utterance, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import kmatrix as km

from .features import frames
from .frontends import front_end
from .settings import Geometry

UTTERANCE_SECONDS = 3
FEWEST_ROUNDS = 31


def against_mfsc(name: str, geometry: Geometry, seconds: float) -> dict[str, float]:
    """Real-time factors (seconds of work for a second of audio) of a front end and of MFSC, and their ratio.

    Medians over rounds in which each has one turn; the ratio is the median of the rounds' ratios, so that what disturbs
    the machine disturbs both.

    Args:
        name: of the front end, as it is before training: training does not change its work.
        geometry: of the frames.
        seconds: of clock time, about.
    """
    draw = torch.Generator().manual_seed(0)
    audio = 1000 * torch.randn(UTTERANCE_SECONDS * geometry.rate, generator=draw)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            turns = _turns(_extractor(name, geometry), _extractor("mfsc", geometry), audio, seconds)
    finally:
        torch.set_num_threads(threads)
    own, mfsc = (statistics.median(column) for column in zip(*turns, strict=True))
    ratio = statistics.median(a / b for a, b in turns)
    return {"own": own / UTTERANCE_SECONDS, "mfsc": mfsc / UTTERANCE_SECONDS, "ratio": ratio}


def _extractor(name: str, geometry: Geometry) -> Callable[[Tensor], Tensor]:
    front = deployed(front_end(name, geometry))
    return lambda audio: front(frames(audio, geometry.width, geometry.hop))


def deployed(front: nn.Module) -> nn.Module:
    """A front end whose numbers are settled: chains of factors as the library multiplies them fastest."""
    front.eval().requires_grad_(False)
    matrix = getattr(front, "transform", None)
    if isinstance(matrix, km.ChainMatrix):
        del front.transform
        front.transform = km.ops.prepare(matrix)  # type: ignore[assignment]  # no module, and has no parameters
    return front


def _turns(
    own: Callable[[Tensor], Tensor], mfsc: Callable[[Tensor], Tensor], audio: Tensor, seconds: float
) -> list[tuple[float, float]]:
    for warm in (own, mfsc, own, mfsc):
        warm(audio)
    turns: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(turns) < FEWEST_ROUNDS or time.perf_counter() - began < seconds:
        turns.append((_timed(own, audio), _timed(mfsc, audio)))
    return turns


def _timed(extract: Callable[[Tensor], Tensor], audio: Tensor) -> float:
    start = time.perf_counter()
    extract(audio)
    return time.perf_counter() - start
