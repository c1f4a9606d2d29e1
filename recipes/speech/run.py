"""One run: a front end and a Bi-LSTM, trained together with CTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..common import Case, Row, Run
from ..common.data.speech import Utterance
from ..common.training import train, warmup_cosine
from .clock import against_mfsc
from .corpus import Batch, Corpus, corpus, tensors
from .decoding import error_rate, greedy
from .model import Recogniser
from .settings import LEARNED, RATES, Geometry, Settings

if TYPE_CHECKING:
    import optuna

MORE_FOR_HYBRID = 34 / 24  # the paper's hybrid trains for ten more epochs
CLIP = 5.0
TIMED_RATES = (8_000, 16_000)


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Train, choose the best state on the validation speaker, test."""
    front = str(case.options["front"])
    data = corpus(settings, run.seed, run.data, run.dry)
    model = Recogniser(front, settings, data.labels).to(run.device)
    steps = round(settings.steps * (MORE_FOR_HYBRID if front == "hybrid" else 1))
    history = train(
        model,
        optimizer(model, settings, front),
        lambda wrapped, step: loss(wrapped, _own(data, step, settings, run)),
        run,
        steps,
        schedule=warmup_cosine(steps, steps // 20),
        clip=CLIP,
        validate=lambda wrapped: score(wrapped, data.validation, settings, run.device),
        every=settings.every,
    )
    times = {
        str(rate): against_mfsc(front, Geometry(rate, settings.hop_ms), settings.timing_seconds)
        for rate in sorted({*TIMED_RATES, settings.rate} if settings.corpus == "digits" else {settings.rate})
    }
    return {
        "validation": history.best,
        "test": score(model, data.test, settings, run.device),
        "front_params": sum(p.numel() for p in model.front.parameters()),
        "params": sum(p.numel() for p in model.parameters()),
        "front_lr": settings.front_lr[front] if front in LEARNED else None,
        "final_loss": sum(history.losses[-20:]) / len(history.losses[-20:]),
        "times": times,
        "validations": history.validations,
    }


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """The front end's learning rate, of the paper's six; nothing for front ends that do not learn."""
    front = str(case.options["front"])
    if front not in LEARNED:
        return settings
    rate = trial.suggest_categorical("front_lr", RATES)
    return replace(settings, front_lr={**settings.front_lr, front: rate})


def optimizer(model: Recogniser, settings: Settings, front: str) -> torch.optim.Optimizer:
    """RMSProp as PyTorch-Kaldi sets it, the front end at a rate of its own."""
    groups = [{"params": [p for name, p in model.named_parameters() if not name.startswith("front.")]}]
    own = list(model.front.parameters())
    if own:
        groups.append({"params": own, "lr": settings.front_lr[front]})  # type: ignore[dict-item]
    return torch.optim.RMSprop(groups, lr=settings.lr, alpha=0.95, eps=1e-8)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """CTC's, per label, averaged over utterances."""
    frames, rows, labels, counts = batch
    log_probabilities, lengths = model(frames, rows)
    return nn.functional.ctc_loss(log_probabilities, labels, lengths, counts, zero_infinity=True)


def score(
    model: nn.Module, utterances: Sequence[Utterance], settings: Settings, device: torch.device
) -> float:
    """Label error rate in percent, greedy decoding."""
    found: list[list[int]] = []
    with torch.no_grad():
        for first in range(0, len(utterances), settings.batch):
            frames, rows, _, _ = tensors(utterances[first : first + settings.batch], settings.geometry)
            found += greedy(*model(frames.to(device), rows))
    return error_rate(found, [u.labels for u in utterances])


def _own(data: Corpus, step: int, settings: Settings, run: Run) -> Batch:
    """This process's share of a step's batch."""
    utterances = data.batch(step)
    own = [utterances[k] for k in run.share(torch.arange(len(utterances))).tolist()]
    frames, rows, labels, counts = tensors(own, settings.geometry)
    return frames.to(run.device), rows, labels.to(run.device), counts.to(run.device)
