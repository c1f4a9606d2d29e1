"""The command line: ``kmatrix fit``, ``compress``, ``info``, ``bench`` and ``demo``, thin calls of the library."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the ``kmatrix`` command."""
    try:
        from kmatrix.cli.app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "kmatrix":
            raise
        sys.exit(f"kmatrix: the command line needs {missing}; install it with: pip install 'kmatrix[cli]'")
    try:
        app()
    except OSError as error:
        # Files are opened with errors of their own; what has no file name comes from printing.
        if error.filename is not None:
            raise
        _cannot_print(error)


def _cannot_print(error: OSError) -> NoReturn:
    """End with one line where standard output takes no more, as on a full disk."""
    with contextlib.suppress(OSError):
        print(f"error kmatrix: cannot print: {error.strerror or error}", file=sys.stderr)
    # Python would try once more at its end, and complain in its own words.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(2)
