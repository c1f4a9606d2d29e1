"""The table of the paper with ours beside it, and the picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..common import Row, Sheet
from ..common.sheets import mean_spread
from . import paper
from .settings import CONSTRUCTION, FIT, GRADIENT, LOW_RANK, SPARSE, Settings
from .settings import settings as of_preset
from .targets import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"k": "K", "low-rank": "low rank", "sparse": "sparse", "convolution": "convolution",
          "fastfood": "Fastfood", "random": "random"}  # fmt: skip
METHODS = {
    CONSTRUCTION: "K, theoretical minimum",
    LOW_RANK: "low rank (SVD)",
    SPARSE: "sparse (largest entries)",
    GRADIENT: "K, by gradient",
    FIT: "K, by fit",
}
_NOTES = (
    "Frobenius errors of targets of norm {norm:.0f}, ours with the paper's in brackets; it has no fit. By gradient:"
    " mean and standard deviation over seeds, each the best of {trials} random starts{theirs}.",
    "Every method may hold the budget below, with which the paper's baselines come out; * marks what holds more."
    " Constructions show what is expressible and are not held to a budget.",
)


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """The table, and what every K-matrix holds and where it comes from."""
    known = [row for row in rows if row.get("error") is not None]
    most = of_preset("paper").trials
    theirs = "" if settings.trials >= most else f" (preset paper: {most})"
    notes = [note.format(norm=settings.n**0.5, trials=settings.trials, theirs=theirs) for note in _NOTES]
    main = [
        [title, *(_cell(_of(known, target, method), target, method, settings.n) for target in NAMES)]
        for method, title in METHODS.items()
    ]
    columns = ["method", *(f"#{TITLES[target]}" for target in NAMES)]
    details = [
        _detail(target, method, some)
        for target in NAMES
        for method in (CONSTRUCTION, FIT, GRADIENT)
        for some in _classes(_of(known, target, method))
    ]
    return [
        Sheet(f"Recovering structured matrices, n = {settings.n}", columns, main, notes),
        Sheet(
            "The K-matrices",
            ("target", "by", "class", "#error", "#lowest", "#parameters", "#budget", "#seeds", "how"),
            details,
        ),
    ]


def _of(rows: Sequence[Row], target: str, method: str) -> list[Row]:
    wanted = {"target": target, "method": method}
    return [row for row in rows if wanted.items() <= row["options"].items()]


def _classes(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of the same class together."""
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row["options"].get("class", ""), []).append(row)
    return list(by.values())


def _cell(rows: Sequence[Row], target: str, method: str, n: int) -> str:
    """Errors within the budget, then those of larger classes with a star; the paper's in brackets."""
    parts = [_errors(some) + _star(some, method) for some in _classes(rows)]
    theirs = paper.TABLES.get(method, {}).get(target)
    if theirs is not None and n == 256:
        parts.append(f"({theirs:g})")
    return " ".join(parts) if parts else "–"


def _star(rows: Sequence[Row], method: str) -> str:
    return "*" if method != CONSTRUCTION and rows[0]["num_params"] > rows[0]["budget"] else ""


def _errors(rows: Sequence[Row]) -> str:
    errors = [row["error"] for row in rows]
    if max(errors) < 0.005:
        return f"{statistics.mean(errors):.0e}" if max(errors) else "0"
    return mean_spread(errors, digits=2)


def _detail(target: str, method: str, rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    name = first["options"].get("class", "")
    if "width" in first:
        name = f"(BB*)^{first['width']}" + (
            f", expansion {first['expansion']}" if first["expansion"] > 1 else ""
        )
    lowest = min(row["error"] for row in rows)
    return [
        TITLES[target], METHODS[method], name, _errors(rows), _errors([{"error": lowest}]),
        f"{first['num_params']:,}{_star(rows, method)}", f"{first['budget']:,}",
        str(len(rows)) if method == GRADIENT else "–", first["how"],
    ]  # fmt: skip


def pictures(settings: Settings, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Errors as bars, of the class within the budget where there are two, and the paper's as marks."""
    from matplotlib import pyplot as plt

    known = [row for row in rows if row.get("error") is not None]
    if not known:
        return {}
    figure, axis = plt.subplots(figsize=(10, 4), layout="constrained")
    width = 0.8 / len(METHODS)
    for k, (method, title) in enumerate(METHODS.items()):
        places = [i + (k - (len(METHODS) - 1) / 2) * width for i in range(len(NAMES))]
        heights = []
        for target in NAMES:
            some = _classes(_of(known, target, method))
            heights.append(statistics.mean(row["error"] for row in some[0]) if some else 0.0)
        axis.bar(places, heights, width, label=title)
        theirs = paper.TABLES.get(method, {})
        if settings.n == 256:
            marked = [(place, theirs[t]) for place, t in zip(places, NAMES, strict=True) if t in theirs]
            label = "paper" if method == SPARSE else None
            axis.plot(*zip(*marked, strict=True), "k_", ms=11, label=label) if marked else None
    axis.set_xticks(range(len(NAMES)), [TITLES[target] for target in NAMES])
    axis.set_ylabel("Frobenius error")
    axis.legend(frameon=False, fontsize=8, ncols=3)
    axis.set_ylim(0, 1.25 * settings.n**0.5)
    return {"errors": figure}
