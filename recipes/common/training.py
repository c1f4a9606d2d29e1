"""One loop for every model: it shows progress, goes on where it was interrupted, and runs under torchrun."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from .files import replace
from .recipe import Run


class Stateful(Protocol):
    """Has a state that can be kept and taken up again."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass
class History:
    """What a training run saw.

    Attributes:
        losses: of each step, on this process's share of the batch.
        validations: steps done and what ``validate`` gave.
        best: the best of those, whose state the model has in the end; None without.
    """

    losses: list[float] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: float | None = None


def train(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[nn.Module, int], Tensor],
    run: Run,
    steps: int,
    *,
    title: str = "training",
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    clipped: Iterable[nn.Parameter] | None = None,
    after_step: Callable[[int], None] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    every: int = 200,
    better: Literal["min", "max"] = "min",
    others: Mapping[str, Stateful] | None = None,
) -> History:
    """Train a model in place.

    Every ``every`` steps, and at the end, it validates and saves itself to ``run.folder``, from where the same call
    goes on. In a dry run there is one step, and neither. With several processes gradients are averaged.

    Args:
        model: on ``run.device``.
        optimizer: of its parameters.
        loss: ``loss(model, step)``; calls the model that it is given, on a batch that depends on the step alone,
            of which ``run.share`` gives this process's part.
        run: says where to save, what to show, and who else takes part.
        steps: how many optimisation steps.
        title: shown, and the name of the checkpoint: another one for each stage of a run.
        schedule: share of each group's learning rate at a step.
        clip: norm that the gradients of all parameters together are clipped to.
        clipped: those parameters, if not all.
        after_step: called with the number of steps done, after the optimiser.
        validate: a score of the model, which is in evaluation mode; the model ends with its best state.
        every: how often, in steps.
        better: whether low or high scores are.
        others: what else has a state that a checkpoint must keep, of JSON values, by names.
    """
    steps = 1 if run.dry else steps
    validate = None if run.dry else validate
    limited = list(model.parameters() if clipped is None else clipped)
    kept = _Checkpoint(run, title, others or {})
    history, best = kept.load(model, optimizer)
    full = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    wrapped = DistributedDataParallel(model) if run.world > 1 else model
    model.train()
    for step in range(len(history.losses), steps):
        for group, lr in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = lr * (1.0 if schedule is None else schedule(step))
        optimizer.zero_grad()
        value = loss(wrapped, step)
        value.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(limited, clip)
        optimizer.step()
        if after_step is not None:
            after_step(step + 1)
        history.losses.append(value.item())
        run.progress(title, step + 1, steps, loss=history.losses[-1])
        if (step + 1) % every == 0 or step + 1 == steps:
            if validate is not None:
                best = _validated(model, validate, step + 1, history, best, better)
            if not run.dry:
                kept.save(model, optimizer, history, best)
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return history


def warmup_cosine(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """A schedule: up in a straight line, then down along half a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _validated(
    model: nn.Module,
    validate: Callable[[nn.Module], float],
    step: int,
    history: History,
    best: dict[str, Tensor] | None,
    better: str,
) -> dict[str, Tensor] | None:
    """Score the model; the best state so far, which is kept up to date in the history, too."""
    model.eval()
    with torch.no_grad():
        score = float(validate(model))
    model.train()
    history.validations.append((step, score))
    known = history.best
    if math.isfinite(score) and (known is None or (score < known if better == "min" else score > known)):
        history.best = score
        return {name: value.detach().clone() for name, value in model.state_dict().items()}
    return best


class _Checkpoint:
    """A training run in one file: tensors, and in its metadata what is not a tensor."""

    def __init__(self, run: Run, title: str, others: Mapping[str, Stateful]) -> None:
        name = re.sub(r"\W+", "-", title)
        self.run, self.others = run, others
        self.file = run.folder / f"{name}.safetensors"

    def save(
        self, model: nn.Module, optimizer: Optimizer, history: History, best: dict[str, Tensor] | None
    ) -> None:
        if self.run.rank != 0:
            return
        self.run.folder.mkdir(parents=True, exist_ok=True)
        numbers: dict[str, dict[str, Any]] = {}
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (best or {}).items()}
        tensors["random"] = torch.get_rng_state()
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value
                else:
                    numbers.setdefault(str(index), {})[key] = value
        stored = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        others = {name: other.state_dict() for name, other in self.others.items()}
        record = {"optimizer": numbers, "others": others, **vars(history)}
        replace(self.file, lambda path: save_file(stored, path, {"record": json.dumps(record)}))

    def load(self, model: nn.Module, optimizer: Optimizer) -> tuple[History, dict[str, Tensor] | None]:
        """Go on with what was saved."""
        if not self.run.agree(self.file.is_file()):
            return History(), None
        with safe_open(self.file, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for key, value in load_file(self.file).items():
            part, _, name = key.partition(".")
            if part == "random":
                self._draw_on(value, len(record["losses"]))
            else:
                parts[part][name] = value.to(self.run.device)
        model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in record["optimizer"].items()}
        for key, value in parts["optimizer"].items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        for name, other in self.others.items():
            other.load_state_dict(record["others"][name])
        validations = [(int(step), float(score)) for step, score in record["validations"]]
        return History(record["losses"], validations, record["best"]), parts["best"] or None

    def _draw_on(self, state: Tensor, step: int) -> None:
        """Random numbers as they would have come; other processes than the first draw new ones."""
        if self.run.rank == 0:
            torch.set_rng_state(state)
        else:
            torch.manual_seed(self.run.seed + 7919 * self.run.rank + step)
