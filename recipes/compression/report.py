"""What every result says about where it was measured."""

import platform
from pathlib import Path

import numpy
import torch

import kmatrix


def versions() -> dict[str, str | int]:
    """Versions, the processor and the number of threads."""
    return {
        "kmatrix": kmatrix.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
