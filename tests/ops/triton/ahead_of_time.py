"""Compiling a kernel for a GPU that is not there, and what it would take of one.

For processes of their own without ``TRITON_INTERPRET``, which Triton reads as it is imported.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Needs(NamedTuple):
    """Bytes that a kernel spills to memory, bytes of shared memory of one program, and atomic instructions."""

    spilled: int
    shared: int
    atomics: int


def needs(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    *,
    capability: int = 90,
    warps: int = 4,
    stages: int = 3,
    odd: Collection[str] = (),
) -> Needs:
    """Compile a kernel whose arguments have these types; all but the ``odd`` ones are multiples of 16."""
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    attributes = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(kernel.arg_names)
        if name not in constants and name not in odd
    }
    source = ASTSource(kernel, signature=signature, constexprs=dict(constants), attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    built = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(built.asm["cubin"])
        command = [_CUOBJDUMP, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spilled = sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", said)))
    return Needs(spilled, built.metadata.shared, len(re.findall(r"\s(?:atom|red)\.", built.asm["ptx"])))
