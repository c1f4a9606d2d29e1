"""The command itself: its version, its help, and what it says where an extra is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import kmatrix as km

Command = Callable[..., Result]


def test_the_version_is_the_librarys(kmatrix: Command) -> None:
    assert kmatrix("--version").stdout == f"kmatrix {km.__version__}\n"


@pytest.mark.parametrize("command", ["fit", "info", "demo"])
def test_every_command_has_help(kmatrix: Command, command: str) -> None:
    assert command in kmatrix("--help").stdout
    assert kmatrix(command, "--help").exit_code == 0


def test_an_unknown_command_is_refused(kmatrix: Command) -> None:
    assert kmatrix("compress").exit_code == 2


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_named(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from kmatrix.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"kmatrix: the command line needs {missing}; install it with: pip install 'kmatrix[cli]'\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "arguments", [["info"], ["--version"], ["fit", "W.npy", "--into", "dense", "--out", "A.safetensors"]]
)
def test_a_full_disk_under_the_output_is_told_in_one_line(low_rank: Path, arguments: list[str]) -> None:
    code = "from kmatrix.cli import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=low_rank.parent,
        )
    assert done.returncode == 2
    assert done.stderr == "error kmatrix: cannot print: No space left on device\n"
    if "--out" in arguments:  # the work is not lost
        assert km.load(low_rank.parent / "A.safetensors").shape == (30, 20)
