"""From label probabilities to labels, and how wrong they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def greedy(log_probabilities: Tensor, lengths: Tensor) -> list[list[int]]:
    """The best label of each step, repetitions merged, blanks (0) dropped; labels count from 0 again."""
    best = log_probabilities.argmax(-1)
    found = []
    for k, length in enumerate(lengths.tolist()):
        merged = torch.unique_consecutive(best[:length, k])
        found.append([label - 1 for label in merged.tolist() if label])
    return found


def edits(found: Sequence[int], truth: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that turn one sequence into the other."""
    row = list(range(len(truth) + 1))
    for i, a in enumerate(found, 1):
        above, row = row, [i]
        for j, b in enumerate(truth, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def error_rate(found: Sequence[Sequence[int]], truth: Sequence[Sequence[int]]) -> float:
    """Edits per label of the truth, in percent."""
    wrong = sum(edits(a, b) for a, b in zip(found, truth, strict=True))
    return 100 * wrong / sum(map(len, truth))
