"""How long layers take here, against the dense layer in the same place: turn by turn, and judged by paired ratios."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from kmatrix._waiting import waiting_for
from kmatrix.compress._processes import from_first, leads, together
from kmatrix.compress.layers import Place, layer_like
from kmatrix.fitting import Timing
from kmatrix.structures import Structure

SAMPLE_SECONDS = 1e-3
"""Of one turn: long against the clock, short against what a neighbour does to a machine."""
ROUNDS = 15
AT_ONCE = 8
"""Structures that take turns with one dense layer."""
COLD_BYTES = 64 << 20
"""Weights of a model up to here are taken to push each other out of the nearest caches."""
MOST_COPIES = 64
PASS_SECONDS = 4e-3
"""Of a pass through the copies, about: where a layer takes that long, it does not matter where its weight was."""
_UNKNOWN = Timing(1, 1.0, 1.0, ratios=(1.0, 1.0, 1.0))


@contextmanager
def _own_random_numbers(place: Place) -> Iterator[None]:
    """Draw layers without a trace in the user's random numbers."""
    devices = [torch.cuda.current_device()] if place.device == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


class Clock:
    """Measured times by place and structure, each taken once.

    In a model that runs again and again, a layer meets its weight after all others have passed through the caches. So
    copies of a layer take turns, as many as make up the weights of the model (or ``COLD_BYTES``), dense and structured
    alike, and one pass through all of them goes unseen before those that count: it puts the caches into the state in
    which the model's own last pass would have left them.

    In a process group the first process measures while the others wait, and all go by its figures.

    Args:
        batch: vectors, or images, of a product.
        model_bytes: how much the weights of the model's layers hold.
        rounds: turns of each.
    """

    def __init__(self, batch: int, *, model_bytes: int = 0, rounds: int = ROUNDS) -> None:
        self.batch = batch
        self.rounds = rounds
        self.model_bytes = min(model_bytes, COLD_BYTES)
        self._known: dict[tuple[Place, Structure, int], Timing] = {}
        self._dense: dict[tuple[Place, int], float] = {}

    def dense_seconds(self, place: Place) -> float:
        """Of the dense layer alone."""
        key = place, torch.get_num_threads()
        if key not in self._dense:
            known = [t.dense_seconds for (p, _, n), t in self._known.items() if (p, n) == key]
            if known:
                self._dense[key] = statistics.median(known)
            else:
                self._dense[key] = from_first([self._dense_alone(place) if leads() else 0.0])[0]
        return self._dense[key]

    def against_dense(self, place: Place, structures: Iterable[Structure]) -> dict[Structure, Timing]:
        """Times of some structures in a place; those not measured yet are measured now."""
        wanted = list(dict.fromkeys(structures))
        threads = torch.get_num_threads()
        missing = [s for s in wanted if (place, s, threads) not in self._known]
        for group in _groups(missing, AT_ONCE):
            for structure, timing in self._race(place, group).items():
                self._known[place, structure, threads] = timing
        return {s: self._known[place, s, threads] for s in wanted}

    def again(self, place: Place, structure: Structure) -> Timing:
        """A fresh measurement, whatever is known, and known from now on."""
        timing = self._race(place, [structure])[structure]
        self._known[place, structure, torch.get_num_threads()] = timing
        return timing

    def _race(self, place: Place, structures: Sequence[Structure]) -> dict[Structure, Timing]:
        measured = self._raced(place, structures) if leads() else [_UNKNOWN] * len(structures)
        if together():
            figures = from_first(
                [x for t in measured for x in (t.dense_seconds, t.matrix_seconds, *t.ratios)]
            )
            measured = [
                Timing(self.batch, figures[k], figures[k + 1], ratios=tuple(figures[k + 2 : k + 5]))
                for k in range(0, len(figures), 5)
            ]
        return dict(zip(structures, measured, strict=True))

    def _raced(self, place: Place, structures: Sequence[Structure]) -> list[Timing]:
        with _own_random_numbers(place):
            dense, x = _dense_layer(place), _input(place, self.batch)
            count = self._copies(place, dense, x)
            runners = [_Runner(dense, count, x)]
            for structure in structures:
                matrix = structure.random(*place.shape, dtype=place.dtype, device=place.device)
                runners.append(_Runner(layer_like(dense, matrix), count, x))
        samples: list[list[float]] = [[] for _ in runners]
        turns = list(zip(runners, samples, strict=True))
        collecting = gc.isenabled()
        gc.disable()
        try:
            for _ in range(self.rounds):
                for runner, own in turns:
                    own.append(runner.time())
                turns.reverse()  # none always comes first
        finally:
            if collecting:
                gc.enable()
        return [_timing(self.batch, samples[0], own) for own in samples[1:]]

    def _dense_alone(self, place: Place) -> float:
        with _own_random_numbers(place):
            dense, x = _dense_layer(place), _input(place, self.batch)
            runner = _Runner(dense, self._copies(place, dense, x), x)
        return statistics.median(runner.time() for _ in range(self.rounds))

    def _copies(self, place: Place, dense: nn.Module, x: Tensor) -> int:
        m, n = place.shape
        count = min(self.model_bytes // (m * n * place.dtype.itemsize), MOST_COPIES)
        return max(1, min(count, int(PASS_SECONDS / max(_Runner(dense, 1, x).time(), 1e-9))))


class _Runner:
    """Calls copies of a layer in turn with one input, enough passes through all of them to fill a sample."""

    def __init__(self, layer: nn.Module, copies: int, x: Tensor) -> None:
        self.layers, self.x = [copy.deepcopy(layer).eval() for _ in range(copies)], x
        self.passes = 1
        self._wait = waiting_for(x.device)
        self.time()  # whatever is prepared at the first call
        once = max(self.time() * copies, 1e-9)
        self.passes = max(1, min(1000, round(SAMPLE_SECONDS / once)))

    def time(self) -> float:
        """Seconds of one call, the mean of some passes; one pass goes before them unseen."""
        with torch.inference_mode():
            self._pass()
            start = time.perf_counter()
            for _ in range(self.passes):
                self._pass()
            return (time.perf_counter() - start) / (self.passes * len(self.layers))

    def _pass(self) -> None:
        for layer in self.layers:
            layer(self.x)
        self._wait()


def _timing(batch: int, dense: Sequence[float], own: Sequence[float]) -> Timing:
    ratios = [a / b for a, b in zip(dense, own, strict=True)]
    quartiles = tuple(statistics.quantiles(ratios, n=4, method="inclusive"))
    return Timing(batch, statistics.median(dense), statistics.median(own), ratios=quartiles)


def _dense_layer(place: Place) -> nn.Module:
    m, n = place.shape
    like: dict[str, Any] = {"dtype": place.dtype, "device": place.device}
    if place.kind == "linear":
        return nn.Linear(n, m, bias=place.bias, **like)
    channels, _, _, kernel, stride, (padding, mode), dilation = cast(tuple[Any, ...], place.geometry)
    return nn.Conv2d(
        channels, m, kernel, stride, padding, dilation, bias=place.bias, padding_mode=mode, **like
    )


def _input(place: Place, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(place.input(batch), generator=generator).to(place.device, place.dtype)


def _groups(items: Sequence[Structure], size: int) -> Iterator[list[Structure]]:
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
