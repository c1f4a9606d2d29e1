"""How long layers take here, against the dense layer in the same place: turn by turn, and judged by paired ratios."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

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


class Clock:
    """Measured times by place and structure, each taken once.

    In a model, a layer meets its weight after all others have passed through the caches. So copies of a layer take
    turns, as many as make up the weights of the model (or ``COLD_BYTES``), dense and structured alike.

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
                runner = _Runner(self._copies(place, _dense_layer(place)), _input(place, self.batch))
                self._dense[key] = statistics.median(runner.time() for _ in range(self.rounds))
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
        """A fresh measurement, whatever is known."""
        return self._race(place, [structure])[structure]

    def forget(self, place: Place, structure: Structure, timing: Timing) -> None:
        """Put a fresh measurement in the place of what was known."""
        self._known[place, structure, torch.get_num_threads()] = timing

    def _race(self, place: Place, structures: Sequence[Structure]) -> dict[Structure, Timing]:
        dense, x = _dense_layer(place), _input(place, self.batch)
        runners = [_Runner(self._copies(place, dense), x)]
        for structure in structures:
            matrix = structure.random(*place.shape, dtype=place.dtype, device=place.device)
            runners.append(_Runner(self._copies(place, layer_like(dense, matrix)), x))
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
        return {
            s: _timing(self.batch, samples[0], own) for s, own in zip(structures, samples[1:], strict=True)
        }

    def _copies(self, place: Place, layer: nn.Module) -> list[nn.Module]:
        m, n = place.shape
        count = max(1, min(self.model_bytes // (m * n * place.dtype.itemsize), MOST_COPIES))
        return [layer, *(copy.deepcopy(layer) for _ in range(count - 1))]


class _Runner:
    """Calls layers in turn with one input, enough of them to fill a sample."""

    def __init__(self, layers: Sequence[nn.Module], x: Tensor) -> None:
        self.layers, self.x, self.count = [layer.eval() for layer in layers], x, 1
        self.place = 0
        self._on_gpu = x.device.type == "cuda"
        with torch.inference_mode():
            for layer in self.layers:  # whatever is prepared at the first call
                layer(x)
        self.time()
        self.count = max(1, min(1000, round(SAMPLE_SECONDS / max(self.time(), 1e-9))))

    def time(self) -> float:
        """Seconds of one call, the mean of some in a row."""
        layers, x, size = self.layers, self.x, len(self.layers)
        calls = [layers[(self.place + k) % size] for k in range(self.count)]
        self.place = (self.place + self.count) % size
        with torch.inference_mode():
            if self._on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            for layer in calls:
                layer(x)
            if self._on_gpu:
                torch.cuda.synchronize()
            return (time.perf_counter() - start) / len(calls)


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
