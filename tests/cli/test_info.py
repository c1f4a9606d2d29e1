"""``kmatrix info``: what a file holds, what an installation can do, and what is not a file of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.numpy import save_file

import kmatrix as km
from kmatrix.ops import wisdom
from kmatrix.ops.native_module import native_part
from kmatrix.ops.native_plan import Schedule

Command = Callable[..., Result]


def test_a_saved_fit_is_described_with_its_certificate(kmatrix: Command, low_rank: Path) -> None:
    kmatrix("fit", low_rank, "--tol", "1e-6", "--out", "A.safetensors")
    result = kmatrix("info", "A.safetensors")
    assert result.exit_code == 0
    for words in ("30 x 20", "LowRank(rank=2)", "float64", "100 of 600 (16.67% of dense)", "format 1"):
        assert words in result.stdout
    assert "certified error" in result.stdout
    assert "time, batch 64" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_numbers_are_not_read(kmatrix: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmatrix.structures import serialization

    km.save(km.Butterfly().random(8, 8, dtype=torch.complex64), tmp_path / "B.safetensors")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the numbers were read")

    monkeypatch.setattr(serialization, "read_into", never)
    result = kmatrix("info", "B.safetensors")
    assert "complex64" in result.stdout
    assert "certified" not in result.stdout


@pytest.mark.parametrize(
    "certificate",
    [
        {},
        {"relative_error": "[red]tiny[/red]", "timings": "fast", "machine": 3},
        {"timings": [1, {"batch": "x", "speedup": 2}, {"batch": 4}], "machine": {}},
        {"machine": {"[bold]": "[/nothing]", "long": "x" * 10_000}},
    ],
    ids=["empty", "wrong types", "wrong timings", "markup"],
)
def test_strange_certificates_do_no_harm(
    kmatrix: Command, tmp_path: Path, certificate: dict[str, Any]
) -> None:
    km.save(km.LowRank(1).random(4, 4), tmp_path / "A.safetensors", certificate=certificate)
    result = kmatrix("info", "A.safetensors")
    assert result.exit_code == 0
    assert len(result.stdout) < 3000


def test_a_saved_model_is_described_layer_by_layer(kmatrix: Command, tmp_path: Path) -> None:
    first = torch.nn.Linear(64, 64)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), first, torch.nn.Linear(64, 10))
    km.replace_linear_(model, km.Monarch(4), lambda module, name: name == "0")
    km.save(model, tmp_path / "small")
    result = kmatrix("info", "small")
    assert result.exit_code == 0
    for words in ("0 (+1)", "64 x 64", "2,048", "50.0%", "Monarch(nblocks=4", "1, 2,048 numbers", "2,762"):
        assert words in result.stdout, words
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_folders_of_others_are_refused_in_one_line(kmatrix: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = kmatrix("info", "empty")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "model.safetensors and structure.json" in line


def test_the_installation_is_described(kmatrix: Command) -> None:
    result = kmatrix("info")
    assert result.exit_code == 0
    for words in (km.__version__, torch.__version__, np.__version__, "processor", "backends", "portable"):
        assert words in result.stdout
    for words in ("kernels", native_part().isa or "not built", "wisdom", "threads"):
        assert words in result.stdout


def row(text: str, name: str) -> str:
    """The value of a fact in what was printed, on however many lines."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(name))
    width = lines[start].index(lines[start].strip().removeprefix(name).strip())
    more = []
    for line in lines[start + 1 :]:
        if line[:width].strip():
            break
        more.append(line[width:].strip())
    return lines[start][width:].strip() + "".join(more)


def test_where_wisdom_is_kept(kmatrix: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.json"

    def told(value: str) -> str:
        monkeypatch.setenv("KMATRIX_WISDOM", value)
        wisdom.forget()
        return row(kmatrix("info", columns=300).stdout, "wisdom")

    try:
        assert told("") == "none: KMATRIX_WISDOM is empty"
        assert told(str(path)) == f"{path}, not there yet"
        wisdom.remember("key", Schedule("rows", (1,), 1), {})
        assert told(str(path)) == f"{path}, 1 schedule measured"
        wisdom.remember("another", Schedule("rows", (1,), 1), {})
        assert told(str(path)) == f"{path}, 2 schedules measured"
        assert told(str(tmp_path)) == f"{tmp_path}, not kept: is a folder"
        path.write_text("[]")
        assert told(str(path)) == f"{path}, not kept: cannot be read: not a table of answers"
        assert told("~no-such-user/w.json").startswith("none: there is no home folder")
    finally:
        wisdom.forget()


def test_backends_are_those_that_can_run(tmp_path: Path) -> None:
    environment = {**os.environ, "KMATRIX_ISA": "no such set", "COLUMNS": "300"}
    command = [sys.executable, "-c", "from kmatrix.cli import main; main()", "info"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert row(done.stdout, "backends") == "portable, reference"
    assert row(done.stdout, "kernels").startswith("portable: ")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.safetensors", None, "cannot be read"),
        ("short.safetensors", b"abc", "too few"),
        ("junk.safetensors", b"\xff" * 64, "too few|longer than"),
        ("W.npy", b"\x93NUMPY\x01\x00v\x00", "kmatrix info: W.npy: an .npy file, not a safetensors file"),
        ("json.safetensors", (2).to_bytes(8, "little") + b"[]", "not a JSON object"),
    ],
)
def test_files_of_others_are_refused_in_one_line(
    kmatrix: Command, tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = kmatrix("info", name)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert any(words in line for words in says.split("|"))


def test_plain_tensors_are_no_matrix_of_ours(kmatrix: Command, tmp_path: Path) -> None:
    save_file({"w": np.eye(3)}, tmp_path / "W.safetensors")
    result = kmatrix("info", "W.safetensors")
    assert result.exit_code == 2
    assert "use a file that km.save wrote" in result.stderr


def test_the_certificate_in_a_file_is_the_one_of_the_fit(
    kmatrix: Command, low_rank: Path, tmp_path: Path
) -> None:
    kmatrix("fit", low_rank, "--into", "low-rank", "--rank", 1, "--out", "A.safetensors")
    kept = km.describe(tmp_path / "A.safetensors").certificate
    assert kept is not None
    assert json.loads(json.dumps(kept)) == kept
    W, A = np.load(low_rank), km.load(tmp_path / "A.safetensors").to_dense().detach().numpy()
    assert kept["relative_error"] == pytest.approx(np.linalg.norm(W - A) / np.linalg.norm(W))
