"""A picture of all times: each case a line, each contender a mark, as shares of the speed of copying the vectors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from _gpu.cases import BMM, BMM_COLUMNS, COMPILED, DENSE, FFT, OURS, PORTABLE

MARKS = {
    OURS: ("o", "#1a5799", 9),
    COMPILED: ("d", "#1a5799", 6),
    PORTABLE: ("o", "#8fb3d9", 6),
    DENSE: ("s", "#6b6b6b", 6),
    BMM: ("^", "#c74f0d", 6),
    BMM_COLUMNS: ("v", "#c74f0d", 6),
    FFT: ("P", "#e3a008", 7),
}


def can_draw() -> bool:
    """Whether matplotlib is here."""
    return find_spec("matplotlib") is not None


def picture(cases: Sequence[Mapping[str, Any]], machine: Mapping[str, str]) -> bytes | None:
    """As an SVG with everything in it; None if nothing was timed beside a copy."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [case for case in cases if any(time["of_copy"] for time in case["times"])]
    if not rows:
        return None
    with rc_context({"svg.hashsalt": "kmatrix", "svg.fonttype": "path", "font.size": 10}):
        figure = Figure(figsize=(8.6, 1.6 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for name, (mark, colour, size) in MARKS.items():
            places = [
                (100 * time["of_copy"], i)
                for i, case in enumerate(rows)
                for time in case["times"]
                if time["name"] == name and time["of_copy"]
            ]
            if places:
                style = {"ls": "", "marker": mark, "color": colour, "ms": size}
                axes.plot([x for x, _ in places], [y for _, y in places], label=name, **style)
        axes.axvline(100, color="#2a8a3e", ls="--", lw=1.5, label="bound: copying the vectors")
        axes.set(xscale="log", xlabel="% of the speed of a copy", ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), [case["name"] for case in rows])
        axes.grid(color="#e6e6e6", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"{machine.get('gpu', 'no GPU')}, torch {machine['torch']}", loc="left")
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
