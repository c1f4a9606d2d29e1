"""``kmatrix demo`` at a small size: the whole story, its files, and a page that stands alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from click.testing import Result

import kmatrix as km
import kmatrix.cli.app  # so that the module named demo, and not the command, can be looked up below

Command = Callable[..., Result]
SIZE = 32


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms of 32 points and a small smooth matrix instead of the measured one."""
    demo = sys.modules["kmatrix.cli.demo"]
    i, j = np.arange(40)[:, None], np.arange(24)[None, :]
    monkeypatch.setattr(demo, "SIZE", SIZE)
    monkeypatch.setattr(demo, "kemar_hrir", lambda: np.exp(-((i / 40 - j / 24) ** 2) * 3))


@pytest.mark.usefixtures("small")
def test_the_demo_tells_its_story(kmatrix: Command, tmp_path: Path) -> None:
    result = kmatrix("demo")
    assert result.exit_code == 0
    assert "fit sees 1,024 numbers and nothing else" in result.stdout
    assert "truncated SVD" in result.stdout
    assert "report written to out/demo.html" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    names = ["dct.safetensors", "demo.html", "kemar.safetensors", "shuffled_dft.safetensors"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    page = (tmp_path / "out" / "demo.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script", page)
    assert page.count("<h2>") == 3


@pytest.mark.usefixtures("small")
def test_what_it_saves_are_the_transforms(kmatrix: Command, tmp_path: Path) -> None:
    kmatrix("demo", "--out", "deep/down")
    dct, dft = (km.load(tmp_path / "deep/down" / f"{name}.safetensors") for name in ("dct", "shuffled_dft"))
    x = np.random.default_rng(0).standard_normal(SIZE)
    np.testing.assert_allclose(dct @ x, scipy.fft.dct(x, norm="ortho"), atol=1e-12)
    rows = np.random.default_rng(0).permutation(SIZE)
    np.testing.assert_allclose(dft @ x, np.fft.fft(x)[rows], atol=1e-11)
    assert dct.num_params < SIZE**2 and dft.num_params < SIZE**2


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(kmatrix: Command, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    result = kmatrix("demo", "--out", "taken")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "cannot be made: File exists" in line
