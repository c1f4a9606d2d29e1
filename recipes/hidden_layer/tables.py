"""Tables and pictures: the paper's rows beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..common import Row, Sheet
from ..common.sheets import mean_spread, seeds
from .models import METHODS
from .sets import SIZE
from .settings import BG_ROT, CIFAR, NOISE, SIGNS, TIME, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER: Mapping[str, tuple[float, float, float, float]] = {
    # MNIST-bg-rot, MNIST-noise, grey CIFAR-10, compression: arXiv 1903.05895, Table 1.
    "dense": (44.08, 65.15, 46.03, 1.0),
    "bpbp-complex": (46.26, 77.00, 49.93, 39.4),
    "bpbp-real": (46.16, 75.00, 48.69, 56.9),
    "ldr-td": (45.81, 78.45, 45.33, 56.9),
    "toeplitz-like": (42.67, 75.75, 41.78, 56.9),
    "fastfood": (38.13, 63.55, 39.64, 78.7),
    "circulant": (34.46, 65.35, 34.28, 93.0),
    "low-rank": (35.67, 52.25, 32.28, 56.9),
}
_COLUMN = {BG_ROT: 0, NOISE: 1, CIFAR: 2}
_TITLES = {BG_ROT: "MNIST-bg-rot", NOISE: "MNIST-noise", CIFAR: "grey CIFAR-10", SIGNS: "grey sign digits"}
STAND_IN = (
    "MNIST-bg-rot and MNIST-noise are rebuilt from MNIST, with patches of the sign-digit photographs for the "
    "backgrounds of the first; grey sign digits stand in for grey CIFAR-10"
)


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """Accuracy, cost, and the learning rates that were chosen."""
    trained = [row for row in rows if row["case"] != TIME]
    return [_accuracy(settings, trained), _cost(settings, rows), _rates(settings, trained)]


def _of(rows: Sequence[Row], method: str, data: str | None = None) -> list[Row]:
    return [r for r in rows if r["method"] == method and data in (None, r["data"])]


def _printed(method: str, data: str) -> str:
    known = method in PAPER and data in _COLUMN
    return f"{PAPER[method][_COLUMN[data]]:.2f}" if known else ""


def _accuracy(settings: Settings, rows: Sequence[Row]) -> Sheet:
    names = [name for name, _ in settings.data]
    columns = ["method", *(f"#{_TITLES[name]}{part}" for name in names for part in ("", ", paper")), "#seeds"]
    # The stand-in of CIFAR-10 has the paper's figures of CIFAR-10 beside it.
    columns = [c.replace(f"{_TITLES[SIGNS]}, paper", f"{_TITLES[CIFAR]}, paper") for c in columns]
    lines = []
    for method, what in METHODS.items():
        line = [what.title]
        for name in names:
            line.append(mean_spread(r["test"] for r in _of(rows, method, name)))
            line.append(_printed(method, CIFAR if name == SIGNS else name))
        lines.append([*line, seeds(*(len(_of(rows, method, name)) for name in names))])
    printed = [_printed("ldr-td", CIFAR if name == SIGNS else name) for name in names]
    lines.append(["LDR-TD", *(cell for figure in printed for cell in ("", figure)), ""])
    return Sheet("Test accuracy, %", columns, lines, _notes(settings, rows))


def _notes(settings: Settings, rows: Sequence[Row]) -> list[str]:
    notes = []
    if settings.synthetic:
        return ["Random images: these figures mean nothing."]
    sources = {r["data"]: r["source"] for r in rows}
    rebuilt = [_TITLES[name] for name, source in sources.items() if source == "rebuilt"]
    if rebuilt:
        notes.append(
            f"{' and '.join(rebuilt)} rebuilt from MNIST: {settings.train:,} images for training and validation, "
            f"{settings.test:,} for testing."
        )
    if BG_ROT in sources and sources[BG_ROT] == "rebuilt":
        notes.append("Backgrounds of MNIST-bg-rot: patches of the sign-digit photographs, a stand-in.")
    if any(name == SIGNS for name, _ in settings.data):
        notes.append(
            "Grey sign digits, 1,650 images for training and validation: a stand-in for grey CIFAR-10."
        )
    notes.append(
        "Paper: one run each, no spread; its rows other than BPBP are of Thomas et al. 2018, with another search. "
        "LDR-TD has learned tridiagonal operators, our LDR-SD sub-diagonal ones."
    )
    return notes


def _cost(settings: Settings, rows: Sequence[Row]) -> Sheet:
    columns = ["method", "#parameters", "#compression", "#paper", "#ms a step", "#times dense", "#seeds"]
    timed = [r for r in rows if r["case"] == TIME]
    lines = []
    for method, what in METHODS.items():
        steps = [r["step_seconds"] for r in timed]
        step = mean_spread((s[method] for s in steps), 2, 1e3)
        times = mean_spread(s[method] / s["dense"] for s in steps)
        printed = f"{PAPER[method][3]:.1f}" if method in PAPER else ""
        compression = 1.0 if method == "dense" else what.compression(SIZE)
        count = f"{what.num_params(SIZE):,}"
        lines.append([what.title, count, f"{compression:.1f}", printed, step, times, f"{len(timed)}"])
    notes = [
        "Compression as in the paper: the dense hidden matrix over the hidden matrix and the softmax layer together."
    ]
    if timed:
        notes.append(
            f"A step: batch {settings.batch}, forward, backward, SGD, on {timed[0]['made_with']['processor']}, "
            f"threads: {timed[0]['threads']}; medians of {timed[0]['rounds']} rounds in which the methods take turns."
        )
    return Sheet(f"Parameters of the {SIZE} x {SIZE} hidden layer, and time", columns, lines, notes)


def _rates(settings: Settings, rows: Sequence[Row]) -> Sheet:
    names = [name for name, _ in settings.data]
    lines = []
    for method, what in METHODS.items():
        cells = [" ".join(f"{r['rate']:g}" for r in _of(rows, method, name)) for name in names]
        lines.append([what.title, *cells])
    held = f"{100 * settings.validation:g} % of the training images"
    note = f"Chosen for each seed on {held}, of {_listed(settings.rates)}"
    low = ", ".join(method.title for method in METHODS.values() if method.low)
    note += f" ({low}: of {_listed(settings.low_rates)}"
    note += "".join(f"; {m.title}: also {_listed(m.more)}" for m in METHODS.values() if m.more) + ")"
    rounds = "; ".join(f"{left} left after {steps} steps" for steps, left in settings.rounds)
    note += f": {rounds}." if rounds else ", all trained to the end."
    return Sheet("Learning rates", ["method", *(_TITLES[name] for name in names)], lines, [note])


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:g}" for n in numbers)


def pictures(settings: Settings, rows: Sequence[Row]) -> dict[str, Figure]:
    """Accuracy of every method, ours and the paper's."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["case"] != TIME]
    names = [name for name, _ in settings.data if any(r["data"] == name for r in rows)]
    if not names:
        return {}
    figure = Figure(figsize=(2.0 + 3.2 * len(names), 3.8), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for ax, name in zip(axes, names, strict=True):
        _dots(ax, rows, name)
    titles = [f"{what.title} ({what.compression(SIZE):.0f}x)" for what in METHODS.values()]
    axes[0].set_yticks(range(len(METHODS)), titles, fontsize=8)
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False, fontsize=8)
    return {"accuracy": figure}


def _dots(ax: Axes, rows: Sequence[Row], name: str) -> None:
    """One data set: a filled point for each seed, a hollow one for the paper."""
    ours, paper = "ours, every seed", "paper"
    for y, method in enumerate(METHODS):
        found = [r["test"] for r in _of(rows, method, name)]
        ax.plot(found, [y] * len(found), "o", color="C0", alpha=0.6, label=ours if y == 0 else None)
        if method in PAPER and name in _COLUMN:
            ax.plot(
                PAPER[method][_COLUMN[name]], y, "D", mfc="none", color="C1", label=paper if y == 0 else None
            )
    ax.grid(axis="y", alpha=0.3)
    ax.set_xlabel("test accuracy, %")
    ax.set_title(_TITLES[name], fontsize=10)
