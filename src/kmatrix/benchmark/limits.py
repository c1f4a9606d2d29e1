"""What a run may use and what the machine has: threads held to a number, and what a processor lacks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from kmatrix.benchmark.clock import using_threads
from kmatrix.benchmark.peers import import_peers

# Read by OpenMP, MKL, OpenBLAS and numba when each of them is loaded, which the rivals' copies are only here.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
CPUINFO = Path("/proc/cpuinfo")


@contextmanager
def held_to(threads: int) -> Iterator[None]:
    """Everything inside on so many threads, rivals with a runtime of their own and child processes included.

    Order matters: first the environment, which libraries read once; then the rivals, one of which sets torch's number
    as it is imported; torch last.
    """
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, str(threads)))
    try:
        with using_threads(threads):  # puts back what torch had before the rivals changed it
            import_peers()
            with using_threads(threads):
                yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@lru_cache(maxsize=1)
def processor_flags(path: Path = CPUINFO) -> frozenset[str]:
    """What Linux says this processor can do; nothing where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def lacking(needs: Iterable[str], flags: frozenset[str] | None = None) -> str:
    """What is missing of the instructions a mark was set with, as a sentence; empty if nothing, or if unknown."""
    flags = processor_flags() if flags is None else flags
    wanted = tuple(needs)
    missing = [flag for flag in wanted if flag not in flags] if flags else []
    if not missing:
        return ""
    return f"the mark was set with {', '.join(wanted)}; this processor lacks {', '.join(missing)}"
