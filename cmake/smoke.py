"""What `make wheel` runs in a clean environment: does the installed wheel compute, with every instruction set?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import kmatrix as km
from kmatrix.ops import chain_matmul, use_backend

# As in a butterfly, as in one of mixed radix, and blocks.
PATTERNS = [(96, 2, 2, 1), (32, 3, 3, 2), (1, 16, 32, 6)]


def check() -> None:
    """One chain by the native kernels and by the definition, in one instruction set."""
    from kmatrix import _native

    weights = [torch.randn(a, b, c, d, dtype=torch.float64) for a, b, c, d in PATTERNS]
    x = torch.randn(33, 192, dtype=torch.float64)
    with use_backend("reference"):
        expected = chain_matmul(x, weights)
    with use_backend("native"):
        found = chain_matmul(x, weights)
    error = float((found - expected).norm() / expected.norm())
    print(f"  {_native.default_isa()}: relative error {error:.1e}")
    assert error < 1e-14, "the kernels do not compute what the definition says"
    maps = Path("/proc/self/maps")
    if maps.exists():
        pools = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
        assert len(pools) == 1, f"more than one OpenMP: {pools}"


def main() -> None:
    """Every instruction set in a process of its own, because the library chooses once."""
    from kmatrix import _native

    assert "site-packages" in str(km.__file__), f"not the installed wheel: {km.__file__}"
    print(f"kmatrix {km.__version__}, Python {sys.version.split()[0]}, torch {torch.__version__}", flush=True)
    best = _native.compiled().index(_native.default_isa())
    for isa in _native.compiled()[best:]:
        command = [sys.executable, "-I", __file__, "one"]
        subprocess.run(command, env={**os.environ, "KMATRIX_ISA": isa}, check=True)


if __name__ == "__main__":
    check() if sys.argv[1:] else main()
