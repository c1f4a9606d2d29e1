"""One run: a translator is trained from scratch, its last states are averaged, and its translations are scored."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..common import Run
from ..common.data.translation import Pairs, translation
from ..common.recipe import Row
from ..common.training import train
from .decoding import beam_search, greedy
from .families import replace, structured_parameters
from .model import EOS, PAD, Translator
from .settings import Corpus, Settings
from .text import Language, batch, batches, shorter, unseen

Encoded = list[tuple[Tensor, Tensor]]


@lru_cache(maxsize=2)
def corpus(folder: Path, which: Corpus) -> tuple[Pairs, Language, tuple[Encoded, Encoded, Encoded]]:
    """Sentences, what turns them into words, and the words; the same for all runs."""
    given = translation(folder, which.source, which.target, which.name)
    pairs = shorter(unseen(given), which.longest)
    language = Language(pairs.train, which.pieces)
    train_, validation, test = (language.encode(part) for part in pairs)
    return pairs, language, (train_, validation, test)


def synthetic(settings: Settings, count: int, longest: int, generator: torch.Generator) -> Encoded:
    """Random sentences whose translations are the sentences backwards."""
    words = min(settings.size.source, settings.size.target)
    found = []
    for _ in range(count):
        length = int(torch.randint(2, longest + 1, (), generator=generator))
        sentence = torch.randint(3, words, (length,), generator=generator)
        ends = torch.tensor([EOS])
        found.append((torch.cat([sentence, ends]), torch.cat([sentence.flip(0), ends])))
    return found


def quality(settings: Settings, which: Corpus, family: str, everywhere: bool, run: Run) -> Row:
    """Train one model and score it; a trial of a search is scored on the validation part alone."""
    if run.trial and settings.search_steps is not None:
        settings = dataclasses.replace(settings, steps=settings.search_steps)
    language: Language | None = None
    size = settings.size
    if settings.synthetic or run.dry:
        generator = torch.Generator().manual_seed(run.seed)
        # A dry run is for shapes: a batch of 32 sentences, whatever a batch would hold.
        counts_, longest = ((32, 1, 1), 30) if run.dry else ((256, 32, 32), 8)
        parts = [synthetic(settings, count, longest, generator) for count in counts_]
        references = [" ".join(map(str, target[:-1].tolist())) for _, target in parts[2]]
    else:
        pairs, language, encoded = corpus(run.data(), which)
        parts, references = list(encoded), [target for _, target in pairs.test]
        size = size.with_words(len(language.source), len(language.target))
    model = Translator(size, settings.dropout).to(run.device)
    counts = replace(model, family, everywhere)
    trainer = Trainer(settings, parts[0], run)
    trainer.train(model.to(run.device))
    rate = settings.dense_lr if family == "dense" else settings.structure_lr
    steps = 1 if run.dry else settings.steps
    row: Row = {**counts, "steps": steps, "rate": rate, "last_losses": trainer.losses[-20:]}
    if not run.dry:
        row |= {"validation": loss_of(model, parts[1], settings, run.device)}
    if not run.dry and not run.trial:
        row |= scored(model, parts[2], references, language, settings, run)
    return row


class Trainer:
    """The training recipe: Adam, inverse square root after a warm-up, smoothed labels, averaged last states.

    Args:
        settings: of the run.
        pairs: to learn from.
        run: says where and with whom.
    """

    def __init__(self, settings: Settings, pairs: Encoded, run: Run) -> None:
        self.settings, self.pairs, self.run = settings, pairs, run
        self.losses: list[float] = []
        self._pass, self._order = -1, [torch.empty(0)]
        self._passes: list[int] = []

    def train(self, model: Translator) -> None:
        """In place; the model ends with the mean of its last states."""
        s = self.settings
        shaped = {id(p) for p in structured_parameters(model)}
        groups = [
            {
                "params": [p for p in model.parameters() if (id(p) in shaped) == inside],
                "lr": s.lr * factor,
                "weight_decay": decay,
            }
            # The numbers of structured matrices do not decay, as in the code of the paper.
            for inside, factor, decay in ((False, s.dense_lr, s.weight_decay), (True, s.structure_lr, 0.0))
        ]
        optimizer = torch.optim.Adam([g for g in groups if g["params"]], betas=(0.9, 0.98))

        def keep(step: int) -> None:
            if not self.run.dry and self.run.rank == 0 and step in self._kept():
                self.run.folder.mkdir(parents=True, exist_ok=True)
                save_file({k: v.clone() for k, v in model.state_dict().items()}, self._file(step))

        history = train(
            model,
            optimizer,
            self.loss,
            self.run,
            s.steps,
            schedule=self.schedule,
            after_step=keep,
            every=s.every,
        )
        self.losses = history.losses
        files = [self._file(step) for step in self._kept() if self._file(step).is_file()]
        if files:
            average_(model, files)

    def schedule(self, step: int) -> float:
        """Share of the learning rate: up in a straight line, then down with the inverse square root."""
        s = self.settings
        if step < s.warmup:
            return s.warmup_from + (1 - s.warmup_from) * step / s.warmup
        return math.sqrt(max(s.warmup, 1) / max(step, 1))

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Smoothed cross entropy of the next word, a batch for each step."""
        indices = self.run.share(self._batch(step))
        source, previous, target = batch([self.pairs[i] for i in indices.tolist()], self.run.device)
        return smoothed(model(source, previous), target, self.settings.smoothing)

    def _batch(self, step: int) -> Tensor:
        # A pass ends where its batches do, and how many they are is known only when they are made.
        while not self._passes or step >= self._passes[-1]:
            self._load(len(self._passes))
            self._passes.append((self._passes[-1] if self._passes else 0) + len(self._order))
        number = next(k for k, end in enumerate(self._passes) if step < end)
        if number != self._pass:
            self._load(number)
        return self._order[step - (self._passes[number - 1] if number else 0)]

    def _load(self, number: int) -> None:
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + number)
        self._pass, self._order = number, batches(self.pairs, self.settings.words, generator)

    def _kept(self) -> list[int]:
        """After which steps states are kept."""
        s = self.settings
        return [s.steps - k * s.average_every for k in range(s.average) if s.steps > k * s.average_every]

    def _file(self, step: int) -> Path:
        return self.run.folder / f"state-{step}.safetensors"


