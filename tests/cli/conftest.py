"""Running commands as a user does, and looking at what came out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from kmatrix.cli.app import app

Command = Callable[..., Result]


@pytest.fixture
def kmatrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``kmatrix ARGUMENTS`` in an empty folder, on a terminal of 80 columns unless said otherwise."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, columns: int = 80) -> Result:
        monkeypatch.setenv("COLUMNS", str(columns))
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def low_rank(tmp_path: Path) -> Path:
    """A file with a 30 x 20 matrix of rank 2."""
    rng = np.random.default_rng(0)
    path = tmp_path / "W.npy"
    np.save(path, rng.standard_normal((30, 2)) @ rng.standard_normal((2, 20)))
    return path
