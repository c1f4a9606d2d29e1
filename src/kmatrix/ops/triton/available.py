"""Whether Triton is there, and whether its kernels run on a GPU or in its interpreter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata

import torch
from torch import Tensor

from kmatrix.ops.verdict import Verdict

OLDEST = (3, 4)
"""The oldest Triton that the kernels were written for."""

LEAST_CAPABILITY = (8, 0)
"""Of GPUs, which have bfloat16 from there on."""


@lru_cache(maxsize=1)
def triton_is_here() -> Verdict:
    """Whether a Triton that runs the kernels is installed; imports nothing."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return Verdict(False, "triton is not installed: pip install triton")
    if tuple(map(int, version.split("+")[0].split(".")[:2])) < OLDEST:
        return Verdict(False, f"triton {version} is too old: pip install 'triton>={OLDEST[0]}.{OLDEST[1]}'")
    return Verdict(True, f"Triton {version}")


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: slow, for tests; ``TRITON_INTERPRET=1`` asks for it."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def can_compute(x: Tensor, dtypes: Sequence[torch.dtype], asked: bool) -> Verdict:
    """Whether kernels for these number types run where ``x`` is; on a CPU only if they are ``asked`` for by name."""
    ok, reason = triton_is_here()
    if not ok:
        return Verdict(False, reason)
    if x.device.type == "cuda":
        ok, reason = _is_supported(x.device)
        if not ok:
            return Verdict(False, reason)
    elif x.device.type != "cpu" or not asked or not interpreted():
        hint = "; TRITON_INTERPRET=1 runs them here, slowly" if x.device.type == "cpu" and asked else ""
        return Verdict(False, f"x is on {x.device}, the Triton kernels compute on CUDA devices{hint}")
    if x.dtype not in dtypes:
        return Verdict(False, f"no Triton kernel for {x.dtype}")
    return Verdict(True, triton_is_here().reason)


@lru_cache(maxsize=16)
def _is_supported(device: torch.device) -> Verdict:
    """Whether a GPU is one that the kernels are compiled for in tests, or newer."""
    if torch.version.hip is not None:
        return Verdict(False, "the Triton kernels are for NVIDIA GPUs")
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        needed, has = (".".join(map(str, pair)) for pair in (LEAST_CAPABILITY, capability))
        return Verdict(False, f"the Triton kernels need compute capability {needed}, {device} has {has}")
    return Verdict(True, "")


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
