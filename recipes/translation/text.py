"""Sentences as numbers: pieces of words by joint byte-pair encoding, and a dictionary for each language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.data.translation import Pair, Pairs
from ..common.errors import DataError, complaint
from .model import EOS, PAD, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPECIAL = ("<pad>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Side:
    """The dictionary of one language: the joint pieces that occur in its training sentences.

    Attributes:
        pieces: joint number of each word of the dictionary; the first three are PAD, EOS and UNK.
        words: the inverse, UNK for joint pieces that are not in it.
    """

    pieces: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.pieces)


class Language:
    """What turns sentences of both languages into words and back.

    Args:
        pairs: training sentences.
        size: joint pieces at most.
    """

    def __init__(self, pairs: Sequence[Pair], size: int) -> None:
        self.pieces = _trained((sentence for pair in pairs for sentence in pair), size)
        encoded = [self._encoded([pair[k] for pair in pairs]) for k in range(2)]
        self.source, self.target = (_side(lists, self.pieces.get_vocab_size()) for lists in encoded)

    def encode(self, pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
        """Words of source and target, EOS at the end of both."""
        sides = zip((self.source, self.target), zip(*pairs, strict=True), strict=True)
        ends = torch.tensor([EOS])
        sources, targets = (
            [
                torch.cat([side.words[torch.tensor(ids, dtype=torch.long)], ends])
                for ids in self._encoded(list(s))
            ]
            for side, s in sides
        )
        return list(zip(sources, targets, strict=True))

    def decode(self, words: Sequence[int]) -> str:
        """A sentence of the target language."""
        pieces = self.target.pieces[torch.tensor(list(words), dtype=torch.long)].tolist()
        return str(self.pieces.decode(pieces)).strip()

    def _encoded(self, sentences: list[str]) -> list[list[int]]:
        return [found.ids for found in self.pieces.encode_batch(sentences)]


def _trained(sentences: Iterable[str], size: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    pieces = Tokenizer(models.BPE(unk_token=None))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(_SPECIAL),
        show_progress=False,
        # Any byte can be written, whatever the training sentences have.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    pieces.train_from_iterator(sentences, trainer)
    return pieces


def _side(lists: list[list[int]], size: int) -> Side:
    used = torch.zeros(size, dtype=torch.bool)
    used[torch.tensor([number for ids in lists for number in ids], dtype=torch.long)] = True
    used[: len(_SPECIAL)] = True
    pieces = used.nonzero().squeeze(1)
    words = torch.full((size,), UNK)
    words[pieces] = torch.arange(len(pieces))
    return Side(pieces, words)


@dataclass(frozen=True)
class Batch:
    """Padded sentences.

    Attributes:
        source: EOS at the end, ``(sentences, time)``.
        previous: the target, moved on by one: EOS first.
        target: EOS at the end.
    """

    source: Tensor
    previous: Tensor
    target: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.source, self.previous, self.target))


def batch(pairs: Sequence[tuple[Tensor, Tensor]], device: torch.device | str = "cpu") -> Batch:
    """Sentences of different length side by side."""
    sources, targets = zip(*pairs, strict=True)
    previous = [torch.cat([t.new_tensor([EOS]), t[:-1]]) for t in targets]
    return Batch(*(_padded(lists).to(device) for lists in (sources, previous, targets)))


def batches(pairs: Sequence[tuple[Tensor, Tensor]], words: int, generator: torch.Generator) -> list[Tensor]:
    """One pass over all sentences, as indices: those of like length together, ``words`` of either side at most."""
    order = torch.randperm(len(pairs), generator=generator)
    sizes = torch.tensor([max(len(source), len(target)) for source, target in pairs])
    order = order[sizes[order].argsort(stable=True)]
    found, first, longest = [], 0, 0
    for place, number in enumerate(order.tolist()):
        longest = max(longest, int(sizes[number]))
        if place > first and longest * (place + 1 - first) > words:
            found.append(order[first:place])
            first, longest = place, int(sizes[number])
    found.append(order[first:])
    return [found[k] for k in torch.randperm(len(found), generator=generator).tolist()]


def _padded(lists: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(lists), batch_first=True, padding_value=PAD)


def shorter(pairs: Pairs, words: int) -> Pairs:
    """Without training sentences of more words on either side than that."""
    kept = [pair for pair in pairs.train if max(len(side.split()) for side in pair) <= words]
    return Pairs(kept, pairs.validation, pairs.test)


def unseen(pairs: Pairs) -> Pairs:
    """Without the training pairs either side of which is in the validation or the test part, too.

    Parts that were divided by the sentences of one language share sentences of the other.
    """
    held = [pair for part in (pairs.validation, pairs.test) for pair in part]
    sources, targets = ({pair[k] for pair in held} for k in (0, 1))
    kept = [pair for pair in pairs.train if pair[0] not in sources and pair[1] not in targets]
    if not kept:
        reason = "every training sentence is in the validation or the test part, too"
        raise DataError(complaint("kmatrix recipe", "--data", "", reason, "give parts that differ"))
    return Pairs(kept, pairs.validation, pairs.test)
