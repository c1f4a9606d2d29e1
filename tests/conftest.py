"""What every test starts from: one thread per process, fixed seeds, the same hypothesis examples; and commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads; test processes already fill the cores
os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton loads: GPU kernels are tested without a GPU

import hypothesis
import numpy as np
import pytest
import torch
from click.testing import Result

Command = Callable[..., Result]

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "kmatrix",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
)
hypothesis.settings.load_profile("kmatrix")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Make every test independent of which tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries under test may draw from the legacy generator)


@pytest.fixture
def kmatrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``kmatrix ARGUMENTS`` in an empty folder, on a terminal of 80 columns unless said otherwise."""
    from typer.testing import CliRunner

    from kmatrix.cli.app import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, columns: int = 80) -> Result:
        monkeypatch.setenv("COLUMNS", str(columns))
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run
