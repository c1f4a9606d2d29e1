"""Where the boxes of a model lie and how wide they are: a picture of each layer, and the widths by kind of layer."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
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
PIXELS = 256
"""Most pixels of a picture on a side; larger layers are shown by the means of their parts."""
LETTERS = 36
"""Most of a name above a picture: its end."""

Shape = tuple[int, int]
T = TypeVar("T")


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


def kinds_of(names: Iterable[str]) -> dict[str, str]:
    """The kind of every layer: its name with ``*`` for the parts that count layers, without what all begin with.

    Example:
        >>> kinds_of(["blocks.0.attention.query", "blocks.1.attention.query", "blocks.0.mlp"])["blocks.0.mlp"]
        'mlp'
        >>> kinds_of(["encoder.0.fc1", "encoder.1.fc1", "decoder.0.fc1"])["encoder.1.fc1"]
        'encoder.*.fc1'
        >>> kinds_of(["0", "2"])
        {'0': '*', '2': '*'}
    """
    parts = {name: tuple("*" if part.isdigit() else part for part in name.split(".")) for name in names}
    kinds = set(parts.values())
    shared = 0
    if len(kinds) > 1:
        shortest = min(len(kind) for kind in kinds)
        while shared < shortest - 1 and len({kind[shared] for kind in kinds}) == 1:
            shared += 1
    return {name: ".".join(kind[shared:]) for name, kind in parts.items()}


def coverage(boxes: Boxes, shape: Shape) -> Tensor:
    """How many boxes cover each entry, ``(m, n)``: the local rank that they allow."""
    m, n = shape
    # Every box adds one at its first corner and takes it back behind its edges; sums from there count it inside.
    steps = torch.zeros(m + 1, n + 1, dtype=torch.int32)
    for top, bottom in _spans(boxes.row_start, boxes.row_width, m):
        for first, last in _spans(boxes.col_start, boxes.col_width, n):
            for i, j, step in ((top, first, 1), (bottom, last, 1), (top, last, -1), (bottom, first, -1)):
                steps.index_put_((i, j), torch.tensor(step, dtype=torch.int32), accumulate=True)
    return steps.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)[:m, :n]


def _spans(start: Tensor, width: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Where segments begin and end, and then what of them is cyclic; such parts may be empty."""
    end = start + width
    yield start, end.clamp(max=size)
    yield torch.zeros_like(start), (end - size).clamp(min=0)


def _seen(boxes: Boxes, shape: Shape) -> tuple[int, Tensor]:
    """The most boxes over one entry, and the coverage in as many pixels as are shown."""
    whole = coverage(boxes, shape)
    pixels = min(shape[0], PIXELS), min(shape[1], PIXELS)
    small = nn.functional.adaptive_avg_pool2d(whole[None].float(), pixels)[0]
    return int(whole.max()), small


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
    found = {name: (boxes.without_empty(), shape) for name, (boxes, shape) in found.items()}
    seen = {name: _seen(boxes, shape) for name, (boxes, shape) in found.items()}
    return "\n".join(
        (
            _table(found, seen),
            "<h3>Widths</h3>",
            *_images(widths_pictures(found), "distribution of the widths of boxes"),
            '<p class="quiet">Widths as shares of the side of their matrix; boxes of width 0 are left out. '
            "Layers whose names differ only in the numbers that count layers are one kind.</p>",
            "<h3>Where the boxes lie</h3>",
            *_images(places_pictures(found, seen), "how many boxes cover each entry"),
            '<p class="quiet">How many boxes cover each entry, which is the rank that a part of the matrix can have; '
            f"the mean over the entries of a pixel where a side is longer than {PIXELS}. "
            f"The {OUTLINED} largest boxes of each layer are outlined, over the edge where they are cyclic.</p>",
        )
    )


def _images(pictures: Iterable[str], shown: str) -> list[str]:
    return [f'<p><img class="wide" src="{picture}" alt="{shown}"></p>' for picture in pictures]


