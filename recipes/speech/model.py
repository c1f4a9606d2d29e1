"""The recogniser behind every front end: normalised features, Bi-LSTM layers, label probabilities for CTC."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .frontends import front_end
from .settings import Settings


class Recogniser(nn.Module):
    """Frames to log probabilities of labels; label 0 is CTC's blank.

    Args:
        front: name of the front end.
        settings: of the preset.
        labels: how many, without the blank.

    Shape:
        Frames ``(rows, width)`` of all utterances one after the other, and how many rows each has; out come
        ``(steps, utterances, 1 + labels)`` and how many steps each has.
    """

    def __init__(self, front: str, settings: Settings, labels: int) -> None:
        super().__init__()
        self.front = front_end(front, settings.geometry)
        self.pool = settings.pool
        self.per_utterance = settings.per_utterance or front in ("mfsc", "hybrid")
        widths = [self.front.features, *[2 * settings.hidden] * settings.layers]
        self.layers = nn.ModuleList(BothWays(width, settings.hidden) for width in widths[:-1])
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(widths[-1], 1 + labels)

    def forward(self, frames: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        pieces = [self._shortened(piece) for piece in self.front(frames).split(counts.tolist())]
        lengths = torch.tensor([len(piece) for piece in pieces], device=frames.device)
        x = pad_sequence(pieces)
        for layer in self.layers:
            x = self.dropout(layer(x, lengths))
        return self.out(x).log_softmax(-1), lengths

    def _shortened(self, piece: Tensor) -> Tensor:
        """Features of one utterance, normalised if they are to be, several frames averaged."""
        if self.per_utterance:
            piece = (piece - piece.mean(0)) / (piece.var(0, unbiased=False) + 1e-5).sqrt()
        missing = -len(piece) % self.pool
        if missing:
            piece = torch.cat([piece, piece[-1:].expand(missing, -1)])
        return piece.reshape(-1, self.pool, piece.shape[-1]).mean(1)


class BothWays(nn.Module):
    """An LSTM that reads forwards and backwards with the same weights, its inputs batch-normalised.

    One set of weights for both directions is what PyTorch-Kaldi has, and what the paper's parameter counts mean. Zeros
    behind an utterance come after all of its steps in either direction, so nothing has to be packed.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.lstm = nn.LSTM(width, hidden)
        # Gates of variance 1 from however many features: PyTorch-Kaldi normalises the products, not their inputs.
        nn.init.normal_(self.lstm.get_parameter("weight_ih_l0"), std=width**-0.5)
        for gate in range(4):
            nn.init.orthogonal_(self.lstm.get_parameter("weight_hh_l0")[gate * hidden : (gate + 1) * hidden])

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        time = torch.arange(len(x), device=x.device)[:, None]
        there = time < lengths
        reverse = torch.where(there, lengths - 1 - time, time)
        normalised = torch.zeros_like(x)
        normalised[there] = self.norm(x[there])
        y, _ = self.lstm(torch.cat([normalised, _at(normalised, reverse)], dim=1))
        forwards, backwards = y.chunk(2, dim=1)
        return torch.cat([forwards, _at(backwards, reverse)], dim=-1)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Steps of each utterance in another order."""
    return x.gather(0, index[:, :, None].expand_as(x))
