"""Error against parameters: every attempt as a point, truncated SVD as the line to beat."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kmatrix.fitting import Attempt
from kmatrix.fitting.comparison import TruncatedSVD

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Errors of exactly zero have no place on a logarithmic axis; they are drawn here (and no numbers as one).
FLOOR = 1e-17
COLOURS = (
    *("#1f5fa8", "#c74f0d", "#2a8a3e", "#8a3ab9", "#b8860b", "#d1495b", "#008b8b"),
    *("#6b4f3a", "#e377c2", "#4d4d4d", "#7fb800", "#00a6fb", "#9d0208", "#5a189a", "#3d5a80", "#ad1457"),
)
MARKERS = "osD^vP*Xd<>ph"
Points = tuple[list[float], list[float]]


def by_budget(
    attempts: Sequence[Attempt], budgets: Sequence[float], dense: int
) -> dict[str, list[Attempt | None]]:
    """The best attempt of each family under each budget and over the one before it.

    Args:
        attempts: what was tried.
        budgets: shares of dense, rising.
        dense: numbers of the dense matrix.
    """
    found: dict[str, list[Attempt | None]] = {}
    for a in attempts:
        if a.num_params is None or a.relative_error is None:
            continue
        row = found.setdefault(a.family, [None] * len(budgets))
        place = next((k for k, budget in enumerate(budgets) if a.num_params <= budget * dense), None)
        if place is None:
            continue
        best = row[place]
        if best is None or a.relative_error < (best.relative_error or 0.0):
            row[place] = a
    return found


def error_curve(attempts: Sequence[Attempt], svd: TruncatedSVD, chosen: Attempt | None = None) -> str:
    """Draw the attempts beside truncated SVD, the chosen one ringed; a PNG as a ``data:`` address."""
    # The object interface draws without pyplot's global state, so a report never disturbs the user's own figures.
    from matplotlib.figure import Figure

    m, n = svd.shape
    figure = Figure(figsize=(9.2, 4.6), layout="constrained")
    axes = figure.subplots()
    ranks = np.arange(1, len(svd.errors))
    shown = ranks[ranks * (m + n) <= 1.3 * m * n]
    axes.plot(
        shown * (m + n), np.maximum(svd.errors[shown], FLOOR), color="0.35", lw=2.2, label="truncated SVD"
    )
    points = _points(attempts)
    for k, (family, (sizes, errors)) in enumerate(points.items()):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        axes.plot(
            sizes, errors, color=colour, marker=marker, label=family, ms=7, lw=1.2, mec="white", mew=0.6
        )
    for sizes, errors in _points([chosen] if chosen else []).values():
        axes.plot(sizes, errors, "o", ms=17, mfc="none", mec="black", mew=1.6, label="chosen", ls="none")
    axes.axvline(m * n, color="0.6", ls=":", lw=1.5, label="dense")
    _frame(axes, list(points.values()), m * n)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _points(attempts: Sequence[Attempt]) -> dict[str, Points]:
    """Sizes and errors of each family's attempts, smallest first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for a in attempts:
        if a.num_params is not None and a.relative_error is not None:
            found.setdefault(a.family, []).append((max(a.num_params, 1), max(a.relative_error, FLOOR)))
    return {
        family: ([size for size, _ in sorted(own)], [error for _, error in sorted(own)])
        for family, own in found.items()
    }


def _frame(axes: Axes, points: Sequence[Points], dense: int) -> None:
    """Scales and limits: from just below the smallest member and error to just above dense and one."""
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(min([dense / 10, *(min(sizes) for sizes, _ in points)]) / 1.6, dense * 1.5)
    axes.set_ylim(min([1e-1, *(min(errors) for _, errors in points)]) / 4, 2.0)
    axes.set_xlabel("parameters", fontsize=11)
    axes.set_ylabel("relative Frobenius error", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
