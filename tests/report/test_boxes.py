"""The pictures of boxes hold every layer, count what covers what, and stand in the pages."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix.report import write_boxes_report, write_compression_report
from kmatrix.report.boxes import boxes_of, boxes_section, coverage, kinds_of
from kmatrix.structures import Boxes


class Block(nn.Module):
    """Two layers of boxes, one of which is still learned."""

    def __init__(self) -> None:
        super().__init__()
        self.query = km.nn.Linear(24, 20, structure=km.GBLR(6, 0.3))
        self.value = km.nn.Linear(24, 20, structure=km.Gaudi(6, 0.3))
        self.dense = nn.Linear(4, 4)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    whole = nn.Module()
    whole.blocks = nn.ModuleList(Block() for _ in range(3))
    return whole


def test_every_layer_of_boxes_is_found_with_its_shape(model: nn.Module) -> None:
    found = boxes_of(model)
    assert list(found) == [f"blocks.{k}.{name}" for k in range(3) for name in ("query", "value")]
    assert all(shape == (20, 24) for _, shape in found.values())
    assert all(boxes.cost <= 0.3 * 20 * 24 for boxes, _ in found.values())


def test_coverage_counts_the_boxes_over_each_entry() -> None:
    boxes = Boxes([2, 0], [2, 3], [1, 0], [2, 2])
    assert coverage(boxes, (3, 3)).tolist() == [[1, 2, 1], [1, 1, 0], [1, 2, 1]]


def test_coverage_counts_any_boxes() -> None:
    generator = torch.Generator().manual_seed(1)
    rows, cols = (torch.randint(size, (2, 30), generator=generator) for size in (12, 9))
    boxes = Boxes(rows[0], rows[1], cols[0], cols[1])
    counted = boxes.row_masks(12).double() @ boxes.col_masks(9).double().mT
    assert torch.equal(coverage(boxes, (12, 9)).double(), counted)


def test_layers_of_one_kind_are_counted_together(model: nn.Module) -> None:
    text = boxes_section(boxes_of(model))
    assert text.count("data:image/png;base64,") == 1 + 2  # the widths, and four and two layers
    assert text.count("<tr") == 1 + 6
    assert set(kinds_of(boxes_of(model)).values()) == {"query", "value"}


def test_kinds_are_told_apart_by_all_of_their_names() -> None:
    names = ["encoder.layers.0.fc1", "decoder.layers.0.fc1", "decoder.layers.1.fc1", "head"]
    kinds = kinds_of(names)
    assert list(kinds.values()) == ["encoder.layers.*.fc1"] + 2 * ["decoder.layers.*.fc1"] + ["head"]
    assert kinds_of(["a.0.b.1.c", "a.1.b.c"]) == {"a.0.b.1.c": "*.c", "a.1.b.c": "c"}
    assert kinds_of(["features.0", "features.10"])["features.10"] == "features.*"


def test_pictures_are_rows_of_bounded_size() -> None:
    """However many layers there are, and however large: no picture grows with them."""
    pairs = {f"layers.{k}": (Boxes([900], [200], [0], [1000]), (1000, 1000)) for k in range(9)}
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", boxes_section(pairs))
    assert len(pictures) == 1 + 3
    heights = [int.from_bytes(base64.b64decode(p)[20:24], "big") for p in pictures]
    assert max(heights) < 500


def test_the_page_needs_nothing_from_elsewhere(model: nn.Module, tmp_path: Path) -> None:
    write_boxes_report(tmp_path / "boxes.html", model, title="a <small> model")
    text = (tmp_path / "boxes.html").read_text(encoding="utf-8")
    assert "a &lt;small&gt; model" in text
    assert not re.search(r"https?://|<script", text)


def test_a_matrix_of_no_boxes_is_a_page(tmp_path: Path) -> None:
    nothing = km.GBLRMatrix.from_boxes((5, 4), Boxes([], [], [], []), torch.zeros(0), torch.zeros(0))
    write_boxes_report(tmp_path / "nothing.html", nothing)
    assert "GBLRMatrix" in (tmp_path / "nothing.html").read_text(encoding="utf-8")


def test_models_without_boxes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(km.ArgumentError, match="it has no boxes"):
        write_boxes_report(tmp_path / "boxes.html", nn.Linear(3, 3))


def test_the_page_of_a_compressed_model_shows_its_boxes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(14, 20), nn.ReLU(), nn.Linear(20, 3))
    report = km.compress_(
        model, 0.6, calibration=[torch.randn(50, 14)], structures=[km.GBLR], verify_speed=False
    )
    for given, pictures in ((None, 1), (model, 3)):
        write_compression_report(tmp_path / "small.html", report, model=given)
        text = (tmp_path / "small.html").read_text(encoding="utf-8")
        assert text.count("data:image/png;base64,") == pictures
        assert ("<h2>Boxes</h2>" in text) == (given is not None)
