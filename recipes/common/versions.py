"""What every result says about where it was made."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import kmatrix

LIBRARIES = ("numpy", "scipy", "torch", "optuna", "sacrebleu", "tokenizers")


def made_with(device: torch.device, world: int = 1) -> dict[str, Any]:
    """Versions, the processor or accelerator, threads and processes."""
    found: dict[str, Any] = {"kmatrix": kmatrix.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["processor"] = processor()
    found["cores"] = os.cpu_count()
    found["threads"] = torch.get_num_threads()
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return found | {"processes": world}


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
