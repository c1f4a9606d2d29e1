"""Pairs of sentences in two languages."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .folder import bad, find

Pair = tuple[str, str]
_PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations.

    Attributes:
        train: to learn from, ``(source, target)``.
        validation: to choose by.
        test: for what is reported.
    """

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]

    def __iter__(self) -> Iterator[list[Pair]]:
        return iter((self.train, self.validation, self.test))


def translation(folder: Path, source: str, target: str, corpus: str = "") -> Pairs:
    """Pairs of one of two layouts, plain or gzip.

    ``CORPUS_A-B.train.tsv`` and so on (``.valid``, ``.test``): a pair a line, separated by a tab; read in either
    direction. Without a corpus, ``train.A`` and ``train.B`` and so on, a sentence a line, as IWSLT'14 is usually
    prepared.

    Args:
        folder: where the files are, or a folder above.
        source: language that is translated, such as ``"de"``.
        target: language it is translated into.
        corpus: name of the corpus in the first layout.

    Raises:
        DataError: if they are not there, or not what they should be.
    """
    read = _columns(folder, corpus, source, target) if corpus else _lines(folder, source, target)
    return Pairs(*read)


def _columns(folder: Path, corpus: str, source: str, target: str) -> Iterator[list[Pair]]:
    for part in _PARTS:
        names = [
            f"{corpus}_{a}-{b}.{part}.tsv{ending}"
            for a, b in ((source, target), (target, source))
            for ending in ("", ".gz")
        ]
        path = find(folder, names, f"{corpus} pairs")
        pairs = []
        for number, line in enumerate(_text(path), 1):
            cells = line.split("\t")
            if len(cells) != 2:
                raise bad(path, f"line {number} has {len(cells)} columns and not 2")
            first, second = (cell.strip() for cell in cells)
            pairs.append((first, second) if f"_{source}-{target}." in path.name else (second, first))
        yield _some(path, pairs)


def _lines(folder: Path, source: str, target: str) -> Iterator[list[Pair]]:
    for part in _PARTS:
        paths = [
            find(folder, (f"{part}.{a}", f"{part}.{a}.gz"), f"file {part}.{a}") for a in (source, target)
        ]
        first, second = (_text(path) for path in paths)
        if len(first) != len(second):
            raise bad(paths[1], f"{len(second)} lines, {paths[0].name} has {len(first)}")
        yield _some(paths[0], [(a, b) for a, b in zip(first, second, strict=True) if a and b])


def _some(path: Path, pairs: list[Pair]) -> list[Pair]:
    if not pairs:
        raise bad(path, "no pairs in it")
    return pairs


def _text(path: Path) -> list[str]:
    """The lines of a file, without spaces around them."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # Not splitlines, which ends lines at characters that sentences may have.
        return [line.strip() for line in raw.decode().rstrip("\n").split("\n")]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise bad(path, f"unreadable: {error}") from error
