"""Measuring plans for the GPU: what is found is kept in the file, obeyed, and never trusted blindly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kmatrix.ops import Pattern, chain_matmul, tune, use_backend, wisdom
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.triton import tuning
from kmatrix.ops.triton.available import interpreted, triton_is_here
from kmatrix.ops.triton.backend import plan_of
from kmatrix.ops.triton.plan import Choice, by_rule

pytestmark = pytest.mark.skipif(
    not triton_is_here().ok or not interpreted(), reason="Triton's interpreter is not there"
)

PATTERNS = tuple([Pattern(32 >> (k + 1), 2, 2, 1 << k) for k in range(5)])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KMATRIX_WISDOM", str(tmp_path / "wisdom.json"))
    wisdom.forget()
    tuning.learned.cache_clear()
    yield tmp_path / "wisdom.json"
    wisdom.forget()
    tuning.learned.cache_clear()


def test_what_is_measured_is_kept_and_obeyed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kmatrix.ops.tuning.race", lambda trials, seconds, device: [2.0, 3.0, 1.0, *[3.0] * (len(trials) - 3)]
    )
    weights = [torch.randn(p) for p in PATTERNS]
    rule = plan_of(torch.randn(3, 32), weights, PATTERNS)
    with use_backend("triton"):
        told = tune(weights, batch=3)
    assert isinstance(told.schedule, Choice)
    assert told.schedule != by_rule(torch.float32)
    assert str(told).startswith("triton kernel, blocks of 32 at most, 8 MiB between factors")
    (kept,) = json.loads(file.read_text())["entries"].values()
    assert (kept["widest"], kept["ring"]) == (32, 8 * 2**20)
    wisdom.forget()  # as another process, which reads the file
    tuning.learned.cache_clear()
    x = torch.randn(3, 32)
    found = plan_of(x, weights, PATTERNS)
    assert len(found.steps) == 1 < len(rule.steps)
    with use_backend("triton"):
        torch.testing.assert_close(chain_matmul(x, weights), reference_chain_matmul(x, weights))


def test_candidates_run(file: Path) -> None:
    weights = [torch.randn(p) for p in PATTERNS[:3]]
    patterns = tuple([Pattern(4 >> k, 2, 2, 1 << k) for k in range(3)])
    choices = tuning.candidates(patterns, patterns, 16, torch.float32, torch.device("cpu"))
    assert choices[0] == by_rule(torch.float32)
    weights = [torch.randn(p) for p in patterns]
    for choice in choices:
        tuning.trial(torch.randn(3, 8), weights, patterns, choice)()


@pytest.mark.parametrize(
    "entry", [None, {"kernel": "triton"}, {"kernel": "triton", "widest": 5, "ring": 2**25}]
)
def test_answers_that_make_no_sense_are_passed_over(file: Path, entry: object) -> None:
    key = tuning.question(PATTERNS, torch.float32, 16, torch.device("cpu"))
    file.write_text(json.dumps({"format": 1, "entries": {key: entry}}))
    assert tuning.learned(PATTERNS, torch.float32, 16, torch.device("cpu")) is None
