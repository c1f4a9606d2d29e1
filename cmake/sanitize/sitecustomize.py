"""Loads kmatrix._native from the folder that KMATRIX_NATIVE_FOLDER names: how `make sanitize` tests another build.

Python imports this file on its own when its folder is in PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

NAME = "kmatrix._native"


class OtherBuild:
    """Finds one module in another folder than its package, and is silent about all others."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module there; an error if there is none, so that never the wrong build is tested."""
        if name != NAME:
            return None
        folder = os.environ["KMATRIX_NATIVE_FOLDER"]
        spec = PathFinder.find_spec(NAME, [folder])
        if spec is None:
            raise RuntimeError(f"no {NAME} in {folder}")
        return spec


sys.meta_path.insert(0, OtherBuild())
