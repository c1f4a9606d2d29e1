"""One layer on its way through ``compress_``: timed, fitted with every structure, and what is known of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kmatrix.compress._processes import count, from_first, sums, together
from kmatrix.compress.calibrate import Calibration, Moments
from kmatrix.compress.candidates import Candidate, candidates
from kmatrix.compress.layers import Place, weight_of
from kmatrix.compress.metric import Metric
from kmatrix.compress.result import Tried
from kmatrix.compress.sizes import DEFAULT, Family, members, ranks_between
from kmatrix.compress.timing import Clock
from kmatrix.fitting import Timing
from kmatrix.nn.surgery import Site
from kmatrix.structures import LowRank, Structure

FASTER = "faster than"


@dataclass
class Trial:
    """A layer, and what was found out about it.

    Attributes:
        site: where it stands in the model.
        place: what decides how long it takes.
        calls: how often it runs in a pass through the model.
        vectors: how many vectors it meets in a pass.
        weight: what turns the impact of a candidate into a change of the model's output.
        sensitivity: that change, for a weight of zeros.
        mean: of its inputs, where a bias takes the mean of the error.
        found: the candidates that were fitted.
        tried: the words on every structure of the ladder.
        timings: of every structure, None if the clock was left alone. A rank between two that were measured has the
            time of the larger one until it is chosen, and then measured itself.
        dense_seconds: of the layer as it is.
        reason: why it stays dense, whatever the budget.
    """

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
        """Numbers of the dense weight."""
        return math.prod(self.place.shape)

    def seconds(self, structure: Structure | None) -> float:
        """Time of a structure, or of dense, at the batch: ratios of paired turns hold where the machine changes."""
        dense = self.dense_seconds or 0.0
        if structure is None or self.timings is None:
            return dense
        return dense / self.timings[structure].speedup

    def words(self, candidate: Candidate) -> Tried:
        """What is to be said of a candidate."""
        return replace(
            _blank(self, candidate.structure),
            method=candidate.method,
            error=candidate.error,
            loss=candidate.impact * self.weight,
            blind_error=candidate.blind_error,
        )


def examined(
    site: Site,
    moments: Moments | None,
    statistics: Calibration | None,
    clock: Clock | None,
    structures: Sequence[Family] | None,
    ridge: float,
    seed: int,
) -> Trial:
    """Measure and fit everything for one layer."""
    layer = Trial(site, Place.of(site, moments.spatial if moments else (1, 1)))
    m, n = layer.place.shape
    if moments is not None and statistics is not None:
        layer.calls = moments.calls / statistics.batches
        layer.vectors = moments.count / statistics.batches
        if moments.count == 0:
            layer.reason = "stays dense: it never ran during the calibration"
            return layer
    if clock is not None and site.kind == "conv2d" and moments is None:
        layer.reason = (
            "stays dense: without a calibration the size of its images, and so its time, is not known"
        )
        return layer
    wanted = members(DEFAULT if structures is None else structures, m, n)
    if not wanted:
        layer.reason = "stays dense: no structure is smaller"
        layer.dense_seconds = None if clock is None else clock.dense_seconds(layer.place)
        return layer
    if clock is not None:
        layer.timings = clock.against_dense(layer.place, wanted)
        layer.dense_seconds = clock.dense_seconds(layer.place)
    fast = [s for s in wanted if layer.timings is None or layer.timings[s].verdict == FASTER]
    between = _between(layer, DEFAULT if structures is None else structures, wanted, fast)
    _fit(layer, fast, between, moments, statistics, ridge, seed, prune=structures is None)
    layer.tried = tuple(
        sorted((*layer.tried, *_not_fitted(layer, wanted, fast)), key=lambda t: -t.num_params)
    )
    return layer


def _between(
    layer: Trial, families: Sequence[Family], ladder: Sequence[Structure], fast: Sequence[Structure]
) -> list[Structure]:
    """The ranks that were not measured, below one that was found to be faster, whose time stands for theirs."""
    m, n = layer.place.shape
    ranks = sorted((s for s in ladder if isinstance(s, LowRank)), key=lambda s: s.rank)
    found: list[Structure] = []
    for structure in ranks_between(families, m, n):
        above = next((s for s in ranks if s.rank >= structure.rank), None)
        if above is None or above == structure or above not in fast:
            continue
        if layer.timings is not None:
            layer.timings[structure] = layer.timings[above]
        found.append(structure)
    return found


def _fit(
    layer: Trial,
    ladder: Sequence[Structure],
    between: Sequence[Structure],
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
    structures = [*ladder, *between]
    found, failed = candidates(metric, structures, dtype=weight.dtype, prune=prune, seed=seed)
    found = _agreed(found, structures)
    # Without gradients the relative errors of all layers count alike.
    layer.weight = 1 / metric.energy if metric.energy > 0 else 1.0
    if outer is not None and statistics is not None and statistics.output > 0:
        # An error e of a layer's output, which J takes to the model's output, changes that by e^T J^T J e, whose mean
        # over errors and vectors is tr(G E C E^T); the metric has G divided by the mean of its diagonal.
        mean = float((outer if outer.ndim == 1 else outer.diagonal()).mean())
        layer.weight = mean / statistics.output
    layer.sensitivity = layer.weight * metric.impact(torch.zeros_like(metric.weight))
    layer.found = tuple(found)
    layer.tried = tuple(layer.words(c) for c in found if c.structure in ladder) + tuple(
        replace(_blank(layer, s), refused=why) for s, why in failed if s in ladder
    )


def _agreed(found: list[Candidate], structures: Sequence[Structure]) -> list[Candidate]:
    """The candidates that all processes have, with the figures of the first one: a choice must be the same in all."""
    if not together():
        return found
    own = {candidate.structure: candidate for candidate in found}
    having = sums([float(s in own) for s in structures])
    shared = [own[s] for s, n in zip(structures, having, strict=True) if n == count()]
    figures = from_first([x for c in shared for x in (c.error, c.impact)])
    pairs = zip(shared, figures[::2], figures[1::2], strict=True)
    return [replace(c, error=error, impact=impact) for c, error, impact in pairs]


def _blank(layer: Trial, structure: Structure) -> Tried:
    m, n = layer.place.shape
    tried = Tried(structure, structure.num_params(m, n), structure.flops(m, n))
    timing = layer.timings[structure] if layer.timings is not None else None
    if timing is None:
        return tried
    return replace(tried, seconds=layer.seconds(structure), ratios=timing.ratios, verdict=timing.verdict)


def _not_fitted(layer: Trial, wanted: Sequence[Structure], fast: Sequence[Structure]) -> list[Tried]:
    slow = [_blank(layer, s) for s in wanted if s not in fast]
    return [replace(t, refused=f"{t.verdict} dense here, so not fitted") for t in slow]
