"""A table for each subject and start, what learned boxes spend, and the picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..common import Row, Sheet
from ..common.sheets import mean_spread, of_case
from .settings import DENSE, METHODS, SCRATCH, SUBJECTS, Settings, cases

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    ("vit", SCRATCH): "Vision transformer, from scratch",
    ("vit", DENSE): "Vision transformer, from dense",
    ("characters", SCRATCH): "Language model, from scratch",
    ("characters", DENSE): "Language model, from dense",
}
PAPER = [
    ["ViT-B on ImageNet, from scratch", "dense", "100 %", "78.57 % correct"],
    ["ViT-B on ImageNet, from scratch", "Gaudi-GBLR", "33 %", "78.51 % correct"],
    ["GPT-2 on WikiText-103, from dense", "dense", "100 %", "19.36 perplexity"],
    ["GPT-2 on WikiText-103, from dense", "Gaudi-GBLR", "43.7 %", "19.24 perplexity"],
]
MARKERS = "sovDP^Xd"


def measure(subject: str) -> tuple[str, int]:
    """What is reported of a subject, and with how many digits."""
    return ("accuracy", 2) if subject == "vit" else ("loss", 4)


def sheets(settings: Settings, rows: Sequence[Row]) -> Sequence[Sheet]:
    """Quality by method, and what learned boxes spend on each kind of matrix."""
    found = [_quality(settings, rows, subject, start) for subject in SUBJECTS for start in (SCRATCH, DENSE)]
    paper = Sheet("The paper's", ["model", "method", "#FLOPs", "#result"], PAPER)
    return [*found, _spent(rows), paper]


def _quality(settings: Settings, rows: Sequence[Row], subject: str, start: str) -> Sheet:
    key, digits = measure(subject)
    lines = []
    learned = {r["seed"]: r["quality"]["test"][key] for r in of_case(rows, f"{subject}/{start}/gblr")}
    for case in cases(settings):
        if (case.options["subject"], case.options["start"]) != (subject, start):
            continue
        own = of_case(rows, case.name)
        values = {r["seed"]: r["quality"]["test"][key] for r in own}
        gaps = [f"{v - learned[seed]:+.{digits}f}" for seed, v in values.items() if seed in learned]
        lines.append(
            [
                METHODS[case.options["method"]],
                mean_spread([r["share"] for r in own][:1], 1, 100) + " %" if own else "",
                f"{own[0]['lr']:g}" if own else "",
                mean_spread(values.values(), digits),
                ", ".join(gaps) if case.options["method"] != "gblr" else "",
            ]
        )
    what = "test, % correct" if key == "accuracy" else "test, nats per symbol"
    head = ["method", "#FLOPs", "#rate", f"#{what}", "#against learned boxes, by seed"]
    notes = ["FLOPs are the multiplications of the blocks' matrices, as a share of dense's."]
    return Sheet(TITLES[subject, start], head, lines, notes)


def _spent(rows: Sequence[Row]) -> Sheet:
    """What learned boxes spend on each kind of matrix, as a share of its dense cost, mean over seeds."""
    lines, kinds = [], ("query", "key", "value", "out", "up", "down")
    for subject in SUBJECTS:
        for start in (SCRATCH, DENSE):
            dense = of_case(rows, f"{subject}/{start}/dense")
            boxes = of_case(rows, f"{subject}/{start}/gblr")
            if not (dense and boxes):
                continue
            shares: dict[str, list[float]] = {kind: [] for kind in kinds}
            for name, whole in dense[0]["costs"].items():
                shares[name.rpartition(".")[2]] += [r["costs"][name] / whole for r in boxes]
            lines.append([TITLES[subject, start], *(f"{statistics.mean(shares[k]):.0%}" for k in kinds)])
    return Sheet("What learned boxes spend, as a share of dense", ["", *(f"#{k}" for k in kinds)], lines)


def pictures(settings: Settings, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """A panel for each subject and start: quality by method, a point for each seed."""
    if not rows:
        return {}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
    for axis, (subject, start) in zip(axes, TITLES, strict=True):
        key, _ = measure(subject)
        names = [c.name for c in cases(settings) if c.name.startswith(f"{subject}/{start}/")]
        for y, name in enumerate(reversed(names)):
            method = name.rpartition("/")[2]
            place = list(METHODS).index(method)
            values = [r["quality"]["test"][key] for r in of_case(rows, name)]
            axis.plot(values, [y] * len(values), MARKERS[place], color=f"C{place}", alpha=0.7)
        axis.set_yticks(
            range(len(names)), [METHODS[n.rpartition("/")[2]] for n in reversed(names)], fontsize=7
        )
        axis.set_title(TITLES[subject, start], fontsize=9)
        axis.set_xlabel("test, % correct" if key == "accuracy" else "test, nats per symbol", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
    return {"quality": figure}
