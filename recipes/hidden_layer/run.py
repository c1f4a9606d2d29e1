"""One run: the rates race, and the best one by validation is tested. Another one: the time of a step of all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common import Case, Row, Run
from ..common.clock import race
from ..common.images import accuracy
from ..common.training import History, train
from .models import METHODS, Net
from .sets import SIZE, Task, load
from .settings import TIME, Settings, rates


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Train, choose and test one method on one data set; or measure the time of all."""
    if case.name == TIME:
        return step_times(settings, 1 if run.dry else settings.timed, run.device)
    method, name = case.options["method"], case.options["data"]
    synthetic = settings.synthetic or run.dry
    # The data do not depend on the rates, and a search changes those.
    of_data = replace(settings, rates=(), low_rates=(), rounds=())
    task = load(name, of_data, None if synthetic else run.data())
    racer = _Racer(settings, task, method, dict(settings.data)[name], run)
    rate, model, history = racer.race()
    return {
        "method": method,
        "data": name,
        "source": task.source,
        "images": [len(racer.fit), len(racer.held), len(task.test)],
        "rate": rate,
        "steps": len(history.losses),
        "rates": racer.seen,
        "validation": history.best,
        "test": accuracy(_on(run.device, model), task.test, task.test_labels),
        "parameters": METHODS[method].num_params(SIZE),
        "compression": METHODS[method].compression(SIZE),
    }


@dataclass
class _Runner:
    """One of the rates: a model and its optimiser."""

    rate: float
    model: Net
    optimizer: torch.optim.Optimizer


class _Racer:
    """All rates of one method on one data set."""

    def __init__(self, settings: Settings, task: Task, method: str, steps: int, run: Run) -> None:
        self.settings, self.task, self.steps, self.run_ = settings, task, steps, run
        order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(run.seed))
        held = round(settings.validation * len(order))
        self.held, self.fit = order[:held], order[held:]
        self.runners = []
        grid = rates(settings, method)
        for rate in grid[:1] if run.dry else grid:
            torch.manual_seed(run.seed)
            model = Net(method, SIZE).to(run.device)
            optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=settings.momentum)
            self.runners.append(_Runner(rate, model, optimizer))
        self.seen: dict[str, float] = {}
        """Validation accuracy of each rate at the last look at it."""

    def race(self) -> tuple[float, Net, History]:
        """Drop rates round by round; the winner, in its best state by validation."""
        done = 0
        if not self.run_.dry:
            for steps, left in self.settings.rounds:
                for runner in self.runners:
                    self._train(runner, done, steps)
                    self.seen[str(runner.rate)] = self._validate(runner.model)
                self.runners.sort(key=lambda r: -self.seen[str(r.rate)])
                self.runners, done = self.runners[:left], steps
        finished = [(r, self._train(r, done, self.steps, final=True)) for r in self.runners]
        for runner, history in finished:
            self.seen[str(runner.rate)] = _best(history)
        winner, history = max(finished, key=lambda pair: _best(pair[1]))
        return winner.rate, winner.model, history

    def _train(self, runner: _Runner, begin: int, end: int, *, final: bool = False) -> History:
        def loss(model: nn.Module, step: int) -> Tensor:
            which = self.run_.share(self._batch(begin + step))
            images, labels = self.task.train[which], self.task.labels[which]
            return F.cross_entropy(model(images.to(self.run_.device)), labels.to(self.run_.device))

        title = f"lr {runner.rate:g}, from {begin}"
        validate = self._validate if final else None
        return train(
            runner.model,
            runner.optimizer,
            loss,
            self.run_,
            end - begin,
            title=title,
            validate=validate,
            every=self.settings.every,
            better="max",
        )

    def _batch(self, step: int) -> Tensor:
        """Every image once in a pass, in an order that depends on the seed and the pass."""
        size = min(self.settings.batch, len(self.fit))
        passes, place = divmod(step, len(self.fit) // size)
        generator = torch.Generator().manual_seed(self.run_.seed * 1_000_003 + passes)
        order = torch.randperm(len(self.fit), generator=generator)
        return self.fit[order[place * size : (place + 1) * size]]

    def _validate(self, model: nn.Module) -> float:
        return accuracy(_on(self.run_.device, model), self.task.train[self.held], self.task.labels[self.held])


def _best(history: History) -> float:
    return history.best if history.best is not None else float("-inf")


def _on(device: torch.device, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A model for what is still elsewhere."""
    return lambda images: model(images.to(device))


def step_times(settings: Settings, rounds: int, device: torch.device) -> Row:
    """Median seconds of an optimisation step of each method, which take turns."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(settings.batch, SIZE, generator=generator).to(device)
    labels = torch.randint(10, (settings.batch,), generator=generator).to(device)
    models = {name: Net(name, SIZE).to(device) for name in METHODS}
    optimizers = {
        name: torch.optim.SGD(model.parameters(), lr=0.01, momentum=settings.momentum)
        for name, model in models.items()
    }

    def step(name: str) -> None:
        optimizers[name].zero_grad()
        F.cross_entropy(models[name](images), labels).backward()  # type: ignore[no-untyped-call]
        optimizers[name].step()

    threads = torch.get_num_threads()
    found = race({name: partial(step, name) for name in models}, rounds, threads=threads, device=device)
    medians = {name: found.time(name).median for name in models}
    return {"step_seconds": medians, "rounds": rounds, "threads": threads}
