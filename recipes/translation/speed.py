"""Sentences per second as the paper times them: one thread, one sentence at a time, one hypothesis, end to end.

Everybody decodes in one process, sentence by sentence in turn, in many rounds; ratios are taken round by round. The
weights are random, because they do not change the time, and so is what is said: every translation is made as long as
the reference. All that the contenders do not replace they share.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import MismatchError, complaint
from .families import FAMILIES, PROJECTIONS, REPLACED, replace
from .model import EOS, Size, Translator
from .settled import Known, Settled

Sentence = tuple[Tensor, int]
"""A source, EOS at its end, and how many words its translation has."""
AGREES = 1e-4
"""Most that scores may differ from those of the model, relative to the largest: rounding of 32-bit numbers."""


@dataclass(frozen=True)
class Contender:
    """Who decodes.

    Attributes:
        family: of the four linear layers, a name of ``FAMILIES`` or ``"dense"``.
        everywhere: whether the projections of attention and the output layer are structured, too.
        fold: whether the projections are multiplied into the keys and values of each sentence.
    """

    family: str = "dense"
    everywhere: bool = False
    fold: bool = False

    @property
    def name(self) -> str:
        """For results."""
        return self.family + (", everywhere" if self.everywhere else "") + (", folded" if self.fold else "")


PAPER = tuple(Contender(family) for family in ("dense", *FAMILIES))
"""The paper's setting."""
WHOLE = (
    Contender(),
    Contender("b"),
    *(Contender(family, fold=True) for family in ("dense", "b", "low-rank")),
    *(Contender(family, everywhere=True) for family in ("b", "k", "low-rank")),
)
"""What else can be done about the rest of a step."""
GROUPS = {"decoder": PAPER, "whole": WHOLE}


