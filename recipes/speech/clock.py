"""How long a front end takes beside MFSC, on one thread, for one utterance, turn by turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import kmatrix as km

from ..common.clock import race
from .features import frames
from .frontends import front_end
from .settings import Geometry

UTTERANCE_SECONDS = 3
FEWEST_ROUNDS = 5


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
    contenders = {
        "own": partial(_extractor(name, geometry), audio),
        "mfsc": partial(_extractor("mfsc", geometry), audio),
    }
    with torch.inference_mode():
        found = race(contenders, FEWEST_ROUNDS, seconds=seconds)
    factors = {key: found.time(key).median / UTTERANCE_SECONDS for key in contenders}
    return {**factors, "ratio": found.ratio("own", "mfsc").median}


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
