"""The table, with the paper's figures beside ours, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..common import Row, Sheet
from . import paper
from .settings import BASELINES, FIT, GRADIENT, SUCCESS, WIDE, Settings
from .targets import TARGETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"dft": "DFT", "dct": "DCT", "dst": "DST", "hadamard": "Hadamard", "hartley": "Hartley",
          "convolution": "convolution", "legendre": "Legendre", "random": "random"}  # fmt: skip
_COLUMNS = (
    "target", "#N", "#by gradient", "#recovered", "#trials", "#paper, by gradient", "#by fit", "found as",
    "#parameters", "#times the budget", "#sparse (paper)", "#low rank (paper)", "#sparse + low rank",
)  # fmt: skip
_NOTES = (
    "Errors are RMSE over the entries. By gradient: lowest to highest over seeds, each the best of its trials;"
    " recovered: seeds below 1e-4, where the paper counts success; trials: the mean number used until then.",
    "By fit: km.fit at a relative error of 1e-10. Parameters are complex where the target is complex."
    " * marks what holds more than the budget, 2 N log2 N: up to {wide} times it counts as fast here, which the paper"
    " and the baselines are not allowed; beyond that the best family of km.compare within the budget stands here.",
    "Sparse, low rank and sparse + low rank have the budget, as in the paper; positions of"
    " entries are free. The paper's figures are those of the authors' stored results; sparse + low rank is in its"
    " figure only.",
)


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """One line for each target and size."""
    found = _Found(rows)
    sizes = found.sizes()
    lines = [_line(found, target, n) for target in TARGETS for n in sizes if found.any(target, n)]
    return [Sheet("Learning fast transforms", _COLUMNS, lines, [note.format(wide=WIDE) for note in _NOTES])]


class _Found:
    """Rows by target, size and method; those of repeated seeds that hold nothing are left out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows: dict[tuple[str, int, str], list[Row]] = {}
        for row in rows:
            if row.get("rmse") is not None:
                key = tuple(row["options"][k] for k in ("target", "n", "method"))
                self.rows.setdefault(key, []).append(row)

    def sizes(self) -> list[int]:
        return sorted({n for _, n, _ in self.rows})

    def any(self, target: str, n: int) -> bool:
        return any((target, n, method) in self.rows for method in (GRADIENT, FIT, BASELINES))

    def of(self, target: str, n: int, method: str) -> list[Row]:
        return self.rows.get((target, n, method), [])

    def curve(self, target: str, method: str, key: str = "rmse") -> list[tuple[int, float]]:
        """Sizes and errors, the mean over seeds."""
        points = []
        for n in self.sizes():
            some = [_value(row, key) for row in self.of(target, n, method)]
            if some:
                points.append((n, sum(some) / len(some)))
        return points


def _value(row: Row, key: str) -> float:
    within: Row = row.get("within", {}) if key == "rmse" else {}
    return float(within[key] if key in within else row[key])


def short(error: float | None) -> str:
    """A few digits; nothing for nothing."""
    if error is None:
        return ""
    return f"{error:.1e}" if error < 1e-3 else f"{error:.3g}"


def _line(found: _Found, target: str, n: int) -> list[str]:
    cells = [TITLES[target], str(n), *_learned(found.of(target, n, GRADIENT))]
    cells.append(short(paper.printed(paper.LEARNED, target, n)))
    fits = found.of(target, n, FIT)
    cells += _fit(fits[0]) if fits else ["", "", "", ""]
    approximated = found.of(target, n, BASELINES)
    if not approximated:
        return [*cells, "", "", ""]
    row = approximated[0]
    for key, table in (("sparse", paper.SPARSE), ("low_rank", paper.LOW_RANK)):
        theirs = paper.printed(table, target, n)
        cells.append(short(row[key]) + (f" ({short(theirs)})" if theirs is not None else ""))
    return [*cells, f"{short(row['sparse_low_rank'])}, rank {row['rank']}"]


def _learned(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["", "", ""]
    errors = [short(error) for error in sorted(row["rmse"] for row in rows)]
    spread = errors[0] if errors[0] == errors[-1] else f"{errors[0]} to {errors[-1]}"
    recovered = sum(row["success"] for row in rows)
    trials = sum(row["trials"] for row in rows) / len(rows)
    return [spread, f"{recovered} of {len(rows)}", f"{trials:.0f}"]


def _fit(row: Row) -> list[str]:
    """Error, what it was found as, parameters, and how many times the budget they are."""
    if row["fast"]:
        return [short(row["rmse"]), row["family"], *_size(row, row["budget"])]
    near = row["within"]
    times = f"{row['num_params'] / row['budget']:.1f}"
    exact = f"{near['family']}; to 1e-10: {row['family']}, {times} times the budget"
    return [short(near["rmse"]), exact, *_size(near, row["budget"])]


def _size(row: Row, budget: int) -> list[str]:
    times = row["num_params"] / budget
    return [f"{row['num_params']:,}", f"{times:.2f}" + ("*" if times > 1 else "")]


def pictures(settings: Settings, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """RMSE against N, one panel for each target, the paper's points beside."""
    from matplotlib import pyplot as plt

    found = _Found(rows)
    if not found.rows:
        return {}
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.2), sharex=True, sharey=True, layout="constrained")
    for axis, target in zip(axes.flat, TARGETS, strict=True):
        _panel(axis, found, target)
    handles, labels = axes.flat[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    for axis in axes[:, 0]:
        axis.set_ylabel("RMSE")
    for axis in axes[-1]:
        axis.set_xlabel("N")
    return {"rmse": figure}


_ROUNDING = 1e-16  # exact results are drawn here at least, as a logarithm has no zero


def _panel(axis: Axes, found: _Found, target: str) -> None:
    lines = (
        ("by gradient", GRADIENT, "rmse", "C0o-"),
        ("by fit (exact, or the best family at the budget)", FIT, "rmse", "C2s-"),
        ("sparse", BASELINES, "sparse", "C1^-"),
        ("low rank", BASELINES, "low_rank", "C4v-"),
        ("sparse + low rank", BASELINES, "sparse_low_rank", "C5d-"),
    )
    for label, method, key, style in lines:
        points = found.curve(target, method, key)
        values = [max(value, _ROUNDING) for _, value in points]
        axis.plot([n for n, _ in points], values, style, ms=4, lw=1, label=label)
    theirs = (
        ("paper, by gradient", paper.LEARNED, "C0o"),
        ("paper, sparse", paper.SPARSE, "C1^"),
        ("paper, low rank", paper.LOW_RANK, "C4v"),
    )
    for label, table, style in theirs:
        axis.plot(
            paper.SIZES[: len(table.get(target, ()))],
            table.get(target, ()),
            style,
            ms=8,
            mfc="none",
            label=label,
        )
    axis.axhline(SUCCESS, color="0.6", lw=0.8, ls=":")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_title(TITLES[target], fontsize=10)