def _table(found: Mapping[str, tuple[Boxes, Shape]], seen: Mapping[str, tuple[int, Tensor]]) -> str:
    rows = []
    for name, (boxes, (m, n)) in found.items():
        cells = [
            text(name),
            number(f"{m} × {n}"),
            number(f"{len(boxes):,}"),
            number(f"{boxes.cost / (m * n):.1%}"),
            number(f"{_mean(boxes.row_width) / m:.1%}"),
            number(f"{_mean(boxes.col_width) / n:.1%}"),
            number(f"{seen[name][0]:,}"),
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


def widths_pictures(found: Mapping[str, tuple[Boxes, Shape]]) -> Iterator[str]:
    """For each kind of layer the distribution of row and column widths; PNGs as ``data:`` addresses."""
    kinds: dict[str, tuple[list[float], list[float]]] = {}
    kind_of = kinds_of(found)
    for name, (boxes, (m, n)) in found.items():
        rows, cols = kinds.setdefault(kind_of[name], ([], []))
        rows += (boxes.row_width / m).tolist()
        cols += (boxes.col_width / n).tolist()
    for some in _rows(kinds):
        figure, grid = _figure(len(some), 2.1)
        for axes, (kind, sides) in zip(grid, some.items(), strict=True):
            axes.hist(sides, bins=BINS, range=(0, 1), label=["rows", "columns"], color=["#c74f0d", "#1a5799"])
            axes.set_title(_end(kind), fontsize=9)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        grid[0].legend(fontsize=7, frameon=False)
        yield _png(figure)


def places_pictures(
    found: Mapping[str, tuple[Boxes, Shape]], seen: Mapping[str, tuple[int, Tensor]]
) -> Iterator[str]:
    """For each layer how many boxes cover each entry, the largest outlined; PNGs as ``data:`` addresses."""
    # One figure for all would be as high as the model is deep: beyond what can be drawn, and ever slower.
    for some in _rows(found):
        figure, grid = _figure(len(some), 2.7)
        for axes, (name, (boxes, shape)) in zip(grid, some.items(), strict=True):
            small = seen[name][1]
            # Pixels stand where their entries are counted from 0.
            edges = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
            axes.imshow(
                small.numpy(), cmap="Greys", aspect="auto", vmin=0, vmax=float(small.max()) or 1, extent=edges
            )
            _outline(axes, boxes, shape)
            axes.set_title(_end(name), fontsize=8)
            axes.set_xlabel(f"black: {float(small.max()):.3g} over one pixel", fontsize=7)
            axes.tick_params(labelsize=6)
        yield _png(figure)


def _rows(shown: Mapping[str, T]) -> Iterator[dict[str, T]]:
    """What stands side by side."""
    items = list(shown.items())
    for first in range(0, len(items), COLUMNS):
        yield dict(items[first : first + COLUMNS])


def _end(name: str) -> str:
    return name if len(name) <= LETTERS else "…" + name[1 - LETTERS :]


def _outline(axes: Axes, boxes: Boxes, shape: Shape) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    largest = (boxes.row_width * boxes.col_width).argsort(descending=True)[:OUTLINED]
    patches = [
        Rectangle((x - 0.5, y - 0.5), w, h)
        for top, height, left, width in boxes.select(largest).to_lists()
        for y, h in _parts(top, height, shape[0])
        for x, w in _parts(left, width, shape[1])
    ]
    drawn = PatchCollection(patches, facecolor="none", edgecolor="#c74f0d", linewidth=0.6, alpha=0.7)
    axes.add_collection(drawn, autolim=False)


def _parts(start: int, width: int, size: int) -> list[tuple[int, int]]:
    """A cyclic segment as one or two ordinary ones."""
    inside = min(width, size - start)
    return [(start, inside)] + ([(0, width - inside)] if width > inside else [])


def _figure(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A row of pictures, in places that do not depend on what they hold, so that the rows stand in columns."""
    # The object interface draws without pyplot's global state, so a report never disturbs the user's own figures.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * COLUMNS, height))
    grid = figure.subplots(1, COLUMNS, squeeze=False).flatten().tolist()
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.42 / height, top=1 - 0.3 / height, wspace=0.2)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
