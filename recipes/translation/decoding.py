"""Translations of a batch of sentences: the likeliest next word, or several hypotheses side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import EOS, PAD, Translator


def limits(source: Tensor) -> int:
    """How long the translation of a batch may become, EOS counted."""
    return 2 * source.shape[1] + 10


@torch.no_grad()
def greedy(model: Translator, source: Tensor) -> list[list[int]]:
    """The likeliest next word, one after the other; sources ``(batch, time)`` padded behind, EOS not returned."""
    state = model.start(source)
    words = source.new_full((len(source),), EOS)
    made, open_ = [], torch.ones_like(words, dtype=torch.bool)
    for _ in range(limits(source) - 1):
        scores = model.step(words, state)
        scores[:, PAD] = -torch.inf
        words = scores.argmax(1)
        made.append(words)
        open_ &= words.ne(EOS)
        if not bool(open_.any()):
            break
    return [_until_end(row) for row in torch.stack(made, 1).tolist()]


@torch.no_grad()
def beam_search(model: Translator, source: Tensor, beam: int, penalty: float = 1.0) -> list[list[int]]:
    """The best hypothesis of each sentence, by ``log p / length ** penalty`` with EOS counted.

    The ``beam`` likeliest beginnings go on together. A sentence is done when as many hypotheses ended.

    Args:
        model: in evaluation mode.
        source: padded behind, ``(batch, time)``.
        beam: how many hypotheses of each sentence.
        penalty: 0 favours short translations, larger values long ones.
    """
    batch, limit = len(source), limits(source)
    state = model.start(source).select(torch.arange(batch, device=source.device).repeat_interleave(beam))
    words = source.new_full((batch * beam,), EOS)
    totals = torch.full((batch, beam), -torch.inf, device=source.device)
    totals[:, 0] = 0.0
    made = source.new_empty((batch, beam, 0))
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]
    for length in range(1, limit + 1):
        scores = model.step(words, state).log_softmax(-1)
        scores[:, PAD] = -torch.inf
        if length == limit:
            scores[:, :EOS] = scores[:, EOS + 1 :] = -torch.inf
        both = totals.unsqueeze(-1) + scores.view(batch, beam, -1)
        best, index = both.flatten(1).topk(2 * beam)
        rows, words_ = index.div(scores.shape[1], rounding_mode="floor"), index % scores.shape[1]
        _end(ended, best, rows, words_, made, beam, penalty, length)
        if all(len(found) >= beam for found in ended):
            break
        # Those that ended go behind the others; of twice as many as needed, at most half end.
        order = words_.eq(EOS).int().argsort(dim=1, stable=True)[:, :beam]
        totals, rows, words_ = (t.gather(1, order) for t in (best, rows, words_))
        flat = (rows + torch.arange(batch, device=source.device).unsqueeze(1) * beam).flatten()
        made = torch.cat([made.flatten(0, 1)[flat].view(batch, beam, -1), words_.unsqueeze(-1)], -1)
        words, state = words_.flatten(), state.select(flat)
    return [max(found)[1] for found in ended]


def _end(
    ended: list[list[tuple[float, list[int]]]],
    best: Tensor,
    rows: Tensor,
    words: Tensor,
    made: Tensor,
    beam: int,
    penalty: float,
    length: int,
) -> None:
    """Keep the hypotheses that end among the ``beam`` best."""
    ends = words[:, :beam].eq(EOS) & best[:, :beam].isfinite()
    for sentence, place in ends.nonzero().tolist():
        if len(ended[sentence]) < beam:
            score = float(best[sentence, place]) / length**penalty
            ended[sentence].append((score, made[sentence, int(rows[sentence, place])].tolist()))


def _until_end(words: list[int]) -> list[int]:
    return words[: words.index(EOS)] if EOS in words else words
