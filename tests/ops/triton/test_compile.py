"""Every kernel for chains compiles for real GPUs, fits their shared memory and keeps its numbers in registers.

On an A100, whose matrix instructions take both operands from registers, the widest gradients do not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kmatrix.ops.triton.available import triton_is_here

A_FEW = 64  # bytes: sixteen registers of one thread
SHARED = {
    80: 166_912,
    89: 101_376,
    90: 232_448,
}  # bytes that a program may have: A100, small GPUs, H100 and H200


@pytest.mark.skipif(not triton_is_here().ok or sys.platform != "linux", reason="no compiler for GPUs is here")
def test_kernels_fit_the_chip() -> None:
    script = Path(__file__).parent / "compile_chains.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 60
    for line in lines:
        name, _, numbers = line.rpartition(": ")
        spilled, shared, atomics = map(int, numbers.split())
        capability = int(re.search(r"sm_(\d+)", name)[1])
        # Only chains count tiles; sums of gradients in the order of atomics would differ from call to call.
        assert (atomics > 0) == (" batch " in name), name
        assert capability != 90 or spilled <= A_FEW, name
        assert shared <= SHARED[capability], name
