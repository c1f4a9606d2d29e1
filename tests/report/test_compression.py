"""The page of a compressed model holds every layer and every attempt, and needs nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix.compress import CompressReport
from kmatrix.report import write_compression_report
from kmatrix.report.compression import page


@pytest.fixture
def report() -> CompressReport:
    model = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 6), nn.BatchNorm1d(6))
    return km.compress_(model, 0.6, calibration=[torch.randn(50, 24)], verify_speed=False)


def test_every_layer_and_attempt_is_there(report: CompressReport, tmp_path: Path) -> None:
    write_compression_report(tmp_path / "small.html", report, title="a <small> model")
    text = (tmp_path / "small.html").read_text(encoding="utf-8")
    assert "a &lt;small&gt; model" in text
    assert not re.search(r"https?://|<script", text)
    assert text.count("data:image/png;base64,") == 1
    for k, layer in enumerate(report.layers, 1):
        assert f'id="layer-{k}"' in text
        body = text.split(f'id="layer-{k}"')[1].split("</details>")[0]
        assert body.count("<tr") == 1 + len(layer.tried)
        assert body.count('class="won"') == (layer.chosen is not None)
    assert text.count('<tr class="won">') >= 1 + len(report.compressed)


def test_measured_times_are_shown_where_there_are_any(report: CompressReport) -> None:
    unmeasured = page(report, title="")
    assert "µs" not in unmeasured and "not measured" in unmeasured and "Measured on" not in unmeasured
    tried = tuple(replace(t, seconds=1e-6, ratios=(1.5, 2.0, 2.5)) for t in report.layers[0].tried)
    first = replace(report.layers[0], tried=tried, chosen=tried[0], dense_seconds=2e-6)
    points = tuple(replace(p, seconds=0.5) for p in report.curve)
    text = page(replace(report, layers=(first,), curve=points), title="")
    for words in ("1.0 µs", "2.0 µs", "2.00×", "1.50 to 2.50", "measured speed"):
        assert words in text
    assert "not measured" not in text and "Measured on" in text


def test_reports_without_curve_or_structures_are_pages(report: CompressReport) -> None:
    bare = replace(report, curve=(), layers=(replace(report.layers[0], tried=(), chosen=None),))
    assert "No other budget can be reached" in page(bare, title="")
