"""One loop for training and for healing: AdamW, clipped gradients, cosine; it goes on where it was interrupted."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import nn

from ..common.files import replace
from ..common.tasks import Schedule, Task

MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "training.json"


def rate(schedule: Schedule, step: int) -> float:
    """The share of the learning rate at a step."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases, norms and embeddings of positions."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def train(
    model: nn.Module,
    task: Task,
    schedule: Schedule,
    title: str,
    *,
    groups: list[dict[str, Any]] | None = None,
    first_batch: int = 0,
    folder: Path | None = None,
    every: int = 200,
    report: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a model in place and return the losses. With a folder it saves itself and goes on from what it finds."""
    groups = groups if groups is not None else parameter_groups(model, schedule.weight_decay)
    for group in groups:
        group.setdefault("lr", schedule.lr)
        group["full_lr"] = group["lr"]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    losses = resume(model, optimiser, folder) if folder is not None else []
    model.train()
    with bar() as progress:
        shown = progress.add_task(title, total=schedule.steps, completed=len(losses), loss=math.nan)
        for step in range(len(losses), schedule.steps):
            for group in optimiser.param_groups:
                group["lr"] = group["full_lr"] * rate(schedule, step)
            batch = task.batch(first_batch + step)
            with torch.autocast("cpu", torch.bfloat16, enabled=schedule.half):
                loss = task.loss(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            progress.update(shown, advance=1, loss=losses[-1])
            last = step + 1 == schedule.steps
            if folder is not None and (last or (step + 1) % every == 0):
                save(model, optimiser, losses, folder)
            if report is not None and (last or (step + 1) % every == 0):
                model.eval()
                report(step + 1, sum(losses[-every:]) / len(losses[-every:]))
                model.train()
    model.eval()
    return losses


def bar() -> Progress:
    """A progress bar with the loss."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())


def save(model: nn.Module, optimiser: torch.optim.Optimizer, losses: list[float], folder: Path) -> None:
    """Write everything that going on needs; each file appears whole or not at all, the step last."""
    folder.mkdir(parents=True, exist_ok=True)
    moments = {
        f"{index}.{name}": value.detach().contiguous()
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }
    step = {"step": str(len(losses))}
    replace(folder / OPTIMISER, lambda path: save_file(moments, path, step))
    replace(folder / MODEL, lambda path: save_file(named_tensors(model), path, step))
    replace(folder / STATE, lambda path: path.write_text(json.dumps({"step": len(losses), "losses": losses})))


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in model.state_dict().items()}


def resume(model: nn.Module, optimiser: torch.optim.AdamW, folder: Path) -> list[float]:
    """Load what an earlier run saved. Files of two different steps (interrupted between them) start again."""
    if not all((folder / name).is_file() for name in (MODEL, OPTIMISER, STATE)):
        return []
    losses: list[float] = json.loads((folder / STATE).read_text())["losses"]
    from safetensors import safe_open

    for name in (MODEL, OPTIMISER):
        with safe_open(folder / name, framework="pt") as file:
            if (file.metadata() or {}).get("step") != str(len(losses)):
                return []
    model.load_state_dict(load_file(folder / MODEL))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / OPTIMISER).items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return losses
