"""`import kmatrix` loads nothing heavy or optional and changes nothing: checked in a fresh interpreter.

What its core dependencies change when they are imported is theirs, so they go first; scipy waits until it is needed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LATER_OR_NEVER = [
    "scipy",
    "matplotlib",
    "typer",
    "rich",
    "triton",
    "hypothesis",
    "pytest",
    "optuna",
    "onnx",
    "onnxruntime",
    "torchao",
]

PROBE = """
import json, logging, os, sys, threading, warnings
import numpy, torch
seen = lambda: {
    "threads": torch.get_num_threads(),
    "grad": torch.is_grad_enabled(),
    "dtype": str(torch.get_default_dtype()),
    "torch_random": torch.get_rng_state().sum().item(),
    "numpy_random": int(numpy.random.get_state()[1].astype("uint64").sum()),
    "numpy_errors": numpy.geterr(),
    "cuda": torch.cuda.is_initialized(),
    "handlers": len(logging.getLogger().handlers),
    "filters": len(warnings.filters),
    "python_threads": threading.active_count(),
    "environment": dict(os.environ),
    "files": sorted(os.listdir()),
}
modules, before = set(sys.modules), seen()
import kmatrix
print(json.dumps({"before": before, "after": seen(), "loaded": sorted(set(sys.modules) - modules)}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh interpreter looks like before and after the import; any warning is an error."""
    folder: Path = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-W", "error::Warning:kmatrix", "-c", PROBE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_import_loads_the_library(probe: dict[str, Any]) -> None:
    assert "kmatrix" in probe["loaded"]


@pytest.mark.parametrize("package", LATER_OR_NEVER)
def test_import_loads_nothing_that_can_wait(probe: dict[str, Any], package: str) -> None:
    assert [name for name in probe["loaded"] if name.split(".")[0] == package] == []


@pytest.mark.parametrize("upper", ["cli", "data", "report", "testing"])
def test_import_loads_no_upper_floor(probe: dict[str, Any], upper: str) -> None:
    assert [name for name in probe["loaded"] if name.startswith(f"kmatrix.{upper}")] == []


def test_import_changes_nothing(probe: dict[str, Any]) -> None:
    assert probe["after"] == probe["before"]


LATER = """
import kmatrix as km, sys
for name in ("data", "report", "testing"):
    assert name in dir(km) and f"kmatrix.{name}" not in sys.modules, name
    assert getattr(km, name) is sys.modules[f"kmatrix.{name}"], name
assert "fit" in dir(km) and "__version__" in dir(km)
assert not hasattr(km, "nothing_of_this_name")
"""


def test_the_rest_is_reachable_without_an_import_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LISTING = """
import json, sys
import kmatrix.cli.app
from kmatrix.cli.recipe import recipes
package = recipes()
assert [package.load(folder).title for folder in package.FOLDERS]
print(json.dumps(sorted(sys.modules)))
"""


def test_listing_recipes_loads_nothing_that_only_runs_need() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "kmatrix.cli.recipe" in loaded
    heavy = {
        "scipy.fft",
        "scipy.linalg",
        "scipy.optimize",
        "scipy.sparse",
        "matplotlib",
        "optuna",
        "tokenizers",
    }
    assert loaded & {*heavy, "kmatrix.compress", "sacrebleu", "soundfile", "PIL"} == set()