def smoothed(scores: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Cross entropy a word, in nats, the label mixed with all words; padding does not count."""
    return F.cross_entropy(
        scores.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=smoothing
    )


def average_(model: nn.Module, files: Sequence[Path]) -> None:
    """Give a model the mean of some of its states."""
    mean: dict[str, Tensor] = {}
    for file in files:
        for name, value in load_file(file).items():
            share = value.double() / len(files)
            mean[name] = mean[name] + share if name in mean else share
    state = model.state_dict()
    model.load_state_dict({name: mean[name].to(value.dtype) for name, value in state.items()})


@torch.no_grad()
def loss_of(model: Translator, pairs: Encoded, settings: Settings, device: torch.device) -> float:
    """Cross entropy a word, without smoothing."""
    model.eval()
    total, words = 0.0, 0
    for indices in batches(pairs, settings.words, torch.Generator().manual_seed(0)):
        source, previous, target = batch([pairs[i] for i in indices.tolist()], device)
        count = int(target.ne(PAD).sum())
        total += float(smoothed(model(source, previous), target, 0.0)) * count
        words += count
    return total / words


def scored(
    model: Translator,
    pairs: Encoded,
    references: list[str],
    language: Language | None,
    settings: Settings,
    run: Run,
) -> Row:
    """BLEU and chrF of the translations, by beam search and of the likeliest next words."""
    import sacrebleu

    model.eval()
    found: dict[str, list[str]] = {"beam": [""] * len(pairs), "greedy": [""] * len(pairs)}
    # Sentences of like length together.
    groups = batches(pairs, settings.words, torch.Generator().manual_seed(0))
    for done, indices in enumerate(groups):
        source = batch([pairs[i] for i in indices.tolist()], run.device).source
        made = {
            "beam": beam_search(model, source, settings.beam, settings.penalty),
            "greedy": greedy(model, source),
        }
        for how, lists in made.items():
            for place, words in zip(indices.tolist(), lists, strict=True):
                found[how][place] = language.decode(words) if language else " ".join(map(str, words))
        run.progress("translating", done + 1, len(groups))
    metric = sacrebleu.BLEU()
    row: Row = {"bleu": metric.corpus_score(found["beam"], [references]).score}
    row["signature"] = str(metric.get_signature())
    row["bleu_greedy"] = sacrebleu.corpus_bleu(found["greedy"], [references]).score
    row["chrf"] = sacrebleu.corpus_chrf(found["beam"], [references]).score
    row["examples"] = [
        [found["beam"][k], references[k]] for k in range(0, len(pairs), max(1, len(pairs) // 5))
    ]
    return row
