"""One case against the clock, in the process that calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from _gpu.cases import Case
from _gpu.clock import CudaClock, HostClock, race
from _gpu.contenders import CONTENDERS, Bench, Contender
from _gpu.problems import allow_tf32, mode, release
from _gpu.workers import is_fatal


@dataclass(frozen=True)
class Timed:
    """Seconds of everyone in every round, and why some have none."""

    seconds: dict[str, list[float]]
    failed: dict[str, str]


def time_case(case: Case, names: Sequence[str], seconds: float, device: str, backend: str | None) -> Timed:
    """The contenders of these names, all in each round."""
    allow_tf32(case.dtype)
    contenders: dict[str, Contender] = {}
    failed: dict[str, str] = {}
    bench = Bench(case, device, backend)
    for name in names:
        try:
            contenders[name] = CONTENDERS[name](bench)
            with mode(case):
                contenders[name].result()
        except Exception as error:
            if is_fatal(error):
                raise
            contenders.pop(name, None)
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
    with mode(case):
        found = race(contenders, seconds, CudaClock() if device == "cuda" else HostClock())
    release(device)
    return Timed({name: list(seconds) for name, seconds in found.seconds.items()}, failed)


def machine() -> dict[str, str]:
    """The GPU and the versions."""
    import platform
    from importlib import metadata

    import kmatrix as km

    found = {"python": platform.python_version(), "torch": torch.__version__, "kmatrix": km.__version__}
    try:
        found["triton"] = metadata.version("triton")
    except metadata.PackageNotFoundError:
        found["triton"] = "none"
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": gpu.name,
            "memory": f"{gpu.total_memory / 2**30:.0f} GiB",
            "cache": f"{gpu.L2_cache_size / 2**20:.0f} MiB",
            "multiprocessors": str(gpu.multi_processor_count),
            "capability": f"{gpu.major}.{gpu.minor}",
            "cuda": str(torch.version.cuda),
        }
    return found
