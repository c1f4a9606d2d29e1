"""WikiText as numbers of word pieces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..files import replace_text
from .folder import bad, find
from .text import Text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARTS = ("train", "valid", "test")


def wikitext(folder: Path, pieces: int, kept: Path) -> Text:
    """WikiText-103, or -2, by byte-level word pieces, from ``wiki.train.tokens``, ``wiki.valid.tokens`` and the test's.

    Args:
        folder: of the user's copy.
        pieces: how many different ones there may be; they are learned from the training part.
        kept: a folder where they are kept once they are learned, which takes minutes.

    Raises:
        DataError: if a file is missing or is not text.
    """
    texts = {part: _text(find(folder, (f"wiki.{part}.tokens",), "WikiText")) for part in PARTS}
    coded = _pieces(texts["train"], pieces, kept / f"pieces-{pieces}.json")
    codes = [torch.tensor(coded.encode(texts[part]).ids) for part in PARTS]
    return Text(*codes, symbols=coded.get_vocab_size())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad(path, f"unreadable: {error}") from None


def _pieces(text: str, size: int, file: Path) -> Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if file.is_file():
        return Tokenizer.from_file(str(file))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    made.train_from_iterator(text.splitlines(keepends=True), trainer)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, made.to_str())
    return made
