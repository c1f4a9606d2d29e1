"""Where the boxes of a model lie and how wide they are: a picture of each layer, and the widths by kind of layer."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from kmatrix._checks import check_module
from kmatrix._errors import ArgumentError, complaint
from kmatrix._files import write_atomically
from kmatrix.report.page import check_available
from kmatrix.report.style import STYLE
from kmatrix.report.tables import head, number, row, table, text
from kmatrix.structures import Boxes, GaudiMatrix, GBLRMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
"""Pictures of layers side by side."""
OUTLINED = 24
"""Boxes that are drawn as outlines on top, those with most area."""
BINS = 20

Shape = tuple[int, int]


def boxes_of(model: nn.Module) -> dict[str, tuple[Boxes, Shape]]:
    """The boxes of every layer that is a sum of boxes, by the name of the layer, and the shapes.

    Boxes that are still learned are shown as they would be cropped now.

    Args:
        model: any module; ``GBLRMatrix`` and ``GaudiMatrix`` inside are found.

    Example:
        >>> import kmatrix as km, torch
        >>> model = torch.nn.Sequential(km.nn.Linear(8, 6, structure=km.GBLR(3)))
        >>> boxes_of(model)
        {'0': (Boxes(3 boxes, cost=24), (6, 8))}
    """
    found: dict[str, tuple[Boxes, Shape]] = {}
    for name, module in model.named_modules():
        if isinstance(module, GBLRMatrix | GaudiMatrix):
            boxes = module.boxes if isinstance(module, GBLRMatrix) else module.harden().boxes
            found[re.sub(r"\.?matrix$", "", name) or type(module).__name__] = (boxes.to("cpu"), module.shape)
    return found


def kind_of(name: str) -> str:
    """The kind of a layer: its name without what counts layers.

    Example:
        >>> kind_of("blocks.3.attention.query"), kind_of("0"), kind_of("features.0.1")
        ('attention.query', '0', 'features')
    """
    parts = [part for part in name.split(".") if not part.isdigit()]
    numbered = [k for k, part in enumerate(name.split(".")) if part.isdigit()]
    if numbered and len(parts) > 1:  # what stands before the first number is the list of the layers
        parts = parts[numbered[0] :] or parts
    return ".".join(parts) or name


def coverage(boxes: Boxes, shape: Shape) -> Tensor:
    """How many boxes cover each entry, ``(m, n)``: the local rank that they allow."""
    return boxes.row_masks(shape[0]).float() @ boxes.col_masks(shape[1]).float().mT


def write_boxes_report(path: str | Path, model: nn.Module, *, title: str = "Boxes of a model") -> None:
    """Write where the boxes of a model lie as one self-contained HTML page.

    For every layer how many boxes cover each entry and the largest boxes outlined; for every kind of layer how the
    widths are distributed, and what they cost.

    Args:
        path: where the page goes; written under another name first and renamed.
        model: a module with layers of ``km.GBLR``, or of boxes that are still learned.
        title: heading of the page.

    Raises:
        ArgumentError: if the model has no such layer, or the page cannot be written there.
        DtypeError: if it is no module.
        BackendUnavailableError: if matplotlib is not installed.

    Example:
        >>> import tempfile, torch, kmatrix as km
        >>> from kmatrix.report import write_boxes_report
        >>> model = torch.nn.Sequential(km.nn.Linear(64, 48, structure=km.GBLR(budget=0.3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_boxes_report(f"{folder}/boxes.html", model)
    """
    check_available()
    check_module("write_boxes_report", model)
    found = boxes_of(model)
    if not found:
        way_out = "compress_ or learn_structure with km.GBLR first"
        raise ArgumentError(
            complaint("write_boxes_report", "model", type(model).__name__, "it has no boxes", way_out)
        )
    heading = escape(title)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{STYLE}</style></head>\n"
        f"<body>\n<h1>{heading}</h1>\n{boxes_section(found)}\n</body></html>\n"
    )
    write_atomically("write_boxes_report", path, page.encode("utf-8"))


def boxes_section(found: Mapping[str, tuple[Boxes, Shape]]) -> str:
    """The pictures and the table as HTML, from ``boxes_of``."""
    return "\n".join(
        (
            _table(found),
            "<h3>Widths</h3>",
            f'<p><img class="wide" src="{widths_picture(found)}" alt="distribution of the widths of boxes"></p>',
            '<p class="quiet">Widths as shares of the side of their matrix; boxes of width 0 are left out. '
            "Layers whose names differ in numbers alone are one kind.</p>",
            "<h3>Where the boxes lie</h3>",
            f'<p><img class="wide" src="{places_picture(found)}" alt="how many boxes cover each entry"></p>',
            '<p class="quiet">How many boxes cover each entry, which is the rank that a part of the matrix can have; '
            f"the {OUTLINED} largest boxes of each layer outlined, over the edge where they are cyclic.</p>",
        )
    )


def _table(found: Mapping[str, tuple[Boxes, Shape]]) -> str:
    rows = []
    for name, (boxes, (m, n)) in found.items():
        kept = boxes.without_empty()
        deepest = int(coverage(kept, (m, n)).max()) if len(kept) else 0
        cells = [
            text(name),
            number(f"{m} × {n}"),
            number(f"{len(kept):,}"),
            number(f"{kept.cost / (m * n):.1%}"),
            number(f"{_mean(kept.row_width) / m:.1%}"),
            number(f"{_mean(kept.col_width) / n:.1%}"),
            number(f"{deepest:,}"),
        ]
        rows.append(row(cells))
    heading = head(
        "layer",
        "#shape",
        "#boxes",
        "#of dense",
        "#mean row width",
        "#mean column width",
        "#most over one entry",
    )
    return table(heading, rows)


def _mean(widths: Tensor) -> float:
    return float(widths.double().mean()) if len(widths) else 0.0


def widths_picture(found: Mapping[str, tuple[Boxes, Shape]]) -> str:
    """For each kind of layer the distribution of row and column widths; a PNG as a ``data:`` address."""
    kinds: dict[str, tuple[list[float], list[float]]] = {}
    for name, (boxes, (m, n)) in found.items():
        rows, cols = kinds.setdefault(kind_of(name), ([], []))
        kept = boxes.without_empty()
        rows += (kept.row_width / m).tolist()
        cols += (kept.col_width / n).tolist()
    across = min(COLUMNS, len(kinds))
    down = -(-len(kinds) // across)
    figure = _figure(2.6 * across, 2.1 * down)
    grid = figure.subplots(down, across, squeeze=False, sharex=True).flatten()
    for axes, (kind, sides) in zip(grid, kinds.items(), strict=False):
        axes.hist(sides, bins=BINS, range=(0, 1), label=["rows", "columns"], color=["#c74f0d", "#1a5799"])
        axes.set_title(kind, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(kinds) :]:
        axes.set_axis_off()
    grid[0].legend(fontsize=7, frameon=False)
    return _png(figure)


def places_picture(found: Mapping[str, tuple[Boxes, Shape]]) -> str:
    """For each layer how many boxes cover each entry, the largest outlined; a PNG as a ``data:`` address."""
    across = min(COLUMNS, len(found))
    down = -(-len(found) // across)
    figure = _figure(2.6 * across, 2.7 * down)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, (name, (boxes, shape)) in zip(grid, found.items(), strict=False):
        kept = boxes.without_empty()
        shown = axes.imshow(coverage(kept, shape).numpy(), cmap="Greys", aspect="auto", vmin=0)
        figure.colorbar(shown, ax=axes, fraction=0.05).ax.tick_params(labelsize=6)
        _outline(axes, kept, shape)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    return _png(figure)


def _outline(axes: Axes, boxes: Boxes, shape: Shape) -> None:
    from matplotlib.patches import Rectangle

    largest = (boxes.row_width * boxes.col_width).argsort(descending=True)[:OUTLINED]
    for top, height, left, width in boxes.select(largest).to_lists():
        for y, h in _parts(top, height, shape[0]):
            for x, w in _parts(left, width, shape[1]):
                patch = Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec="#c74f0d", lw=0.6, alpha=0.7)
                axes.add_patch(patch)


def _parts(start: int, width: int, size: int) -> list[tuple[int, int]]:
    """A cyclic segment as one or two ordinary ones."""
    inside = min(width, size - start)
    return [(start, inside)] + ([(0, width - inside)] if width > inside else [])


def _figure(width: float, height: float) -> Figure:
    # The object interface draws without pyplot's global state, so a report never disturbs the user's own figures.
    from matplotlib.figure import Figure

    return Figure(figsize=(max(width, 4.0), max(height, 2.4)), layout="constrained")


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
