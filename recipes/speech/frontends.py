"""What turns raw frames into features: a learned matrix and its log power, or mel filters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import kmatrix as km

from .features import hamming, mel_filters
from .settings import Geometry

FLOOR = 1.0
"""Added to powers of 16-bit samples before the logarithm: below what rounding to 16 bits leaves in a frame."""
PRE_EMPHASIS = 0.97
Start = Callable[[int], nn.Module]


class LogPower(nn.Module):
    """``log(|A x|^2 + 1)`` of raw frames ``x``, without window, pre-emphasis or normalisation.

    Args:
        transform: maps complex ``(rows, n)`` to the same; frames get zeros behind them to ``n``.
        geometry: of the frames.
    """

    def __init__(self, transform: nn.Module, geometry: Geometry) -> None:
        super().__init__()
        self.transform, self.n, self.features = transform, geometry.n, geometry.n

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(power(self.transform(padded(x, self.n))) + FLOOR)


class Mfsc(nn.Module):
    """Log mel-filtered power: pre-emphasis, Hamming window, FFT, power, mel filters, logarithm."""

    window: Tensor
    mel: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.n, self.features = geometry.n, geometry.bands
        self.register_buffer("window", hamming(geometry.width), persistent=False)
        self.register_buffer("mel", mel_filters(geometry.bands, geometry.n, geometry.rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(emphasised(x) * self.window, self.n)
        return torch.log(power(spectrum) @ self.mel + FLOOR)


class Hybrid(nn.Module):
    """MFSC whose FFT is a K-matrix, with a learned window and learned mel filters; it begins as MFSC."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.n, self.features = geometry.n, geometry.bands
        self.transform = kaleidoscope(geometry.n)
        self.window = nn.Parameter(hamming(geometry.width))
        half = mel_filters(geometry.bands, geometry.n, geometry.rate)
        # The other half of the spectrum mirrors this one as long as the matrix is the DFT.
        self.mel = nn.Parameter(torch.cat([half, half.new_zeros(geometry.n - len(half), geometry.bands)]))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = self.transform(padded(emphasised(x) * self.window, self.n))
        # Learned filters may have negative weights, energies may not.
        return torch.log((power(spectrum) @ self.mel).clamp(min=0) + FLOOR)


class Fft(nn.Module):
    """The discrete Fourier transform, with nothing to learn."""

    def forward(self, x: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.fft(x)
        return spectrum


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitudes."""
    found: Tensor = torch.view_as_real(spectrum).square().sum(-1)
    return found


def padded(x: Tensor, n: int) -> Tensor:
    """Frames as complex numbers, zeros behind them."""
    real: Tensor = nn.functional.pad(x, (0, n - x.shape[-1]))
    return real.to(torch.complex64)


def emphasised(x: Tensor) -> Tensor:
    """Each sample less 0.97 of the one before it in its frame, the first less 0.97 of itself."""
    before = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
    return x - PRE_EMPHASIS * before


def kaleidoscope(n: int) -> km.ChainMatrix:
    """The DFT as a complex member of (BB*)^2, exactly."""
    return km.constructions.dft(n, dtype=torch.complex64)


def nearest(n: int, structure: km.Structure) -> nn.Module:
    """The member of a structure that is nearest to the DFT in the Frobenius norm."""
    target = torch.fft.fft(torch.eye(n, dtype=torch.complex128))
    return km.fit(target, structure).matrix.to(torch.complex64)


def rank_like_kaleidoscope(n: int) -> int:
    """Rank at which two factors have no more parameters than the K-matrix: ``2 n r <= 8 n log2 n``."""
    return km.Kaleidoscope(width=2).num_params(n, n) // (2 * n)


TRANSFORMS: dict[str, Start] = {
    "kaleidoscope": kaleidoscope,
    "fft": lambda n: Fft(),
    "dense": lambda n: nearest(n, km.Dense()),
    "low-rank": lambda n: nearest(n, km.LowRank(rank_like_kaleidoscope(n))),
    "circulant": lambda n: nearest(n, km.Circulant()),
    "identity": lambda n: nn.Identity(),
}


def front_end(name: str, geometry: Geometry) -> LogPower | Mfsc | Hybrid:
    """A front end by its name, as it is before training."""
    if name == "mfsc":
        return Mfsc(geometry)
    if name == "hybrid":
        return Hybrid(geometry)
    return LogPower(TRANSFORMS[name](geometry.n), geometry)
