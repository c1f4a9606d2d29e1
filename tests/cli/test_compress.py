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
from kmatrix.cli.tables import Lines
from kmatrix.compress import HealReport

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

def wrong():
    return [torch.randn(8, 100)]

def nothing_left():
    return []

used_up = batches()

def once():
    return used_up

def interrupted():
    yield from batches()
    raise KeyboardInterrupt

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


def test_without_weights_it_says_whose_numbers_they_are(kmatrix: Command, folder: Path) -> None:
    result = kmatrix("compress", *CALIBRATED, "--out", "small", "--no-verify-speed", columns=120)
    assert result.exit_code == 0, result.stderr
    assert "no --weights given: the numbers are those that the build made" in result.stdout


def complaint(result: Result) -> str:
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error ")


def test_a_model_is_compressed_saved_and_reported(kmatrix: Command, folder: Path) -> None:
    result = kmatrix(
        *("compress", "mine_to_compress:build", "--weights", "model.safetensors", "--out", "small"),
        *("--calibration", "mine_to_compress:batches", "--budget", "0.6"),
        "--no-verify-speed",  # the clock of a busy test machine decides nothing here
        *("--report", "small.html", "--json", "small.json"),
        columns=120,
    )
    assert result.exit_code == 0, result.stderr
    for words in ("layers", "parameters", "predicted change", "model written to small", "small.html"):
        assert words in result.stdout
    assert "--weights" not in result.stdout
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


@pytest.fixture
def without_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No measuring: the clock of a busy test machine decides nothing."""
    real = km.compress_
    monkeypatch.setattr(
        km, "compress_", lambda *a, **k: real(*a, **{**k, "verify_speed": False}), raising=False
    )


@pytest.mark.usefixtures("without_clock")
def test_a_generator_is_called_again_for_healing(kmatrix: Command, folder: Path) -> None:
    arguments = (
        "--calibration",
        "mine_to_compress:batches",
        "--budget",
        "0.6",
        "--heal",
        "9",
        "--out",
        "small",
    )
    result = kmatrix("compress", "mine_to_compress:build", *arguments, columns=140)
    assert result.exit_code == 0, result.stderr
    assert "healed: 9 steps in" in result.stdout


@pytest.mark.usefixtures("without_clock")
@pytest.mark.parametrize("failure", ["batches", "late"])
def test_what_was_compressed_is_saved_when_healing_fails(
    kmatrix: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    seen = {}

    def heal(model: nn.Module, *_: object, **__: object) -> object:
        seen.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        next(model.parameters()).data.zero_()
        raise RuntimeError("out of luck")

    if failure == "late":
        monkeypatch.setattr(km, "heal", heal, raising=False)
    calibration = "mine_to_compress:once" if failure == "batches" else "mine_to_compress:batches"
    arguments = ("--calibration", calibration, "--budget", "0.6", "--heal", "20", "--out", "small")
    result = kmatrix("compress", "mine_to_compress:build", *arguments, "--json", "small.json", columns=140)
    said = complaint(result)
    assert "--heal=20: it failed: " in said
    assert ("it has no batches" if failure == "batches" else "RuntimeError: out of luck") in said
    assert said.endswith("what was written to small is the compressed model, not healed")
    assert json.loads((folder / "small.json").read_text())["reached"] <= 0.6
    stored = load_file(folder / "small" / "model.safetensors")
    assert len(stored) > 4  # a structured layer has more tensors than a weight and a bias
    assert all(torch.equal(tensor, stored[name]) for name, tensor in seen.items())


def test_ctrl_c_is_a_line_and_leaves_nothing(kmatrix: Command, folder: Path) -> None:
    arguments = ("--calibration", "mine_to_compress:interrupted", "--out", "small")
    result = kmatrix("compress", "mine_to_compress:build", *arguments)
    assert (result.exit_code, result.stderr) == (130, "interrupted, nothing was written\n")
    assert not (folder / "small").exists()
    assert "130" in kmatrix("compress", "--help").stdout


@pytest.mark.usefixtures("without_clock")
def test_ctrl_c_while_healing_keeps_the_best(
    kmatrix: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = HealReport((1.0,), ((0, 1.0),), 0, 0.1, interrupted=True)
    monkeypatch.setattr(km, "heal", lambda *_, **__: report, raising=False)
    arguments = (
        "--calibration",
        "mine_to_compress:batches",
        "--budget",
        "0.6",
        "--heal",
        "20",
        "--out",
        "small",
    )
    result = kmatrix("compress", "mine_to_compress:build", *arguments, columns=140)
    assert result.exit_code == 130
    assert "model written to small" in result.stdout
    assert (folder / "small" / "model.safetensors").exists()


def test_lines_of_progress_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    step = Lines(every=10, clock=lambda: now[0])
    for now[0], done in ((1.0, 1), (9.9, 2), (12.0, 3), (20.0, 4), (22.0, 5)):
        step("calibrating", done, 8)
    now[0] = 40.0
    step("measuring", 6, 0)
    captured = capsys.readouterr()
    assert captured.err == "calibrating (3 of 8)\ncalibrating (5 of 8)\nmeasuring (6)\n"
    assert captured.out == ""


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
        (("mine_to_compress:build", "--max-batches", "0", "--budget", "1"), "--max-batches=0: must be"),
        (("mine_to_compress:build", "--budget", "0"), "kmatrix compress: --budget=0.0: must be over 0"),
        (("mine_to_compress:build", "--of", "beauty"), "kmatrix compress: --of='beauty': unknown"),
        (("mine_to_compress:build", "--budget", "0.001"), "; pass --budget "),
        (("mine_to_compress:build", "--budget", "0.001"), " or more, or choose wider --layers"),
        (
            ("mine_to_compress:build", "--of", "time", "--no-verify-speed"),
            "no measured times with --no-verify-speed; leave --no-verify-speed out",
        ),
        (("mine_to_compress:build", "--layers", "head"), "--layers='head': matches no module"),
        (
            ("mine_to_compress:build", "--calibration", "mine_to_compress:wrong"),
            "calibrate: batch 1 (shape (8, 100)): the model's forward failed: RuntimeError: mat1",
        ),
        (
            ("mine_to_compress:build", "--calibration", "mine_to_compress:nothing_left"),
            "kmatrix compress: --calibration=nothing: it has no batches",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    kmatrix: Command, folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert words in complaint(kmatrix("compress", *arguments, "--out", "small"))
    assert not (folder / "small").exists()


def test_projections_of_attention_are_offered(
    kmatrix: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def compress(model: nn.Module, *_: object, attention: bool, **options: object) -> object:
        asked.append(attention)
        raise km.ArgumentError("enough")

    monkeypatch.setattr(km, "compress_", compress, raising=False)
    for flag in ((), ("--attention",)):
        assert complaint(kmatrix("compress", "mine_to_compress:build", "--out", "small", *flag)) == "enough"
    assert asked == [False, True]
