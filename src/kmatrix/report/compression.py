"""The report of a compressed model: one HTML page that holds its own pictures and needs nothing else."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from kmatrix._files import write_atomically
from kmatrix.report.boxes import boxes_of, boxes_section
from kmatrix.report.page import check_available
from kmatrix.report.style import STYLE
from kmatrix.report.tables import cards, head, number, row, table, text
from kmatrix.report.words import brief

if TYPE_CHECKING:
    from kmatrix.compress import CompressReport, LayerReport, Tried


def write_compression_report(
    path: str | Path,
    report: CompressReport,
    *,
    title: str = "kmatrix compression report",
    model: nn.Module | None = None,
) -> None:
    """Write what ``km.compress_`` did as one self-contained HTML page.

    For every layer what was tried, its error, size and measured time, what was chosen and why; the totals; and what
    other budgets would lead to.

    Args:
        path: where the page goes; written under another name first and renamed.
        report: what ``km.compress_`` returned.
        title: heading of the page.
        model: the compressed model, to show where the boxes of its ``km.GBLR`` layers lie.

    Raises:
        ArgumentError: if the page cannot be written there.
        BackendUnavailableError: if matplotlib is not installed.

    Example:
        >>> import tempfile, torch, kmatrix as km
        >>> from kmatrix.report import write_compression_report
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64))
        >>> report = km.compress_(model, 0.5, verify_speed=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_compression_report(f"{folder}/small.html", report)
    """
    check_available()
    write_atomically("write_compression_report", path, page(report, title=title, model=model).encode("utf-8"))


def page(report: CompressReport, *, title: str, model: nn.Module | None = None) -> str:
    """The HTML of a report."""
    heading = escape(title)
    body = "\n".join(
        (
            f'<p class="verdict">{escape(report.headline)}.</p>',
            _cards(report),
            "<h2>What other budgets lead to</h2>" + _curve(report),
            "<h2>Layers</h2>" + _layers(report),
            _skipped(report),
            _boxes(model),
            "<h2>What was tried</h2>" + "".join(_tried(layer, k) for k, layer in enumerate(report.layers, 1)),
            _machine(report),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{STYLE}</style></head>\n"
        f"<body>\n<h1>{heading}</h1>\n{body}\n</body></html>\n"
    )


def _cards(report: CompressReport) -> str:
    now, dense = report.flops
    figures = [
        (
            "parameters",
            f"{report.params / report.dense_params:.1%}",
            f"{report.params:,} of {report.dense_params:,}, the whole model",
        ),
        ("FLOPs", f"{now / dense:.1%}" if dense else "", "of dense, in the selected layers"),
        ("predicted change", f"{report.loss:.1e}", "of the squared size of the output"),
    ]
    if report.layer_seconds is not None:
        now, dense = report.layer_seconds
        details = f"less time than dense, layers one by one, batch {report.batch}"
        figures.append(("measured speed, above 1 is faster", f"{dense / now:.2f}×", details))
    else:
        figures.append(("speed", "not measured", "so nothing here is known to be faster than dense"))
    return cards(figures)


def _curve(report: CompressReport) -> str:
    if not report.curve:
        return '<p class="quiet">No other budget can be reached.</p>'
    heading = head("budget", "#predicted change", "#parameters", "#time of the layers")
    rows = [
        row(
            [
                text(f"{point.budget:.1%}"),
                number(f"{point.loss:.2e}"),
                number(f"{point.params:.1%}"),
                number("" if point.seconds is None else f"{point.seconds:.1%}"),
            ],
            css="won" if point.budget == report.budget else "",
        )
        for point in report.curve
    ]
    words = f"Budgets are shares of dense {report.of}; every one is a choice of its own for all layers. The change is "
    words += "predicted, before any healing: the squared change of the model's output relative to its size."
    return (
        f'<p><img class="wide" src="{curve_picture(report)}" alt="predicted change and time against the budget"></p>'
        + table(heading, rows)
        + f'<p class="quiet">{escape(words)}</p>'
    )


def curve_picture(report: CompressReport) -> str:
    """Predicted change, and measured time, against the budget; a PNG as a ``data:`` address."""
    # The object interface draws without pyplot's global state, so a report never disturbs the user's own figures.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    timed = all(point.seconds is not None for point in report.curve)
    axes = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
    budgets = [point.budget for point in report.curve]
    shown = [("predicted change of the output", [max(point.loss, 1e-12) for point in report.curve], "log")]
    if timed:
        shown.append(
            ("measured time of the layers, dense = 1", [p.seconds or 0.0 for p in report.curve], "linear")
        )
    for one, (label, values, scale) in zip(axes, shown, strict=True):
        one.plot(budgets, values, "o-", color="#1f5fa8", mec="white", mew=0.6, ms=7, lw=1.4)
        here = [(b, v) for b, v in zip(budgets, values, strict=True) if b == report.budget]
        if here:
            one.plot(*zip(*here, strict=True), "o", ms=16, mfc="none", mec="black", mew=1.5)
        one.set(xlabel=f"budget, share of dense {report.of}", ylabel=label, yscale=scale)
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _layers(report: CompressReport) -> str:
    heading = head(
        "layer", "#shape", "chosen", "#of dense", "#error", "#sensitivity", "#dense", "#now", "why"
    )
    rows = []
    for k, layer in enumerate(report.layers, 1):
        chosen = layer.chosen
        cells = [
            f'<td><a href="#layer-{k}">{escape(", ".join(layer.names))}</a></td>',
            number(f"{layer.shape[0]} × {layer.shape[1]}"),
            text("dense" if chosen is None else brief(chosen.structure)),
            number(f"{layer.num_params / layer.dense_params:.1%}"),
            number(_figure(chosen.error if chosen else 0.0)),
            number(_figure(layer.sensitivity)),
            number(_time(layer.dense_seconds)),
            number(_time(layer.seconds)),
            text(layer.reason),
        ]
        rows.append(row(cells, css="won" if chosen else ""))
    words = (
        "The error is the relative squared error of the layer's outputs over the calibration inputs; the sensitivity "
        "what setting the weight to zero would add to the predicted change of the model's output."
    )
    return table(heading, rows) + f'<p class="quiet">{words}</p>'


def _boxes(model: nn.Module | None) -> str:
    found = {} if model is None else boxes_of(model)
    return "<h2>Boxes</h2>" + boxes_section(found) if found else ""


def _skipped(report: CompressReport) -> str:
    if not report.skipped:
        return ""
    rows = [row([text(", ".join(s.names)), text(s.reason)]) for s in report.skipped]
    return "<h3>Skipped</h3>" + table(head("layer", "reason"), rows)


def _tried(layer: LayerReport, k: int) -> str:
    heading = head(
        "structure",
        "#of dense",
        "#FLOPs",
        "#error",
        "#blind error",
        "#adds",
        "#time",
        "#speed",
        "quartiles",
        "note",
    )
    rows = [_attempt(layer, tried) for tried in layer.tried]
    name = escape(", ".join(layer.names))
    return (
        f'<details id="layer-{k}"><summary>{name}: {escape(layer.reason)}</summary>'
        + (table(heading, rows) if rows else "")
        + "</details>"
    )


def _attempt(layer: LayerReport, tried: Tried) -> str:
    dense = layer.dense_params
    quartiles = f"{tried.ratios[0]:.2f} to {tried.ratios[-1]:.2f}" if tried.ratios else ""
    note = "chosen" if tried is layer.chosen else tried.refused or tried.method
    cells = [
        text(brief(tried.structure)),
        number(f"{tried.num_params / dense:.1%}"),
        number(f"{tried.flops / (2 * dense):.1%}"),
        number(_figure(tried.error)),
        number(_figure(tried.blind_error)),
        number(_figure(tried.loss)),
        number(_time(tried.seconds)),
        number("" if tried.speedup is None else f"{tried.speedup:.2f}×"),
        text(quartiles),
        text(note),
    ]
    return row(cells, css="won" if tried is layer.chosen else "")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}" if value else "0"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:,.1f} µs"


def _machine(report: CompressReport) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    made = "Made" if report.layer_seconds is None else "Measured"
    return f'<p class="quiet">{made} on: {escape(facts)}. It took {report.seconds:.1f} s.</p>'
