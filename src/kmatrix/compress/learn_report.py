"""What ``learn_structure`` says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from kmatrix._tables import counted
from kmatrix.compress._box_layers import LearnedLayer
from kmatrix.compress.healing import HealReport
from kmatrix.nn import Skipped


@dataclass(frozen=True)
class LearnReport:
    """What ``learn_structure`` did.

    Attributes:
        layers: what every layer became.
        loss: what the steps made smaller, in words, such as ``"cross-entropy"`` or ``"divergence from the teacher"``.
        losses: of every step of learning, averaged over processes.
        number: what the scores are, such as ``"loss"``.
        judged: by what, such as ``"on the held-out batches"``.
        dense_score: of the model as it was given; None from scratch.
        scores: ``(step, score)`` at every look while the structure was learned, the first before any step. From trained
            weights those of the model with its boxes cropped to the budget, from scratch of boxes that still learn.
        best_step: after how many steps the boxes were those that were kept; from scratch, the last ones.
        end_score: of the model as it is now; None where Ctrl-C came before it was known.
        costs: what all boxes cost after every step, not rounded, as a fraction of dense.
        budget: what was asked for.
        healing: what the steps after hardening did; None without.
        revived: how often a box that was dead on both sides got a new place.
        skipped: layers that could not be replaced, and why.
        seconds: spent.
        interrupted: whether Ctrl-C ended it; the model has its boxes within the budget all the same.
    """

    layers: tuple[LearnedLayer, ...]
    loss: str
    losses: tuple[float, ...]
    number: str
    judged: str
    dense_score: float | None
    scores: tuple[tuple[int, float], ...]
    best_step: int
    end_score: float | None
    costs: tuple[float, ...]
    budget: float
    healing: HealReport | None
    revived: int
    skipped: tuple[Skipped, ...]
    seconds: float
    interrupted: bool = False

    @property
    def share(self) -> float:
        """Multiplications of all layers after hardening, as a fraction of those of the dense layers."""
        return sum(x.cost for x in self.layers) / sum(x.shape[0] * x.shape[1] for x in self.layers)

    @property
    def start_score(self) -> float | None:
        """Of the boxes that learning began with; None if Ctrl-C came before it was known."""
        return self.scores[0][1] if self.scores else None

    def _words_of_scores(self) -> str:
        begun = "at the start" if self.dense_score is None else "as fitted"
        parts = [(self.dense_score, "dense"), (self.start_score, begun), (self.end_score, "at the end")]
        told = ", ".join(f"{score:.4g} {when}" for score, when in parts if score is not None)
        kept = ""
        if self.best_step < len(self.losses):
            what = f"those after {counted(self.best_step, 'step')}" if self.best_step else "the fitted ones"
            kept = f", and the boxes are {what}, the best"
        return f"  {self.number} {self.judged}: {told}{kept}; trained on {self.loss}"

    def __str__(self) -> str:
        ended = ", ended by Ctrl-C" if self.interrupted else ""
        spent = f"{counted(len(self.losses), 'step')} in {self.seconds:.1f} s{ended}"
        lines = [f"{counted(len(self.layers), 'layer')} at {self.share:.1%} of the multiplications, {spent}"]
        for layer in self.layers:
            what = "dense" if layer.boxes is None else f"{len(layer.boxes)} boxes"
            lines.append(f"  {layer.name}: {layer.shape[0]} x {layer.shape[1]}, {what}, {layer.share:.1%}")
        lines.append(self._words_of_scores())
        if self.healing is not None:
            lines.append(f"  healed: {self.healing}")
        return "\n".join([*lines, *(f"  skipped {', '.join(s.names)}: {s.reason}" for s in self.skipped)])
