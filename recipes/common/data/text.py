"""A text as numbers, in three parts."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .folder import bad, find


@dataclass(frozen=True)
class Text:
    """Characters as numbers.

    Attributes:
        train: the first 90 %.
        validation: the next 5 %.
        test: the last 5 %.
        symbols: how many different ones there are.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    symbols: int

    @classmethod
    def of(cls, codes: Tensor, symbols: int) -> Text:
        """A text in its three parts."""
        first, second = int(len(codes) * 0.90), int(len(codes) * 0.95)
        return cls(codes[:first], codes[first:second], codes[second:], symbols)


def tiny_shakespeare(folder: Path) -> Text:
    """Tiny Shakespeare by characters, from ``tinyshakespeare.txt`` (also ``.gz``) or ``input.txt``.

    Raises:
        DataError: if it is not there or cannot be read.
    """
    path = find(folder, ("tinyshakespeare.txt.gz", "tinyshakespeare.txt", "input.txt"), "Tiny Shakespeare")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise bad(path, f"unreadable: {error}") from None
    alphabet = {symbol: code for code, symbol in enumerate(sorted(set(text)))}
    return Text.of(torch.tensor([alphabet[symbol] for symbol in text]), len(alphabet))
