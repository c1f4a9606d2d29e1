"""The choice for all layers: what each option costs and loses, the programme that picks, and the swap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from kmatrix._errors import ArgumentError, complaint
from kmatrix._tables import counted
from kmatrix.compress._processes import from_first, take_from_first_
from kmatrix.compress._progress import Step
from kmatrix.compress.budget import Option, choose
from kmatrix.compress.candidates import Candidate
from kmatrix.compress.layers import Place, layer_like, weight_of
from kmatrix.compress.result import LayerReport, Measure, Point, Tried
from kmatrix.compress.timing import Clock
from kmatrix.compress.trial import FASTER, Trial
from kmatrix.nn.surgery import Skipped, swap_
from kmatrix.structures import Structure

BUDGETS = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
"""Of the curve, beside the one asked for."""


class Choice:
    """The choice for all layers: what each option costs and loses, and the programme that picks."""

    def __init__(
        self,
        model: nn.Module,
        layers: list[Trial],
        of: Measure,
        tol: float | None,
        clock: Clock | None,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        self.model, self.layers, self.of, self.tol, self.clock = model, layers, of, tol, clock
        self.skipped = skipped
        self.dense_params = sum(p.numel() for p in model.parameters())
        self.refused: dict[tuple[Place, Structure], str] = {}
        selected = sum(layer.dense_params for layer in layers)
        self.fixed = self.dense_params - selected if of == "params" else 0.0
        self.dense_cost = self.fixed + sum(self._dense_cost(layer) for layer in layers)

    def _dense_cost(self, layer: Trial) -> float:
        if self.of == "params":
            return layer.dense_params
        if self.of == "flops":
            return 2 * layer.dense_params * layer.vectors
        return layer.seconds(None) * layer.calls

    def _cost(self, layer: Trial, candidate: Candidate) -> float:
        if self.of == "params":
            return candidate.num_params
        if self.of == "flops":
            return candidate.flops * layer.vectors
        return layer.seconds(candidate.structure) * layer.calls

    def _eligible(self, layer: Trial, candidate: Candidate) -> bool:
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
        # The solver may run out of time, in one process and not in another: the first one decides.
        picked = [int(k) for k in from_first(choose(options, allowed))]
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
            does = "stays" if len(stay) == 1 else "stay"
            reason += f", and {counted(len(stay), 'layer')} {does} dense{why}: {', '.join(stay[:5])}"
        if self.fixed and self.skipped:
            told = [f"{s.names[0]} ({s.reason})" for s in self.skipped[:3]]
            more = len(self.skipped) - len(told)
            reason += f"; skipped: {', '.join(told)}" + (f" and {more} more" if more else "")
        way_out = (
            f"pass budget={math.ceil(share * 1e4) / 1e4:g} or more, a wider filter_fn, or more structures"
        )
        return reason, way_out

    def settle(self, budget: float, step: Step) -> list[int]:
        """Pick, and measure what was picked once more; what is not confirmed is refused, and the choice made anew.

        What counts from then on is the second measurement.
        """
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
                for layer in self.layers:
                    if layer.place == place and layer.timings is not None:
                        layer.timings[structure] = timing  # the chosen ones were the luckiest, too
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
            dense += layer.seconds(None) * layer.calls
            now += layer.seconds(layer.found[k].structure if k >= 0 else None) * layer.calls
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
            made = layer_like(dense, matrix, shift)
            for parameter in made.matrix.parameters():
                take_from_first_(parameter.data)
            if shift is not None and made.bias is not None:
                take_from_first_(made.bias.data)
            new[layer.site.name] = made
        swap_(self.model, new)

    def report(self, layer: Trial, k: int) -> LayerReport:
        """What is to be said of one layer."""
        tried = tuple(self._judged(layer, t) for t in self._told(layer, k))
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

    def _told(self, layer: Trial, k: int) -> list[Tried]:
        """The words on the ladder, and on those ranks between that were chosen, or had been until measured."""
        known = {t.structure for t in layer.tried}
        extra = [
            layer.words(c)
            for c in layer.found
            if c.structure not in known
            and ((c is layer.found[k] and k >= 0) or (layer.place, c.structure) in self.refused)
        ]
        return sorted([*layer.tried, *extra], key=lambda t: -t.num_params)

    def _judged(self, layer: Trial, tried: Tried) -> Tried:
        if layer.timings is not None and tried.structure in layer.timings:
            again = layer.timings[tried.structure]
            tried = replace(
                tried,
                seconds=layer.seconds(tried.structure),
                ratios=again.ratios,
                verdict=again.verdict,
            )
        words = self.refused.get((layer.place, tried.structure), "")
        if not words and tried.error is not None and self.tol is not None and tried.error > self.tol:
            words = f"its error is over tol={self.tol:g}"
        return replace(tried, refused=words) if words else tried


def _why(layer: Trial, tried: Sequence[Tried], chosen: Tried | None) -> str:
    if chosen is not None:
        words = f"{chosen.num_params / layer.dense_params:.1%} of its numbers, error {chosen.error:.2e}"
        return words + (f", measured {chosen.speedup:.2f}x dense" if chosen.speedup else "")
    if layer.reason:
        return layer.reason
    allowed = [t for t in tried if not t.refused]
    if allowed:
        return "stays dense: it fits the budget as it is, and loses nothing"
    timed = [t for t in tried if t.speedup is not None]
    if timed and all("dense" in t.refused for t in tried if t.speedup is not None):
        best = max(timed, key=lambda t: t.speedup or 0.0)
        return f"stays dense: nothing was measured faster; the best, {best.structure}, {best.speedup:.2f}x"
    return "stays dense: " + "; ".join(sorted({t.refused for t in tried}))
