"""The command itself: its version, its help, and what it says where an extra is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

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