def compete(
    contenders: Sequence[Contender],
    size: Size,
    sentences: Sequence[Sentence],
    rounds: int,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Time all contenders; the first is what the others are compared with.

    Args:
        contenders: at least one.
        size: of the model.
        sentences: what is translated in each round.
        rounds: how often.
        progress: told what is going on.

    Raises:
        MismatchError: if the scores of a contender are not those of its model, over the longest of the sentences.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        decoders, counts = _decoders(contenders, size, max(words for _, words in sentences))
        longest = max(sentences, key=lambda sentence: sentence[1])
        errors = {name: _checked(name, decoder, longest) for name, decoder in decoders.items()}
        times: dict[str, list[float]] = {name: [] for name in decoders}
        for decoder in decoders.values():
            decoder.translate(*sentences[0])
        for number in range(rounds):
            for name, seconds in _round(decoders, sentences).items():
                times[name].append(seconds)
            progress("decoding in turn", number + 1, rounds)
        shares = {name: profile(decoder, sentences) for name, decoder in decoders.items()}
        floor = _floor(size, sentences)
    finally:
        torch.set_num_threads(threads)
    words = sum(count for _, count in sentences)
    base = times[contenders[0].name]
    found = {
        name: {
            **counts[name],
            **_speed(times[name], len(sentences), words),
            "ratio": _quartiles([b / t for b, t in zip(base, times[name], strict=True)]),
            "error": errors[name],
            "milliseconds": shares[name],
        }
        for name in decoders
    }
    return {
        "contenders": found,
        "sentences": len(sentences),
        "words": words,
        "source_words": sum(len(source) for source, _ in sentences),
        "rounds": rounds,
        "floor": floor,
    }


def _decoders(
    contenders: Sequence[Contender], size: Size, limit: int
) -> tuple[dict[str, Settled], dict[str, Any]]:
    """Models that share all that is not replaced, ready to decode."""
    base = Translator(size).eval()
    decoders, counts = {}, {}
    known: Known = {}
    for contender in contenders:
        shared = _kept(base, contender.everywhere)
        model = copy.deepcopy(base, {id(p): p for p in shared})
        counts[contender.name] = replace(model, contender.family, contender.everywhere)
        decoders[contender.name] = Settled(model.eval(), limit, contender.fold, known)
    return decoders, counts


def _kept(model: Translator, everywhere: bool) -> list[nn.Parameter]:
    gone = REPLACED + (PROJECTIONS if everywhere else ())
    leaves = [layer.get_submodule(path) for layer in model.layers for path in gone]
    replaced = {id(p) for leaf in leaves for p in leaf.parameters()}
    return [p for p in model.parameters() if id(p) not in replaced]


def _checked(name: str, decoder: Settled, sentence: Sentence) -> float:
    """How far the scores of all words are from those of the model itself, which must be less than ``AGREES``."""
    error = _error(decoder, sentence)
    if not error <= AGREES:  # nor may it be no number
        reason = f"over {sentence[1]} words its scores differ from those of its model by {error:.1e} of the largest"
        way_out = f"only what agrees to {AGREES:.0e} is timed; look for the layer whose settled form differs"
        raise MismatchError(complaint("kmatrix recipe", "contender", name, reason, way_out))
    return error


def _error(decoder: Settled, sentence: Sentence) -> float:
    """The largest difference of scores over a sentence, relative to the largest score of its word."""
    source, count = sentence
    found, word = [], EOS
    with torch.inference_mode():
        state = decoder.model.start(source.unsqueeze(0))
        decoder.begin(source)
        for position in range(count):
            expected = decoder.model.step(torch.tensor([word]), state)
            got = decoder.output(decoder.hidden(word, position))
            found.append((got - expected).abs().max() / expected.abs().max())
            word = int(expected.argmax())
        return float(torch.stack(found).max())


def _round(decoders: Mapping[str, Settled], sentences: Sequence[Sentence]) -> dict[str, float]:
    """Everybody translates every sentence, in turn; seconds for all of them."""
    spent = dict.fromkeys(decoders, 0.0)
    names = list(decoders)
    for turn, (source, count) in enumerate(sentences):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            decoders[name].translate(source, count)
            spent[name] += time.perf_counter() - begin
    return spent


def _speed(times: Sequence[float], sentences: int, words: int) -> dict[str, float]:
    seconds = statistics.median(times)
    return {
        "sentences_per_second": sentences / seconds,
        "words_per_second": words / seconds,
        "milliseconds_per_sentence": 1e3 * seconds / sentences,
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    """The median, and the quartiles around it."""
    if len(values) < 2:
        return [values[0]] * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [middle, low, high]


PARTS = {
    "linear1": "the four linear layers",
    "linear2": "the four linear layers",
    "fc1": "the four linear layers",
    "fc2": "the four linear layers",
    "q": "projections of attention",
    "out": "projections of attention",
    "mix": "attention",
    "convolve": "dynamic convolution",
    "begin": "encoder, keys and values",
    "output": "output layer",
    "norms": "layer norms",
}
"""What is timed, and what it is called; what is left is sums, ReLU, choosing the word, and Python."""
REST = "sums, choice of the word, Python"


@torch.inference_mode()
def profile(decoder: Settled, sentences: Sequence[Sentence]) -> dict[str, float]:
    """Where the time goes: milliseconds per sentence of every part.

    Each part is called through a clock, whose own time is measured and taken off.
    """
    spent: dict[str, float] = {}
    with _clocked(decoder, spent) as calls:
        begin = time.perf_counter()
        for source, count in sentences:
            decoder.translate(source, count)
        total = time.perf_counter() - begin
    inside, outside = _clock_costs()
    shares = {part: spent[part] - inside * calls[part] for part in spent}
    shares[REST] = total - sum(spent.values()) - outside * sum(calls.values())
    return {part: 1e3 * seconds / len(sentences) for part, seconds in shares.items()}


@contextmanager
def _clocked(decoder: Settled, spent: dict[str, float]) -> Iterator[dict[str, int]]:
    """All parts of a decoder behind clocks; how often each was called."""
    calls: dict[str, int] = {}

    def behind(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        spent.setdefault(part, 0.0)
        calls.setdefault(part, 0)

        def timed(*args: Any) -> Any:
            begin = time.perf_counter()
            y = function(*args)
            spent[part] += time.perf_counter() - begin
            calls[part] += 1
            return y

        return timed

    before: list[tuple[Any, dict[str, Any]]] = [
        (owner, dict(vars(owner))) for owner in (decoder, *decoder.layers)
    ]
    decoder.begin = behind(decoder.begin, PARTS["begin"])  # type: ignore[method-assign]
    decoder.output = behind(decoder.output, PARTS["output"])
    for layer in decoder.layers:
        names = ["linear1", "linear2", "fc1", "fc2", "convolve"]
        names += [] if layer.fold else ["q", "out", "mix"]
        for name in names:
            setattr(layer, name, behind(getattr(layer, name), PARTS[name]))
        if layer.fold:
            layer.attend = behind(layer.attend, PARTS["mix"])  # type: ignore[method-assign]
        layer.norms = [behind(norm, PARTS["norms"]) for norm in layer.norms]
    try:
        yield calls
    finally:
        for owner, kept in before:
            vars(owner).clear()
            vars(owner).update(kept)


def _clock_costs(calls: int = 20_000) -> tuple[float, float]:
    """What a clock adds to the time that it shows, and around it, in seconds a call."""
    holder = _Empty()
    spent: dict[str, float] = {"": 0.0}

    def timed(*args: Any) -> Any:
        begin = time.perf_counter()
        y = holder.nothing(*args)
        spent[""] += time.perf_counter() - begin
        return y

    begin = time.perf_counter()
    for _ in range(calls):
        timed(None)
    total = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in range(calls):
        holder.nothing(None)
    bare = time.perf_counter() - begin
    inside = max(0.0, spent[""] - bare) / calls
    return inside, max(0.0, total - spent[""]) / calls


class _Empty:
    def nothing(self, x: object) -> object:
        return x


def _floor(size: Size, sentences: Sequence[Sentence]) -> float:
    """Milliseconds per sentence of as many operations on next to no numbers: what it takes to begin them."""
    tiny = Size(8, 8, size.heads, size.encoder, size.decoder, size.source, 16)
    decoder = Settled(Translator(tiny).eval(), max(words for _, words in sentences))
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        for source, count in sentences:
            decoder.translate(source, count)
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times) / len(sentences)


def lengths(
    pairs: Sequence[tuple[Tensor, Tensor]], wanted: int, shortest: int, longest: int
) -> list[Sentence]:
    """Sentences of evenly spread lengths, each with the number of words of its reference."""
    fitting = sorted((p for p in pairs if shortest <= len(p[1]) <= longest), key=lambda pair: len(pair[1]))
    picked = [fitting[(2 * k + 1) * len(fitting) // (2 * wanted)] for k in range(wanted)]
    return [(source, len(target)) for source, target in picked]


def drawn(wanted: int, shortest: int, longest: int, words: int, generator: torch.Generator) -> list[Sentence]:
    """Random words of such lengths."""
    found = []
    for k in range(wanted):
        count = shortest + (longest - shortest) * (2 * k + 1) // (2 * wanted)
        ends = torch.tensor([EOS])
        said = torch.randint(3, words, (count - 1,), generator=generator)
        found.append((torch.cat([said, ends]), count))
    return found
