"""Tables and pictures, the paper's figures beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..common import Row, Sheet
from ..common.sheets import mean_spread, of_case
from .settings import LEARNERS, Settings, cases

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Table 3: validation accuracy on CIFAR-10 with the 2-D bit reversal, per cent. The paper's K is the one that we learn
# in its own way; the one in stages is ours and has no figure there.
PAPER: Mapping[str, float] = {
    "unpermuted": 94.9, "fc": 61.2, "gru": 57.8, "cnn": 73.7, "dense": 84.4, "sampled": 93.6,
}  # fmt: skip
TITLES = {
    "unpermuted": "CNN, unpermuted images",
    "fc": "fully connected",
    "gru": "GRU",
    "cnn": "CNN",
    "dense": "dense + CNN",
    "kaleidoscope": "K in stages + CNN",
    "sampled": "K as in the paper + CNN",
    "sinkhorn": "Gumbel-Sinkhorn + CNN",
    "seriation": "seriation, no gradients + CNN",
}
KINDS = {
    "bit-reversal": "2-D bit reversal",
    "rows-columns": "random rows, columns",
    "pixels": "random pixels",
}
NONE = "–"
LIMITS = {
    "nothing": "",
    "cut": "turned: the objective is the same",
    "search": "search: it ended above the truth",
    "loss": "loss: less than the truth's",
}


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """Accuracy and recovery for each data set."""
    names = [data for data, _ in settings.data]
    return [
        sheet
        for data in names
        for sheet in (_accuracy(settings, rows, data), _recovery(settings, rows, data))
    ]


def _accuracy(settings: Settings, rows: Sequence[Row], data: str) -> Sheet:
    columns = [
        "permutation",
        "method",
        "#seeds",
        "#test accuracy %",
        "#against unpermuted, points",
        "#paper: CIFAR-10 %",
    ]
    reference = {row["seed"]: row["test"] for row in of_case(rows, f"unpermuted/none/{data}")}
    table = []
    for case in cases(settings):
        method, kind = case.options["method"], case.options["permutation"]
        if case.options["data"] != data or not case.options["classified"]:
            continue
        found = of_case(rows, case.name)
        gaps = [row["test"] - reference[row["seed"]] for row in found if row["seed"] in reference]
        gap = NONE if method == "unpermuted" else mean_spread(gaps, 1)
        printed = f"{PAPER[method]}" if method in PAPER and kind in ("none", "bit-reversal") else NONE
        accuracy = mean_spread((row["test"] for row in found), 1)
        table.append([KINDS.get(kind, "none"), TITLES[method], str(len(found)), accuracy, gap, printed])
    note = f"{data}: mean and standard deviation over seeds; differences seed by seed."
    return Sheet(f"Accuracy, {data}", columns, table, [note])


def _recovery(settings: Settings, rows: Sequence[Row], data: str) -> Sheet:
    columns = [
        "permutation", "method", "#seeds", "#recovered exactly", "#before flips of switches", "#pixels in place %",
        "#neighbours kept %", "#objective / truth's", "#total variation / truth's", "#random / truth's", "#parameters",
        "#starts", "#CPU seconds", "what limits it",
    ]  # fmt: skip
    table = []
    for case in cases(settings):
        method, kind = case.options["method"], case.options["permutation"]
        found = of_case(rows, case.name)
        if case.options["data"] != data or method not in LEARNERS or not found:
            continue
        limits = dict.fromkeys(LIMITS[row["limit"]] for row in found if row["limit"] != "nothing")
        table.append(
            [
                KINDS[kind],
                TITLES[method].removesuffix(" + CNN"),
                str(len(found)),
                f"{sum(row['exact'] for row in found)} of {len(found)}",
                f"{sum(row['stages']['exact'] for row in found)} of {len(found)}"
                if method == "kaleidoscope"
                else NONE,
                mean_spread((row["right"] for row in found), 1, 100),
                mean_spread((row["neighbours"] for row in found), 1, 100),
                mean_spread((row["objective"] / row["objective_truth"] for row in found), 3),
                mean_spread((row["variation"] / row["truth"] for row in found), 3),
                mean_spread((row["random"] / row["truth"] for row in found), 2),
                f"{found[0]['choices']:,}",
                _between([count for row in found for count in row["starts"]]),
                f"{statistics.median(row['learning_cpu_seconds'] for row in found):.0f}",
                "; ".join(limits) or NONE,
            ]
        )
    notes = [
        "Recovered exactly: the true arrangement up to flips and transposition; pixels that are equal in all training "
        "images count as the same. Before flips of switches: what the stages learned, by gradient alone.",
        "Every arrangement here is a permutation, written as one kaleidoscope of zeros and ones and checked."
        if all(row.get("hard", True) for row in rows)
        else "Some arrangement here is not a permutation.",
        "Objective: what the method itself minimised, on the images that it learned from. K as in the paper: its "
        "total variation, open edges, all training images; the truth's is the least over its flips. The others: "
        "sums of absolute differences of neighbours on the torus, of all training images (rows and columns) or of the "
        f"first {settings.pixel_images:,} (pixels).",
        "Total variation: the paper's, on 1,000 training images; a flip alone changes it. Parameters: numbers that are "
        "learned for one start. Starts: of rows and of columns each. CPU seconds: to learn it, median; one thread.",
    ]
    for row in of_case(rows, f"unpermuted/none/{data}")[:1]:
        least = {axis: row["turned"][axis]["least"] for axis in ("rows", "columns")}
        notes.append(
            "The paper's total variation of the unpermuted images themselves, turned on the torus, is at least "
            f"{least['rows']:.3f} of what it is unturned (rows) and {least['columns']:.3f} (columns): below one, "
            "its least value is not the truth."
        )
    return Sheet(f"Recovery, {data}", columns, table, notes)


def _between(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def pictures(settings: Settings, rows: Sequence[Row]) -> dict[str, Figure]:
    """An image as it was, as it was given and as it was arranged; accuracies as bars."""
    found = {"arranged": _examples(settings, rows), "accuracy": _bars(settings, rows)}
    return {name: figure for name, figure in found.items() if figure is not None}


def _examples(settings: Settings, rows: Sequence[Row]) -> Figure | None:
    from matplotlib import pyplot

    shown = [(data, kind) for data, _ in settings.data for kind in KINDS]
    firsts = {case.name: of_case(rows, case.name)[:1] for case in cases(settings)}
    shown = [s for s in shown if firsts.get(f"kaleidoscope/{s[1]}/{s[0]}")]
    if not shown:
        return None
    figure, axes = pyplot.subplots(len(shown), 5, figsize=(8.5, 1.75 * len(shown)), squeeze=False)
    for line, (data, kind) in zip(axes, shown, strict=True):
        row = firsts[f"kaleidoscope/{kind}/{data}"][0]
        panels = {"original": row["example"]["original"], "permuted": row["example"]["scrambled"]}
        for method in ("kaleidoscope", "sinkhorn", "seriation"):
            other = firsts[f"{method}/{kind}/{data}"]
            panels[method] = other[0]["example"]["arranged"] if other else None
        for panel, (title, pixels) in zip(line, panels.items(), strict=True):
            panel.set_xticks([])
            panel.set_yticks([])
            if pixels is not None:
                side = row["side"]
                image = [pixels[k * side : (k + 1) * side] for k in range(side)]
                panel.imshow(image, cmap="gray", vmin=0, vmax=255)
            panel.set_title(title, fontsize=8)
        line[0].set_ylabel(f"{data}\n{KINDS[kind]}", fontsize=7)
    figure.tight_layout()
    return figure


def _bars(settings: Settings, rows: Sequence[Row]) -> Figure | None:
    from matplotlib import pyplot

    if not rows:
        return None
    figure, axes = pyplot.subplots(
        1, len(settings.data), figsize=(5.2 * len(settings.data), 4.6), squeeze=False
    )
    for panel, (data, _) in zip(axes[0], settings.data, strict=True):
        labels, means, spreads = [], [], []
        for case in cases(settings):
            values = [row["test"] for row in of_case(rows, case.name) if "test" in row]
            if case.options["data"] == data and values:
                kind = case.options["permutation"]
                method = TITLES[case.options["method"]].removesuffix(" + CNN")
                labels.append(method + (f", {KINDS[kind]}" if kind not in ("none", "bit-reversal") else ""))
                means.append(statistics.mean(values))
                spreads.append(statistics.stdev(values) if len(values) > 1 else 0.0)
        panel.barh(labels[::-1], means[::-1], xerr=spreads[::-1], color="tab:blue", height=0.7)
        panel.set_xlabel("test accuracy %")
        panel.set_title(f"{data} (2-D bit reversal unless named)", fontsize=9)
        panel.tick_params(labelsize=7)
    figure.tight_layout()
    return figure
