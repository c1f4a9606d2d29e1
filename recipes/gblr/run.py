"""One method on one subject: train, and look at the validation and the test part."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kmatrix as km

from ..common import Case, Row, Run
from ..common.files import replace as write
from ..common.tasks import Schedule
from ..common.training import train, warmup_cosine
from .boxes import parameter_groups, put_boxes, train_boxes
from .methods import costs, dense_matrices, ranks_of, rule, swap
from .settings import DENSE, SCRATCH, Settings, rate_of
from .subjects import Subject, subject_of

BATCHES_OF_A_SEED = 1_000_000
"""Seeds see different batches, methods the same."""


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Train once; quality on the validation and the test part, and what every matrix costs."""
    one = _Runs(settings, run, subject_of(case.options["subject"], settings, run), case.options["subject"])
    start, method = case.options["start"], case.options["method"]
    model = one.fresh() if start == SCRATCH else one.trained()
    whole = costs(model)
    losses, extra = one.train(model, start, method)
    spent = costs(model)
    if method == "gblr":
        one.keep_costs(start, spent)
        extra["boxes"] = _places(model)
    kept = {part: one.quality(model, part) for part in ("validation", "test")}
    return {
        "lr": rate_of(settings, case.name), "share": sum(spent.values()) / sum(whole.values()), "costs": spent,
        "last_loss": statistics.mean(losses[-20:]), "validation": kept["validation"]["loss"],
        "quality": kept, **extra,
    }  # fmt: skip


def _places(model: nn.Module) -> dict[str, list[str]]:
    """Where the boxes of the last block's values lie, ``start width start width`` of rows and columns of each."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, km.nn.Linear) and name.endswith("attention.value"):
            found = {name: [" ".join(map(str, box)) for box in module.matrix.boxes.to_lists()]}
    return found


class _Runs:
    """Runs of one subject with one seed: what is asked for, and what it begins with."""

    def __init__(self, settings: Settings, run: Run, subject: Subject, name: str) -> None:
        self.settings, self.given, self.subject, self.name = settings, run, subject, name
        self.size = settings.vit if name == "vit" else settings.characters
        self.dry = run.dry

    def fresh(self) -> nn.Module:
        """The dense model before training."""
        torch.manual_seed(self.given.seed)
        return self.subject.build().to(self.given.device)

    def trained(self) -> nn.Module:
        """The dense model after training, by whichever run needs it first."""
        model = self.fresh()
        lr = rate_of(self.settings, f"{self.name}/{SCRATCH}/dense")
        file = self._file(f"dense-{lr:g}", "safetensors")
        if not self.given.agree(file.is_file()):
            self.train(model, SCRATCH, "dense")
            tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
            write(file, lambda path: save_file(tensors, path))
        model.load_state_dict(load_file(file))
        return model

    def train(self, model: nn.Module, start: str, method: str) -> tuple[list[float], dict[str, Any]]:
        """Replace, train, and harden what learns its boxes."""
        schedule, first = self._schedule(start, method)
        budget, title = self.settings.budget, f"{start} {method}"
        torch.manual_seed(self.given.seed)
        if method in ("gblr", "gblr-cut"):
            put_boxes(model, method, start, budget)
            rate = self.settings.structure_rates[start]
            loss = self._loss(first)
            return train_boxes(model, loss, self.given, schedule, rate, method, start, budget)
        if method != "dense":
            swap(model, rule(method, budget, self._ranks(start, method, model)), fit=start == DENSE)
        groups = parameter_groups(list(model.parameters()), schedule)
        optimizer = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.98))
        factor = warmup_cosine(schedule.steps, schedule.warmup)
        history = train(
            model,
            optimizer,
            self._loss(first),
            self.given,
            schedule.steps,
            title=title,
            schedule=factor,
            clip=1.0,
        )
        return history.losses, {}

    def quality(self, model: nn.Module, part: str) -> dict[str, float]:
        """Of the whole test part; choices look at the first 2,000 images of the validation part."""
        most = 2000 if (self.name, part) == ("vit", "validation") else None
        return self.subject.quality(model, part, most)

    def keep_costs(self, start: str, spent: dict[str, int]) -> None:
        """What learned boxes spend on every matrix, for low rank with the same budgets."""
        write(self._costs(start), lambda path: path.write_text(json.dumps(spent)))

    def _schedule(self, start: str, method: str) -> tuple[Schedule, int]:
        """A run's schedule and first batch; from dense it is a third as long, on batches not seen yet."""
        whole = self.size.schedule
        schedule = replace(whole, lr=rate_of(self.settings, f"{self.name}/{start}/{method}"))
        first = BATCHES_OF_A_SEED * self.given.seed
        if start == SCRATCH:
            return schedule, first
        steps = whole.steps // 3
        return replace(schedule, steps=max(1, steps), warmup=steps // 10), first + whole.steps

    def _loss(self, first: int) -> Callable[[nn.Module, int], Tensor]:
        def loss(model: nn.Module, step: int) -> Tensor:
            x, y = self.subject.batch(first + step)
            if not getattr(self.subject, "shared", False):
                own = self.given.share(torch.arange(len(x)))
                x, y = x[own], y[own]
            return self.subject.loss(model, (x.to(self.given.device), y.to(self.given.device)))

        return loss

    def _ranks(self, start: str, method: str, model: nn.Module) -> dict[str, int]:
        """Ranks by one share for all, or by what learned boxes spent on each matrix with the same seed."""
        shapes = {
            name: (layer.out_features, layer.in_features) for name, layer in dense_matrices(model).items()
        }
        if method != "low-rank-learned":
            budget = self.settings.budget
            return ranks_of({name: int(budget * m * n) for name, (m, n) in shapes.items()}, shapes)
        file = self._costs(start)
        if not self.given.agree(file.is_file()):
            learned = self.fresh() if start == SCRATCH else self.trained()
            self.train(learned, start, "gblr")
            self.keep_costs(start, costs(learned))
            torch.manual_seed(self.given.seed)
        return ranks_of(json.loads(file.read_text()), shapes)

    def _costs(self, start: str) -> Path:
        """Of boxes at the rate that the settings have for them; a search for another rate is not followed."""
        lr = rate_of(self.settings, f"{self.name}/{start}/gblr")
        return self._file(f"costs-{start}-{lr:g}", "json")

    def _file(self, what: str, ending: str) -> Path:
        folder = self.given.shared()
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.name}-{what}-{self.given.seed}.{ending}"
