"""How long networks take, measured in turns on one thread, so that noise hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from ..common import Case, Row, Run
from .mixing import prepare_
from .models import ShuffleNet
from .settings import Settings

PREPARED = "k, prepared"
Times = dict[str, list[float]]


def timed(settings: Settings, case: Case, run: Run) -> Row:
    """Seconds of a training step and of one image at inference, for every mixing, in milliseconds with their ratios."""
    width, rounds, batch = case.options["width"], settings.rounds, settings.timed_batch
    if run.dry:
        rounds, batch = 1, 2
    row: Row = {}
    if run.rank != 0:  # others at work would be in the way
        return row
    with one_thread():
        nets = {name: ShuffleNet(width, settings.classes, name).to(run.device) for name in settings.mixings}
        x = torch.randn(batch, 3, settings.size, settings.size, device=run.device)
        y = torch.arange(batch, device=run.device) % settings.classes
        row["step"] = summary(in_turns({n: _step(net, x, y) for n, net in nets.items()}, rounds, run))
        evaluated: dict[str, nn.Module] = {name: net.eval() for name, net in nets.items()}
        if "k" in nets and run.device.type == "cpu":
            again = ShuffleNet(width, settings.classes, "k")
            again.load_state_dict(nets["k"].state_dict())
            evaluated[PREPARED] = prepare_(again)
        for size in settings.timed_sizes:
            image = torch.randn(1, 3, size, size, device=run.device)
            times = in_turns({n: _inference(net, image) for n, net in evaluated.items()}, rounds, run)
            row[f"inference {size}"] = summary(times)
    return row


def in_turns(actions: Mapping[str, Callable[[], object]], rounds: int, run: Run) -> Times:
    """Seconds of each action in each round; the first round is not counted unless it is the only one."""
    times: Times = {name: [] for name in actions}
    for done in range(rounds + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if run.device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
        run.progress("rounds", done + 1, rounds + 1)
    return {name: seconds[1:] for name, seconds in times.items()}


def summary(times: Times) -> dict[str, dict[str, float]]:
    """Median milliseconds, and the median over rounds of the ratio to the shuffle in the same round."""
    reference = times["shuffle"]
    return {
        name: {
            "ms": round(1e3 * statistics.median(seconds), 3),
            "ratio": round(statistics.median(s / r for s, r in zip(seconds, reference, strict=True)), 3),
        }
        for name, seconds in times.items()
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


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside, what it was outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
