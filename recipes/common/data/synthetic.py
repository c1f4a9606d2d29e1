"""Something to learn in seconds, for the smoke presets."""

import torch

from .images import Images, Split
from .text import Text


def synthetic_images(count: int = 512) -> Images:
    """Ten random patterns of 28 x 28 under noise."""
    rng = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 200, (10, 28, 28), generator=rng)
    parts = []
    for _ in range(3):
        labels = torch.randint(0, 10, (count,), generator=rng)
        noise = torch.randint(0, 56, (count, 28, 28), generator=rng)
        parts.append(Split((patterns[labels] + noise).to(torch.uint8), labels))
    return Images(*parts)


def synthetic_text(length: int = 20_000, symbols: int = 17) -> Text:
    """A noisy walk around a circle of symbols: the next one is likely one further."""
    rng = torch.Generator().manual_seed(0)
    steps = torch.where(
        torch.rand(length, generator=rng) < 0.8, 1, torch.randint(0, symbols, (length,), generator=rng)
    )
    return Text.of(steps.cumsum(0) % symbols, symbols)
