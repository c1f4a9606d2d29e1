"""Time against n at one batch size: dense, Fourier transforms, ours, and the rooflines of the processor."""

from __future__ import annotations

import io
from importlib.util import find_spec

from kmatrix._errors import BackendUnavailableError, complaint
from kmatrix.benchmark.results import Results
from kmatrix.benchmark.sweep import CURVE_BATCH

# Name in the results: label, colour, line style.
LINES = {
    "dense float32": ("dense, float32", "#6b6b6b", "-"),
    "dense bfloat16": ("dense, bfloat16", "#a9a9a9", "-"),
    "torch fft": ("torch.fft.fft, complex64", "#c74f0d", "-"),
    "torch rfft": ("torch.fft.rfft", "#e3a008", "-"),
    "kmatrix": ("butterfly, kmatrix", "#1a5799", "-"),
    "copy": ("bound: moving the vectors", "#2a8a3e", "--"),
    "arithmetic": ("bound: its arithmetic", "#2a8a3e", ":"),
}


def check_available() -> None:
    """Raise unless pictures can be drawn; asked before long work and not after it."""
    if find_spec("matplotlib") is None:
        way_out = "install it with: pip install 'kmatrix[cli]', or leave --out away"
        raise BackendUnavailableError(complaint("bench", "matplotlib", None, "is not installed", way_out))


def speed_picture(results: Results) -> bytes:
    """The curves as an SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "kmatrix", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(8.6, 5.0), layout="constrained")
        axes = figure.subplots()
        for name, (label, colour, style) in LINES.items():
            own = sorted((p.n, p.us) for p in results.curve if p.name == name)
            if not own:
                continue
            bold = {"lw": 2.6, "marker": "o", "ms": 5} if name == "kmatrix" else {"lw": 1.5}
            axes.plot([n for n, _ in own], [us for _, us in own], color=colour, ls=style, label=label, **bold)
        sizes = sorted({p.n for p in results.curve})
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("n")
        axes.set_ylabel(f"microseconds for {CURVE_BATCH} vectors")
        axes.grid(color="#e6e6e6", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        threads = results.machine["threads"]
        many = "thread" if threads == "1" else "threads"
        title = f"{results.machine['processor']}, {results.machine['instructions']}, {threads} {many}"
        axes.set_title(title, loc="left")
        axes.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
