"""The table and the picture: the paper's rows beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..common import Row, Sheet
from ..common.sheets import mean_spread, of_case
from .models import EXTRAS
from .settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER: Mapping[str, tuple[float, float]] = {
    # Mean and standard deviation on CIFAR-10: arXiv 1903.05895, Table 2.
    "none": (93.58, 0.15),
    "dense": (93.89, 0.19),
    "bpbp": (94.01, 0.09),
}
STAND_IN = (
    "sign digits, 64 x 64 halved to 32 x 32, stand in for CIFAR-10, with a thinner network and fewer steps"
)
_CHANNELS = 8
"""The last stage has so many times the width of the first."""


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """Accuracy and parameters of each extra layer."""
    columns = [
        "extra layer",
        "#parameters",
        "#of all",
        "#test accuracy, %",
        "#validation, %",
        "#paper, CIFAR-10",
        "#seeds",
    ]
    features = _CHANNELS * settings.width
    lines = []
    for name, what in EXTRAS.items():
        found = of_case(rows, name)
        own = what.num_params(features)
        share = f"{100 * own / found[0]['parameters']:.2f} %" if found else ""
        printed = f"{PAPER[name][0]:.2f} ± {PAPER[name][1]:.2f}" if name in PAPER else ""
        lines.append(
            [what.title, f"{own:,}", share, mean_spread(r["test"] for r in found),
             mean_spread(r["validation"] for r in found), printed, f"{len(found)}"]
        )  # fmt: skip
    return [
        Sheet("ResNet18 with an extra layer before the classifier", columns, lines, _notes(settings, rows))
    ]


def _notes(settings: Settings, rows: Sequence[Row]) -> list[str]:
    if settings.data == "synthetic":
        return ["Random images: these figures mean nothing."]
    notes = [
        f"{settings.data}, width {settings.width} (the paper's is 64), so that the extra layer is "
        f"{_CHANNELS * settings.width} x {_CHANNELS * settings.width}; {settings.steps:,} steps of "
        f"{settings.batch} images."
    ]
    if settings.data == "sign-digits":
        notes.append("Sign digits are a stand-in for CIFAR-10: the figures of the paper are of other images.")
    if rows:
        one = 100 / rows[0]["images"][2]
        notes.append(f"One image of the test part is {one:.2f} %.")
    return notes


def pictures(settings: Settings, rows: Sequence[Row]) -> dict[str, Figure]:
    """Accuracy of each layer, every seed a point."""
    from matplotlib.figure import Figure

    if not rows:
        return {}
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    ax = figure.subplots()
    for k, name in enumerate(EXTRAS):
        found = [r["test"] for r in of_case(rows, name)]
        ax.plot([k] * len(found), found, "o", color="C0", alpha=0.6)
        if found:
            ax.plot([k - 0.2, k + 0.2], [statistics.mean(found)] * 2, color="C0")
    ax.set_xticks(range(len(EXTRAS)), [what.title for what in EXTRAS.values()], fontsize=8)
    ax.set_ylabel("test accuracy, %")
    ax.set_title(f"ResNet18, width {settings.width}, {settings.data}", fontsize=10)
    return {"accuracy": figure}
