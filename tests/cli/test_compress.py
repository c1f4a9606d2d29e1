"""``kmatrix compress``: a model that is built, weighed and calibrated by name comes out smaller, saved and reported."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from torch import nn

import kmatrix as km

Command = Callable[..., Result]

MODELS = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4))

def batches():
    torch.manual_seed(1)
    for _ in range(4):
        yield torch.randn(40, 24) * torch.logspace(0, -2, 24), "label"

size = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of the user's, and weights."""
    (tmp_path / "mine_to_compress.py").write_text(MODELS)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    model = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    yield tmp_path
    sys.modules.pop("mine_to_compress", None)


CALIBRATED = ("mine_to_compress:build", "--calibration", "mine_to_compress:batches", "--budget", "1.0")


def complaint(result: Result) -> str:
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error ")


def test_a_model_is_compressed_saved_and_reported(
    kmatrix: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock of a busy test machine decides nothing here.
    real = km.compress_
    monkeypatch.setattr(
        km, "compress_", lambda *a, **k: real(*a, **{**k, "verify_speed": False}), raising=False
    )
    result = kmatrix(
        *("compress", "mine_to_compress:build", "--weights", "model.safetensors", "--out", "small"),
        *("--calibration", "mine_to_compress:batches", "--budget", "0.6"),
        *("--report", "small.html", "--json", "small.json"),
        columns=120,
    )
    assert result.exit_code == 0, result.stderr
    for words in ("layers", "parameters", "predicted change", "model written to small", "small.html"):
        assert words in result.stdout
    page = (folder / "small.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script", page)
    assert "What other budgets lead to" in page
    figures = json.loads((folder / "small.json").read_text())
    assert figures["reached"] <= 0.6
    model = km.load_model(
        lambda: nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4)), folder / "small"
    )
    assert sum(p.numel() for p in model.parameters()) == figures["params"]
    assert torch.isfinite(model(torch.randn(3, 24))).all()


def test_a_model_is_healed_towards_what_it_was(
    kmatrix: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, healed, taught = km.compress_, km.heal, []
    monkeypatch.setattr(
        km, "compress_", lambda *a, **k: real(*a, **{**k, "verify_speed": False}), raising=False
    )

    def heal(model: nn.Module, data: object, *, teacher: nn.Module, **options: object) -> object:
        taught.append(teacher)
        return healed(model, data, teacher=teacher, **options)

    monkeypatch.setattr(km, "heal", heal, raising=False)
    result = kmatrix(
        *("compress", "mine_to_compress:build", "--weights", "model.safetensors", "--out", "small"),
        *(
            "--calibration",
            "mine_to_compress:batches",
            "--budget",
            "0.6",
            "--heal",
            "4",
            "--max-batches",
            "2",
        ),
        columns=120,
    )
    assert result.exit_code == 0, result.stderr
    assert "healed: 4 steps in" in result.stdout
    model = km.load_model(
        lambda: nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4)), folder / "small"
    )
    assert any(isinstance(layer, km.nn.Linear) for layer in model)
    (teacher,) = taught
    assert type(teacher[0]) is nn.Linear
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(teacher.state_dict()["0.weight"], stored["0.weight"])


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("small.safetensors", "--out=small.safetensors: a model goes to a folder"),
        ("model.safetensors", "a model goes to a folder"),
        ("mine_to_compress.py", "a model goes to a folder"),
        ("no/small", "--out=no/small: its folder does not exist"),
    ],
)
def test_places_are_looked_at_before_the_work(
    kmatrix: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, out: str, words: str
) -> None:
    monkeypatch.setattr(km, "compress_", lambda *a, **k: pytest.fail("worked"), raising=False)
    assert words in complaint(kmatrix("compress", "mine_to_compress:build", "--out", out))


def test_layers_without_anything_faster_are_told(kmatrix: Command, folder: Path) -> None:
    result = kmatrix("compress", *CALIBRATED, "--layers", "!2", "--out", "small", columns=140)
    assert result.exit_code == 0, result.stderr
    assert "1.00x" in result.stdout or "stays dense" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere:build",), "build='nowhere:build': No module named 'nowhere'"),
        (("mine_to_compress",), "build='mine_to_compress': not a module and a function"),
        (("mine_to_compress:nothing",), "has no attribute 'nothing'"),
        (("mine_to_compress:size",), "build='mine_to_compress:size': cannot be called"),
        (("mine_to_compress:batches",), "it returned generator, no nn.Module"),
        (("mine_to_compress:build", "--weights", "none.safetensors"), "--weights=none.safetensors"),
        (("mine_to_compress:build", "--weights", "mine_to_compress.py"), "--weights=mine_to_compress.py"),
        (("mine_to_compress:build", "--report", "small.txt"), "--report=small.txt: not a .html file"),
        (("mine_to_compress:build", "--json", "no/small.json"), "its folder does not exist"),
        (("mine_to_compress:build", "--heal", "5"), "--heal=5: there are no batches"),
        (("mine_to_compress:build", "--heal", "-1"), "--heal=-1: below 0"),
        (("mine_to_compress:build", "--threads", "0"), "--threads=0: must be a whole number of at least 1"),
        (("mine_to_compress:build", "--max-batches", "0", "--budget", "1"), "max_batches=0: must be"),
        (("mine_to_compress:build", "--budget", "0"), "must be over 0"),
        (("mine_to_compress:build", "--of", "beauty"), "unknown"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    kmatrix: Command, folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert words in complaint(kmatrix("compress", *arguments, "--out", "small"))
    assert not (folder / "small").exists()
