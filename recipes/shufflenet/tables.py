"""Tables and a picture, the paper's figures beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..common import Row, Sheet
from ..common.sheets import mean_spread, of_case
from .clock import PREPARED
from .mixing import MIXINGS
from .settings import TIMED, TRAINED, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Tables 2 and 6: top-1 and top-5 in per cent, parameters as printed. One run each.
PAPER: Mapping[float, Mapping[str, tuple[float, float, str]]] = {
    0.25: {"shuffle": (44.1, 68.6, "0.46M"), "hadamard": (43.9, 68.4, "0.46M"), "k": (49.2, 73.4, "0.51M")},
    0.5: {"shuffle": (57.1, 79.9, "1.0M"), "hadamard": (56.2, 79.2, "1.0M"), "k": (59.5, 81.7, "1.1M")},
    1.0: {"shuffle": (65.3, 86.0, "2.5M"), "hadamard": (65.0, 85.8, "2.5M"), "k": (66.5, 86.8, "2.8M")},
}
PAPER_GAINS = {0.25: "+5.0", 0.5: "+2.4", 1.0: "+1.2"}
"""Of K against the shuffle, as printed: the first is not the difference of the rounded figures."""
FEW_CLASSES = 20
"""Below it most wrong answers still have the right one among five."""
TITLES = {name: mixing.title for name, mixing in MIXINGS.items()} | {PREPARED: "K, prepared"}


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """Accuracy at each width, then times."""
    trained = [_accuracy(settings, rows, width.factor) for width in settings.widths]
    times = _times(settings, [row for row in rows if row["options"]["kind"] == TIMED])
    return [*trained, *([times] if times.rows else [])]


def _accuracy(settings: Settings, rows: Sequence[Row], width: float) -> Sheet:
    """Top-1, and the difference to the shuffle seed by seed, of one width."""
    paper = PAPER.get(width, {})
    fives = settings.classes >= FEW_CLASSES
    columns = ["channels mixed by", "#parameters", "#top-1 %", "#against shuffle, points"]
    columns += ["#top-5 %"] if fives else []
    if paper:
        columns += ["#paper: parameters", "#paper: top-1 %", "#paper: against shuffle", "#paper: top-5 %"]
    columns.append("#seeds")
    reference = {row["seed"]: row["top1"] for row in of_case(rows, f"shuffle/width-{width:g}")}
    table = []
    for name in settings.mixings:
        found = of_case(rows, f"{name}/width-{width:g}")
        gains = [row["top1"] - reference[row["seed"]] for row in found if row["seed"] in reference]
        known = paper.get(name)
        cells = [TITLES[name], f"{found[0]['parameters']:,}" if found else ""]
        cells += [
            mean_spread((row["top1"] for row in found), 1, 100),
            "" if name == "shuffle" else _signed(gains),
        ]
        cells += [mean_spread((row["top5"] for row in found), 1, 100)] if fives else []
        if paper:
            gain = "" if known is None or name == "shuffle" else f"{known[0] - paper['shuffle'][0]:+.1f}"
            gain = PAPER_GAINS[width] if name == "k" else gain
            cells += ["", "", "", ""] if known is None else [known[2], f"{known[0]}", gain, f"{known[1]}"]
        table.append([*cells, f"{len(found)}"])
    notes = [f"Ours: {settings.data}; mean and standard deviation over seeds, differences seed by seed."]
    notes += [_PAPER_NOTE] if paper else []
    return Sheet(f"Top-1 at width {width:g}", columns, table, notes)


_PAPER_NOTE = (
    "Paper: ImageNet, 1000 classes, one run each. Its last layer has 1000 outputs; with as many, our numbers of "
    "parameters are the printed ones."
)


def _times(settings: Settings, rows: Sequence[Row]) -> Sheet:
    """Milliseconds and ratios to the shuffle, medians over the runs."""
    kinds = ["step", *(f"inference {size}" for size in settings.timed_sizes)]
    heads = [f"step, batch {settings.timed_batch}, {settings.size}²"]
    heads += [f"inference, batch 1, {size}²" for size in settings.timed_sizes]
    columns = ["width", "channels mixed by"]
    columns += [f"#{head}{unit}" for head in heads for unit in (": ms", ": times shuffle")]
    columns.append("#seeds")
    table = []
    for width in settings.timed:
        found = of_case(rows, f"time/width-{width:g}")
        for name in [*settings.mixings, PREPARED] if found else []:
            cells = [f"{width:g}", TITLES[name]]
            for kind in kinds:
                measured = [row[kind][name] for row in found if name in row[kind]]
                cells += _middle(measured)
            table.append([*cells, f"{len(found)}"])
    notes = [
        f"One thread, {settings.rounds} rounds in turns in each run; ratios are taken round by round.",
        "“K, prepared”: the factors computed once from the angles, by km.ops.prepare, as one would deploy it.",
    ]
    return Sheet("Time", columns, table, notes)


def _middle(measured: Sequence[Mapping[str, float]]) -> list[str]:
    if not measured:
        return ["", ""]
    ms, ratio = (statistics.median(m[key] for m in measured) for key in ("ms", "ratio"))
    return [f"{ms:.1f}", f"{ratio:.2f}"]


def _signed(gains: Sequence[float]) -> str:
    text = mean_spread(gains, 1, 100)
    return text if text.startswith("-") or not text else f"+{text}"


def pictures(settings: Settings, rows: Sequence[Row]) -> dict[str, Figure]:
    """Training loss by epoch at each width, as in the paper's Figure 4, mean over seeds."""
    trained = [row for row in rows if row["options"]["kind"] == TRAINED]
    if not trained:
        return {}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(settings.widths), figsize=(4.6 * len(settings.widths), 3.4), squeeze=False, sharey=True
    )
    for panel, width in zip(axes[0], settings.widths, strict=True):
        for name in settings.mixings:
            losses: list[Any] = [r["loss"] for r in of_case(trained, f"{name}/width-{width.factor:g}")]
            if losses:
                means = [statistics.mean(values) for values in zip(*losses, strict=True)]
                panel.plot(range(1, len(means) + 1), means, label=TITLES[name], linewidth=1.2)
        panel.set(title=f"width {width.factor:g}", xlabel="epoch")
    axes[0][0].set_ylabel("training loss")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return {"loss": figure}
