"""Whether Triton is there, and whether its kernels run on a GPU or in its interpreter."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import metadata

import torch

from kmatrix.ops.verdict import Verdict

OLDEST = (3, 4)
"""The oldest Triton that the kernels were written for."""


@lru_cache(maxsize=1)
def triton_is_here() -> Verdict:
    """Whether a Triton that runs the kernels is installed; imports nothing."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return Verdict(False, "triton is not installed: pip install 'kmatrix[gpu]'")
    if tuple(map(int, version.split("+")[0].split(".")[:2])) < OLDEST:
        return Verdict(False, f"triton {version} is too old: pip install 'triton>={OLDEST[0]}.{OLDEST[1]}'")
    return Verdict(True, f"Triton {version}")


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: slow, for tests; ``TRITON_INTERPRET=1`` asks for it."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def precision(*, exact: bool = False) -> str:
    """How products of float32 are made: exactly, or in TF32 where torch is allowed that, too, and it is not weights."""
    if interpreted():
        return "wide"
    return "tf32" if not exact and _tf32_allowed() else "ieee"


def _tf32_allowed() -> bool:
    """What torch was told, by whichever of its ways: asking by an old one raises once a new one was used."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9
        return bool(matmul.fp32_precision == "tf32")
    return torch.get_float32_matmul_precision() != "highest"
