"""The command line: ``kmatrix fit``, ``info``, ``bench`` and ``demo``. Each command is a thin call of the library."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the ``kmatrix`` command."""
    try:
        from kmatrix.cli.app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "kmatrix":
            raise
        sys.exit(f"kmatrix: the command line needs {missing}; install it with: pip install 'kmatrix[cli]'")
    app()
