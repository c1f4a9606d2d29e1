"""``compress_``: a whole model made smaller, layer by layer, under one budget, and nowhere slower than it was."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import get_args

import torch
from torch import Tensor, nn

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.compress._progress import Step, showing
from kmatrix.compress.budget import Option, choose
from kmatrix.compress.calibrate import Calibration, Forward, Moments, calibrate
from kmatrix.compress.candidates import Candidate, candidates
from kmatrix.compress.layers import Place, layer_like, weight_of
from kmatrix.compress.metric import Metric
from kmatrix.compress.result import CompressReport, LayerReport, Measure, Point, Tried
from kmatrix.compress.select import Filter, select
from kmatrix.compress.sizes import DEFAULT, Family, members
from kmatrix.compress.timing import Clock
from kmatrix.fitting import Timing
from kmatrix.fitting.certificate import machine
from kmatrix.nn.surgery import Site, swap_
from kmatrix.structures import Structure

BUDGETS = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
"""Of the curve, beside the one asked for."""
MOMENT_BYTES = 1 << 30
"""Second moments held at once; the calibration runs again for the next layers."""
CHECKS = 4
"""Times that the chosen structures are measured anew before those that were not confirmed are given up."""
FASTER = "faster than"


@dataclass
class _Layer:
    """One site on its way through the plan."""

    site: Site
    place: Place
    calls: float = 1.0
    vectors: float = 1.0
    weight: float = 1.0
    sensitivity: float = 1.0
    mean: Tensor | None = None
    found: tuple[Candidate, ...] = ()
    tried: tuple[Tried, ...] = ()
    timings: dict[Structure, Timing] | None = None
    dense_seconds: float | None = None
    reason: str = ""

    @property
    def dense_params(self) -> int:
        return math.prod(self.place.shape)


def compress_(
    model: nn.Module,
    budget: float = 0.5,
    *,
    of: Measure = "params",
    calibration: object = None,
    batch: int = 1,
    structures: Sequence[Family] | None = None,
    filter_fn: Filter | None = None,
    tol: float | None = None,
    forward: Forward | None = None,
    max_batches: int | None = None,
    sensitivity: bool = True,
    double: bool = False,
    ridge: float = 1e-3,
    verify_speed: bool = True,
    seed: int = 0,
    progress: bool | Step = True,
) -> CompressReport:
    """Replace the layers of a trained model by structured ones: smaller, and measured faster here.

    Every layer is fitted with every structure at several sizes, in the norm of its own inputs,
    ``tr((W - A) C (W - A)^T)`` with ``C`` their second moments over the calibration batches (their covariance where a
    bias takes the mean of the error). One mixed integer programme then chooses for all layers at once. A structure
    that is not measured faster than the dense layer, in the middle half of paired turns at this batch and with the
    threads that are set, is never chosen: then the layer stays dense, and the report says so.

    Args:
        model: changed in place; layers, and biases where they take a mean, are new parameters.
        budget: share of dense to keep, of what ``of`` says.
        of: ``"params"``: numbers of the whole model, those of other parts included; ``"flops"``: operations of the
            selected layers in a pass through the model; ``"time"``: their measured time at the batch.
        calibration: batches (tensors, tuples, dicts; what the model has no place for, as labels, is left out), or a
            function that takes the model and runs it. Without, errors are those of the weights.
        batch: vectors that meet a linear layer at once, images that meet a convolution.
        structures: what is tried: structures, and classes (``km.LowRank``) whose sizes are then chosen; by default
            low rank, Monarch and block tensor-trains.
        filter_fn: which layers: a function of the module and its name, or patterns (``"*.mlp.*"``, ``"!head"``).
        tol: largest relative squared error of the outputs of any one layer; no limit if not given.
        forward: runs the model on a batch, ``forward(model, batch)``.
        max_batches: how many batches to take.
        sensitivity: whether to go backwards from the outputs to learn how much each layer matters.
        double: whether moments are summed in float64.
        ridge: what is added to the diagonal of ``C`` in least squares, as a share of its mean.
        verify_speed: whether to measure; without, every structure may be chosen.
        seed: of every random choice.
        progress: whether to show a bar on a terminal, or a function ``(what, done, total)``.

    Returns:
        What was tried, chosen and measured for every layer, and why; the totals, and what other budgets would cost.

    Raises:
        ArgumentError: if an argument is out of range, no layer can be compressed, or the budget is below the least
            that can be reached, which the message names. The model is then unchanged.
        DtypeError: if an argument is of the wrong kind.

    Example:
        >>> import torch, kmatrix as km
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 8))
        >>> batches = [torch.randn(32, 64) for _ in range(4)]
        >>> report = km.compress_(model, budget=0.6, calibration=batches, verify_speed=False)
        >>> report.reached <= 0.6, type(model[0]).__name__
        (True, 'Linear')
    """
    began = time.perf_counter()
    budget = _checked(budget, of, tol, ridge, structures)
    batch = check_size("compress_", "batch", batch)
    sites, skipped = select(model, filter_fn)
    if not sites:
        reason = "no layer of the model can be compressed" + "".join(
            f"; {s.names[0]}: {s.reason}" for s in skipped[:3]
        )
        way_out = "pass a model with nn.Linear or nn.Conv2d layers, or a wider filter_fn"
        raise ArgumentError(complaint("compress_", "model", type(model).__name__, reason, way_out))
    bytes_of_weights = sum(weight_of(s).numel() * weight_of(s).element_size() for s in sites)
    clock = Clock(batch, model_bytes=bytes_of_weights) if verify_speed else None
    with showing("compress_", progress) as step:
        layers: list[_Layer] = []
        for group in _groups(sites, double):
            statistics = _statistics(
                model, group, calibration, forward, max_batches, sensitivity, double, step, seed
            )
            for site in group:
                moments = statistics.moments.get(site.name) if statistics else None
                layer = _examined(site, moments, statistics, clock, structures, ridge, seed, step)
                layers.append(layer)
                step("fitting: " + site.name, len(layers), len(sites))
        plan = _Plan(model, layers, of, tol, clock)
        picked = plan.settle(budget, step)
        curve = plan.curve(budget)
    plan.swap(picked)
    reports = tuple(plan.report(layer, k) for layer, k in zip(layers, picked, strict=True))
    params = sum(p.numel() for p in model.parameters())
    return CompressReport(
        budget=budget,
        of=of,
        reached=plan.cost(picked) / plan.dense_cost,
        batch=batch,
        params=params,
        dense_params=plan.dense_params,
        loss=plan.loss(picked),
        layers=reports,
        skipped=tuple(skipped),
        curve=curve,
        seconds=time.perf_counter() - began,
        machine=machine(),
    )


def _checked(budget: object, of: str, tol: object, ridge: object, structures: object) -> float:
    def number(name: str, value: object, low: float, high: float, way_out: str) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise DtypeError(complaint("compress_", name, repr(value), "not a number", way_out))
        given = float(value)
        if not low < given <= high:
            reason = f"must be over {low:g} and at most {high:g}"
            raise ArgumentError(complaint("compress_", name, value, reason, way_out))
        return given

    if of not in get_args(Measure):
        way_out = "use 'params', 'flops' or 'time'"
        raise ArgumentError(complaint("compress_", "of", repr(of), "unknown", way_out))
    if tol is not None:
        number("tol", tol, 0, math.inf, "pass for example 0.05")
    number("ridge", ridge, 0, 1, "pass for example 1e-3")
    if structures is not None:
        if isinstance(structures, (str, bytes, Structure)) or not isinstance(structures, Iterable):
            way_out = "pass a list such as [km.LowRank, km.Monarch]"
            got = repr(structures)
            raise DtypeError(complaint("compress_", "structures", got, "not a list of structures", way_out))
        members(structures, 64, 64)  # complains of what is no structure before the work
    return number("budget", budget, 0, 1, "pass a share of dense, for example 0.5")


def _groups(sites: Sequence[Site], double: bool) -> list[list[Site]]:
    """Layers whose second moments are held at once."""
    groups: list[list[Site]] = [[]]
    held = 0
    for site in sites:
        size = site.shape[1] ** 2 * (8 if double else 4)
        if groups[-1] and held + size > MOMENT_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(site)
        held += size
    return groups


def _statistics(
    model: nn.Module,
    group: Sequence[Site],
    calibration: object,
    forward: Forward | None,
    max_batches: int | None,
    sensitivity: bool,
    double: bool,
    step: Step,
    seed: int,
) -> Calibration | None:
    if calibration is None:
        return None
    return calibrate(
        model,
        group,
        calibration,
        forward=forward,
        max_batches=max_batches,
        sensitivity=sensitivity,
        double=double,
        step=step,
        seed=seed,
    )


def _examined(
    site: Site,
    moments: Moments | None,
    statistics: Calibration | None,
    clock: Clock | None,
    structures: Sequence[Family] | None,
    ridge: float,
    seed: int,
    step: Step,
) -> _Layer:
    """Measure and fit everything for one layer."""
    layer = _Layer(site, Place.of(site, moments.spatial if moments else (1, 1)))
    m, n = layer.place.shape
    if moments is not None and statistics is not None:
        layer.calls = moments.calls / statistics.batches
        layer.vectors = moments.count / statistics.batches
        if moments.count == 0:
            layer.reason = "stays dense: it never ran during the calibration"
            return layer
    wanted = members(DEFAULT if structures is None else structures, m, n)
    if not wanted:
        layer.reason = "stays dense: no structure is smaller"
        return layer
    if clock is not None:
        layer.timings = clock.against_dense(layer.place, wanted)
        layer.dense_seconds = clock.dense_seconds(layer.place)
    fast = [s for s in wanted if layer.timings is None or layer.timings[s].verdict == FASTER]
    _fit(layer, fast, moments, statistics, ridge, seed, prune=structures is None)
    layer.tried = tuple(
        sorted((*layer.tried, *_not_fitted(layer, wanted, fast)), key=lambda t: -t.num_params)
    )
    return layer


def _fit(
    layer: _Layer,
    structures: Sequence[Structure],
    moments: Moments | None,
    statistics: Calibration | None,
    ridge: float,
    seed: int,
    prune: bool,
) -> None:
    weight = weight_of(layer.site)
    second = None
    if moments is not None:
        centred = layer.place.bias
        second = moments.covariance(centred=centred)
        layer.mean = moments.mean() if centred else None
    outer = moments.gradient if moments is not None else None
    metric = Metric.of(weight, second, outer, ridge=ridge)
    found, failed = candidates(metric, structures, dtype=weight.dtype, prune=prune, seed=seed)
    # Without gradients the relative errors of all layers count alike.
    layer.weight = 1 / metric.energy if metric.energy > 0 else 1.0
    if outer is not None and statistics is not None and statistics.output > 0:
        # An error e of a layer's output, which J takes to the model's output, changes that by e^T J^T J e, whose mean
        # over errors and vectors is tr(G E C E^T); the metric has G divided by the mean of its diagonal.
        mean = float((outer if outer.ndim == 1 else outer.diagonal()).mean())
        layer.weight = mean / statistics.output
    layer.sensitivity = layer.weight * metric.impact(torch.zeros_like(metric.weight))
    layer.found = tuple(found)
    layer.tried = tuple(_tried(layer, c) for c in found) + tuple(
        replace(_blank(layer, s), refused=why) for s, why in failed
    )


def _blank(layer: _Layer, structure: Structure) -> Tried:
    m, n = layer.place.shape
    tried = Tried(structure, structure.num_params(m, n), structure.flops(m, n))
    timing = layer.timings[structure] if layer.timings is not None else None
    if timing is None:
        return tried
    return replace(tried, seconds=timing.matrix_seconds, ratios=timing.ratios, verdict=timing.verdict)


def _tried(layer: _Layer, candidate: Candidate) -> Tried:
    return replace(
        _blank(layer, candidate.structure),
        method=candidate.method,
        error=candidate.error,
        loss=candidate.impact * layer.weight,
        blind_error=candidate.blind_error,
    )


def _not_fitted(layer: _Layer, wanted: Sequence[Structure], fast: Sequence[Structure]) -> list[Tried]:
    slow = [_blank(layer, s) for s in wanted if s not in fast]
    return [replace(t, refused=f"{t.verdict} dense here, so not fitted") for t in slow]


class _Plan:
    """The choice for all layers: what each option costs and loses, and the programme that picks."""

    def __init__(
        self, model: nn.Module, layers: list[_Layer], of: Measure, tol: float | None, clock: Clock | None
    ) -> None:
        self.model, self.layers, self.of, self.tol, self.clock = model, layers, of, tol, clock
        self.dense_params = sum(p.numel() for p in model.parameters())
        self.refused: dict[tuple[Place, Structure], str] = {}
        if of == "time" and clock is None:
            reason = "there are no measured times with verify_speed=False"
            raise ArgumentError(complaint("compress_", "of", "'time'", reason, "leave verify_speed on"))
        selected = sum(layer.dense_params for layer in layers)
        self.fixed = self.dense_params - selected if of == "params" else 0.0
        self.dense_cost = self.fixed + sum(self._dense_cost(layer) for layer in layers)

    def _dense_cost(self, layer: _Layer) -> float:
        if self.of == "params":
            return layer.dense_params
        if self.of == "flops":
            return 2 * layer.dense_params * layer.vectors
        assert self.clock is not None
        return self.clock.dense_seconds(layer.place) * layer.calls

    def _cost(self, layer: _Layer, candidate: Candidate) -> float:
        if self.of == "params":
            return candidate.num_params
        if self.of == "flops":
            return candidate.flops * layer.vectors
        assert layer.timings is not None
        return layer.timings[candidate.structure].matrix_seconds * layer.calls

    def _eligible(self, layer: _Layer, candidate: Candidate) -> bool:
        if self.tol is not None and candidate.error > self.tol:
            return False
        return (layer.place, candidate.structure) not in self.refused and math.isfinite(candidate.error)

    def _options(self) -> tuple[list[list[Option]], list[list[int]]]:
        """The options of every layer, dense first, and which candidate each is (-1 for dense)."""
        options, which = [], []
        for layer in self.layers:
            own, index = [Option(0.0, self._dense_cost(layer))], [-1]
            for k, candidate in enumerate(layer.found):
                if self._eligible(layer, candidate):
                    own.append(Option(candidate.impact * layer.weight, self._cost(layer, candidate)))
                    index.append(k)
            options.append(own)
            which.append(index)
        return options, which

    def pick(self, budget: float) -> list[int]:
        """The candidate of every layer, -1 for dense, at a share of the dense cost."""
        options, which = self._options()
        allowed = budget * self.dense_cost - self.fixed
        least = self.fixed + sum(min(option.cost for option in own) for own in options)
        if least > budget * self.dense_cost * (1 + 1e-12):
            raise ArgumentError(complaint("compress_", "budget", f"{budget:g}", *self._too_small(least)))
        picked = choose(options, allowed)
        return [index[k] for index, k in zip(which, picked, strict=True)]

    def _too_small(self, least: float) -> tuple[str, str]:
        share = least / self.dense_cost
        reason = f"the smallest that can be reached is {share:.4f} of dense {self.of}"
        if self.fixed:
            reason += f" ({self.fixed / self.dense_cost:.1%} are in parts that were not selected)"
        stay = [
            layer.site.name for layer in self.layers if not any(self._eligible(layer, c) for c in layer.found)
        ]
        if stay:
            why = " as nothing was measured faster" if self.clock else ""
            reason += f", and {len(stay)} layers stay dense{why}: {', '.join(stay[:5])}"
        way_out = (
            f"pass budget={math.ceil(share * 1e4) / 1e4:g} or more, a wider filter_fn, or more structures"
        )
        return reason, way_out

    def settle(self, budget: float, step: Step) -> list[int]:
        """Pick, and measure what was picked once more; what is not confirmed is refused, and the choice made anew."""
        confirmed: set[tuple[Place, Structure]] = set()
        while True:
            picked = self.pick(budget)
            if self.clock is None:
                return picked
            new = {
                (layer.place, layer.found[k].structure)
                for layer, k in zip(self.layers, picked, strict=True)
                if k >= 0
            } - confirmed
            if not new:
                return picked
            for done, (place, structure) in enumerate(sorted(new, key=str), 1):
                step("measuring again", done, len(new))
                timing = self.clock.again(place, structure)
                if timing.verdict == FASTER:
                    confirmed.add((place, structure))
                else:
                    words = f"measured again it was {timing.verdict} dense, {timing.speedup:.2f}x"
                    self.refused[place, structure] = words

    def cost(self, picked: Sequence[int]) -> float:
        """Of the model with these candidates."""
        return self.fixed + sum(
            self._dense_cost(layer) if k < 0 else self._cost(layer, layer.found[k])
            for layer, k in zip(self.layers, picked, strict=True)
        )

    def loss(self, picked: Sequence[int]) -> float:
        """The predicted change of the output."""
        pairs = zip(self.layers, picked, strict=True)
        return sum(layer.found[k].impact * layer.weight for layer, k in pairs if k >= 0)

    def curve(self, budget: float) -> tuple[Point, ...]:
        """What this and other budgets lead to, as far as they can be reached."""
        points = []
        for share in sorted({*BUDGETS, budget}, reverse=True):
            try:
                picked = self.pick(share)
            except ArgumentError:
                break
            points.append(
                Point(share, self.loss(picked), self._share_of_params(picked), self._share_of_time(picked))
            )
        return tuple(points)

    def _share_of_params(self, picked: Sequence[int]) -> float:
        saved = sum(
            layer.dense_params - layer.found[k].num_params
            for layer, k in zip(self.layers, picked, strict=True)
            if k >= 0
        )
        return 1 - saved / self.dense_params

    def _share_of_time(self, picked: Sequence[int]) -> float | None:
        if self.clock is None:
            return None
        now = dense = 0.0
        for layer, k in zip(self.layers, picked, strict=True):
            whole = self.clock.dense_seconds(layer.place) * layer.calls
            dense += whole
            if k < 0 or layer.timings is None:
                now += whole
            else:
                now += layer.timings[layer.found[k].structure].matrix_seconds * layer.calls
        return now / dense if dense else 1.0

    def swap(self, picked: Sequence[int]) -> None:
        """Put the picked layers in place; the mean of what they miss goes into their biases."""
        new: dict[str, nn.Module] = {}
        for layer, k in zip(self.layers, picked, strict=True):
            if k < 0:
                continue
            dense = layer.site.module
            weight = weight_of(layer.site)
            matrix = layer.found[k].make().to(weight.device, weight.dtype)
            shift = None
            if layer.mean is not None:
                with torch.no_grad():
                    shift = (weight.double() - matrix.to_dense().double()) @ layer.mean
            new[layer.site.name] = layer_like(dense, matrix, shift)
        swap_(self.model, new)

    def report(self, layer: _Layer, k: int) -> LayerReport:
        """What is to be said of one layer."""
        tried = tuple(self._judged(layer, t) for t in layer.tried)
        chosen = next((t for t in tried if k >= 0 and t.structure == layer.found[k].structure), None)
        return LayerReport(
            names=layer.site.names,
            kind=layer.place.kind,
            shape=layer.place.shape,
            calls=layer.calls,
            vectors=layer.vectors,
            sensitivity=layer.sensitivity,
            dense_seconds=layer.dense_seconds,
            tried=tried,
            chosen=chosen,
            reason=_why(layer, tried, chosen),
        )

    def _judged(self, layer: _Layer, tried: Tried) -> Tried:
        words = self.refused.get((layer.place, tried.structure), "")
        if not words and tried.error is not None and self.tol is not None and tried.error > self.tol:
            words = f"its error is over tol={self.tol:g}"
        return replace(tried, refused=words) if words else tried


def _why(layer: _Layer, tried: Sequence[Tried], chosen: Tried | None) -> str:
    if chosen is not None:
        words = f"{chosen.num_params / layer.dense_params:.1%} of its numbers, error {chosen.error:.2e}"
        return words + (f", measured {chosen.speedup:.2f}x dense" if chosen.speedup else "")
    if layer.reason:
        return layer.reason
    allowed = [t for t in tried if not t.refused]
    if allowed:
        return "stays dense: the budget is better spent here"
    timed = [t for t in tried if t.speedup is not None]
    if timed and all("dense" in t.refused for t in tried if t.speedup is not None):
        best = max(timed, key=lambda t: t.speedup or 0.0)
        return f"stays dense: nothing was measured faster; the best, {best.structure}, {best.speedup:.2f}x"
    return "stays dense: " + "; ".join(sorted({t.refused for t in tried}))
