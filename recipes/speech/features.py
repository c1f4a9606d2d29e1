"""Frames, the short-time Fourier transform and mel filters, in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def frames(audio: Tensor, width: int, hop: int) -> Tensor:
    """Samples ``(length,)`` cut into ``(count, width)``; shorter audio than a frame gets zeros behind it."""
    if len(audio) < width:
        audio = torch.nn.functional.pad(audio, (0, width - len(audio)))
    return audio.unfold(0, width, hop)


def stft(audio: Tensor, window: Tensor, hop: int, n: int) -> Tensor:
    """The short-time Fourier transform ``(count, n // 2 + 1)``: frames times the window, zeros behind to ``n``."""
    spectra: Tensor = torch.fft.rfft(frames(audio, len(window), hop) * window, n)
    return spectra


def hamming(width: int) -> Tensor:
    """``0.54 - 0.46 cos(2 pi k / (width - 1))``, the symmetric one."""
    return torch.hamming_window(width, periodic=False)


def mel(hertz: float | np.ndarray) -> np.ndarray:
    """Mels as HTK counts them: ``2595 log10(1 + f / 700)``."""
    return 2595.0 * np.log10(1.0 + np.asarray(hertz, dtype=float) / 700.0)


def mel_filters(bands: int, n: int, rate: int, low: float = 20.0) -> Tensor:
    """Triangles on the mel scale, ``(n // 2 + 1, bands)``, from ``low`` to half the rate.

    Centres have equal distances in mels; each triangle falls to 0 at the centres beside it, so that between the first
    and the last centre the filters sum to 1.

    Args:
        bands: how many.
        n: points of the Fourier transform.
        rate: samples in a second.
        low: where the first triangle begins, in hertz.
    """
    corners = np.linspace(mel(low), mel(rate / 2), bands + 2)
    bins = mel(np.arange(n // 2 + 1) * rate / n)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0.0, None)).float()
