"""How long networks take, measured in turns on one thread, so that noise hits all of them alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from ..common import Case, Row, Run
from ..common.clock import Race, race
from .mixing import prepare_
from .models import ShuffleNet
from .settings import Settings

PREPARED = "k, prepared"


def timed(settings: Settings, case: Case, run: Run) -> Row:
    """Seconds of a training step and of one image at inference, for every mixing, in milliseconds with their ratios."""
    width, rounds, batch = case.options["width"], settings.rounds, settings.timed_batch
    if run.dry:
        rounds, batch = 1, 2
    row: Row = {}
    if run.rank != 0:  # others at work would be in the way
        return row
    against = partial(race, rounds=rounds, device=run.device, progress=run.progress)
    nets = {name: ShuffleNet(width, settings.classes, name).to(run.device) for name in settings.mixings}
    x = torch.randn(batch, 3, settings.size, settings.size, device=run.device)
    y = torch.arange(batch, device=run.device) % settings.classes
    row["step"] = summary(against({n: _step(net, x, y) for n, net in nets.items()}))
    evaluated: dict[str, nn.Module] = {name: net.eval() for name, net in nets.items()}
    if "k" in nets and run.device.type == "cpu":
        again = ShuffleNet(width, settings.classes, "k")
        again.load_state_dict(nets["k"].state_dict())
        evaluated[PREPARED] = prepare_(again)
    for size in settings.timed_sizes:
        image = torch.randn(1, 3, size, size, device=run.device)
        found = against({n: _inference(net, image) for n, net in evaluated.items()})
        row[f"inference {size}"] = summary(found)
    return row


def summary(found: Race) -> dict[str, dict[str, float]]:
    """Median milliseconds, and the median over rounds of the ratio to the shuffle in the same round."""
    return {
        name: {
            "ms": round(1e3 * found.time(name).median, 3),
            "ratio": round(found.ratio(name, "shuffle").median, 3),
        }
        for name in found.seconds
    }


def _step(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        net.train()
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _inference(net: nn.Module, image: torch.Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def infer() -> torch.Tensor:
        return net(image)  # type: ignore[no-any-return]

    return infer
