"""What ``compress_`` returns: for every layer what was tried, measured and chosen and why, and the totals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from kmatrix._tables import Sheet, counted
from kmatrix.nn.surgery import Skipped
from kmatrix.structures import Structure
from kmatrix.structures._words import brief

if TYPE_CHECKING:
    from rich.console import Group

ERROR = (
    "error: relative squared error of the layer's outputs, or of its weight where there was no calibration"
)
"""What the column of that name holds, in words."""

Measure = Literal["params", "flops", "time"]


@dataclass(frozen=True)
class Tried:
    """One structure in one layer.

    Attributes:
        structure: what it is.
        num_params: numbers held; ``flops`` for one vector.
        method: ``"activation-aware"`` or ``"activation-blind"``, or empty if it was not fitted.
        error: relative squared error of the layer's outputs, None if it was not fitted.
        loss: what it adds to the predicted change of the model's output.
        blind_error: the error of the member nearest in the Frobenius norm, None where it was not made.
        seconds: time of the layer at the batch: that of dense over the median of the ratios; None if the clock was left
            alone.
        ratios: quartiles of dense over this, from paired turns.
        verdict: the judgement of the clock, such as ``"faster than"``.
        refused: why it could not be chosen; empty if it could.
    """

    structure: Structure
    num_params: int
    flops: int
    method: str = ""
    error: float | None = None
    loss: float | None = None
    blind_error: float | None = None
    seconds: float | None = None
    ratios: tuple[float, ...] = ()
    verdict: str = ""
    refused: str = ""

    @property
    def speedup(self) -> float | None:
        """How many times less time than dense."""
        return self.ratios[1] if self.ratios else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {**asdict(self), "structure": str(self.structure), "speedup": self.speedup}
        # JSON has no infinity: the error where a layer gives zeros.
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@dataclass(frozen=True)
class LayerReport:
    """One layer that could be compressed.

    Attributes:
        names: its qualified names, more than one if tied.
        kind: ``"linear"`` or ``"conv2d"``.
        shape: of the weight as a matrix, ``(out, in)``.
        calls: how often it runs in a pass through the model.
        vectors: how many vectors it meets in a pass through the model.
        sensitivity: what setting its weight to zero would add to the predicted change of the model's output.
        dense_seconds: measured time of the dense layer at the batch; None if the clock was left alone.
        tried: every structure that was tried, largest first.
        chosen: the one that was chosen; None if the layer stays dense.
        reason: why.
    """

    names: tuple[str, ...]
    kind: str
    shape: tuple[int, int]
    calls: float
    vectors: float
    sensitivity: float
    dense_seconds: float | None
    tried: tuple[Tried, ...]
    chosen: Tried | None
    reason: str

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]

    @property
    def dense_params(self) -> int:
        """Numbers of the dense weight."""
        return self.shape[0] * self.shape[1]

    @property
    def num_params(self) -> int:
        """Numbers of what stands there now."""
        return self.chosen.num_params if self.chosen else self.dense_params

    @property
    def flops(self) -> int:
        """Operations of one vector through what stands there now."""
        return self.chosen.flops if self.chosen else 2 * self.dense_params

    @property
    def seconds(self) -> float | None:
        """Measured time of what stands there now."""
        return self.chosen.seconds if self.chosen else self.dense_seconds

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "names": list(self.names),
            "kind": self.kind,
            "shape": list(self.shape),
            "calls": self.calls,
            "vectors": self.vectors,
            "sensitivity": self.sensitivity,
            "dense_seconds": self.dense_seconds,
            "tried": [tried.to_json() for tried in self.tried],
            "chosen": self.chosen.to_json() if self.chosen else None,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Point:
    """What one budget would lead to.

    Attributes:
        budget: the share of dense.
        loss: the predicted change of the output (see ``CompressReport.loss``).
        params: numbers of the model as a share of dense.
        seconds: measured time of the layers as a share of dense; None if the clock was left alone.
    """

    budget: float
    loss: float
    params: float
    seconds: float | None


@dataclass(frozen=True)
class CompressReport:
    """The outcome of ``compress_``.

    Attributes:
        budget: what was asked for, a share of dense.
        of: of what: ``"params"`` of the whole model, ``"flops"`` or ``"time"`` of the layers that were selected.
        reached: the share that came out.
        batch: vectors (images, of a convolution) at which layers were timed.
        params: numbers of the whole model; ``dense_params`` before.
        loss: the predicted squared change of the model's output relative to its size, to first order: the sum over the
            layers. Without the sensitivity, the sum of the relative errors of the layers.
        layers: those that could be compressed.
        skipped: those that could not, or were left out by the filter's own rules, with the reason.
        curve: what other budgets would lead to.
        seconds: spent on all of it.
        machine: where it was measured.
    """

    budget: float
    of: Measure
    reached: float
    batch: int
    params: int
    dense_params: int
    loss: float
    layers: tuple[LayerReport, ...]
    skipped: tuple[Skipped, ...]
    curve: tuple[Point, ...]
    seconds: float
    machine: dict[str, str]

    @property
    def compressed(self) -> tuple[LayerReport, ...]:
        """The layers that are structured now."""
        return tuple(layer for layer in self.layers if layer.chosen)

    @property
    def flops(self) -> tuple[float, float]:
        """Operations of the selected layers in a pass through the model, now and dense."""
        now = sum(layer.flops * layer.vectors for layer in self.layers)
        return now, sum(2 * layer.dense_params * layer.vectors for layer in self.layers)

    @property
    def layer_seconds(self) -> tuple[float, float] | None:
        """Measured time of the selected layers in a pass through the model, now and dense; None if not measured."""
        now, dense = 0.0, 0.0
        for layer in self.layers:
            if layer.calls == 0:
                continue
            if layer.seconds is None or layer.dense_seconds is None:
                return None
            now += layer.seconds * layer.calls
            dense += layer.dense_seconds * layer.calls
        return now, dense

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "budget": self.budget,
            "of": self.of,
            "reached": self.reached,
            "batch": self.batch,
            "params": self.params,
            "dense_params": self.dense_params,
            "flops": list(self.flops),
            "layer_seconds": None if self.layer_seconds is None else list(self.layer_seconds),
            "loss": self.loss,
            "layers": [layer.to_json() for layer in self.layers],
            "skipped": [{"names": list(s.names), "reason": s.reason} for s in self.skipped],
            "curve": [asdict(point) for point in self.curve],
            "seconds": self.seconds,
            "machine": self.machine,
        }

    @property
    def headline(self) -> str:
        """The outcome in a line."""
        share = self.params / self.dense_params if self.dense_params else 1.0
        return (
            f"{len(self.compressed)} of {counted(len(self.layers), 'layer')} compressed; {self.params:,} of "
            f"{self.dense_params:,} numbers ({share:.1%}), {self.reached:.1%} of dense {self.of} for a budget of "
            f"{self.budget:.1%}"
        )

    def sheet(self) -> Sheet:
        """One line per layer: what stands there now, its numbers, error and measured speed, or why it stays dense."""
        rows = []
        for layer in self.layers:
            m, n = layer.shape
            chosen = layer.chosen
            if chosen is None:
                rows.append((layer.name, f"{m}x{n}", "", "", "", layer.reason))
                continue
            error = "" if chosen.error is None else f"{chosen.error:.1e}"
            speed = "" if chosen.speedup is None else f"{chosen.speedup:.2f}x"
            share = f"{chosen.num_params / layer.dense_params:.0%}"
            rows.append((layer.name, f"{m}x{n}", share, error, speed, brief(chosen.structure)))
        quiet = frozenset(k for k, layer in enumerate(self.layers) if layer.chosen is None)
        return Sheet(("layer", "#shape", "#of dense", "#error", "#speed", "what, and why"), rows, quiet)

    def __str__(self) -> str:
        return "\n".join([self.headline, *self._speed(), "", str(self.sheet()), *self._left()])

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        head = [Text(line) for line in (self.headline, *self._speed())]
        return Group(*head, "", self.sheet(), *(Text(line, "dim") for line in self._left()))

    def _speed(self) -> Iterable[str]:
        if self.layer_seconds is not None and self.layer_seconds[0] > 0:
            now, dense = self.layer_seconds
            yield f"these layers, batch {self.batch}: {dense / now:.2f}x less time than dense (measured one by one)"

    def _left(self) -> Iterable[str]:
        if self.compressed:
            yield ERROR
        for skipped in self.skipped:
            yield f"skipped {', '.join(skipped.names)}: {skipped.reason}"
