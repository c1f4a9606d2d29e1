"""Compile the kernels for boxes ahead of time, as for widths of 1024 and 3072 numbers, and print what they spill.

Run in a process of its own without ``TRITON_INTERPRET``, which Triton reads as it is imported. Sizes are arguments of
the kernels, of which only divisibility by 16 matters.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from kmatrix.ops.triton.kernels import segments as kernels
from kmatrix.ops.triton.segments_plan import _HALF, _SINGLE, Tile

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def spilled(
    kernel: Any, constants: dict[str, object], number: str, capability: int, warps: int, stages: int
) -> int:
    """Bytes of local memory of a kernel."""
    integers = {"boxes": "*i64", "touched": "*i32", "touching": "*i32"}
    pointers = {"x", "y", "z", "numbers", "target"}
    odd = {"longest", "total", "steps"}
    signature, attributes = {}, {}
    for at, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = integers.get(name, f"*{number}" if name in pointers else "i32")
        if name not in odd:
            attributes[at,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    built = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(built.asm["cubin"])
        said = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    return sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", said.stdout)))


def main() -> None:
    """Print a line for each kernel."""
    cases: list[tuple[int, str, Tile, str, bool]] = [
        *[(90, "bf16", _HALF[0], name, False) for name in ("onto", "back", "outer", "expand")],
        *[(90, "bf16", _HALF[-1], name, True) for name in ("onto", "back")],
        *[(90, "fp32", _SINGLE[0], name, False) for name in ("onto", "back")],
        *[(80, "bf16", _HALF[1], name, False) for name in ("onto", "back")],
    ]
    for capability, number, tile, name, straight in cases:
        kernel = getattr(kernels, f"{name}_kernel")
        tall, wide = getattr(tile, "outer" if name == "expand" else name)
        deep = 64 if name == "outer" else tile.vectors
        known: dict[str, object] = {
            "BK": tall, "BP": wide, "BT": deep, "Q": 1, "FLIP": 0, "STRAIGHT": straight, "BIASED": False, "bias": None,
            "PRECISION": "ieee",
        }  # fmt: skip
        constants = {key: value for key, value in known.items() if key in kernel.arg_names}
        stages = 3 if name == "outer" else 5
        found = spilled(kernel, constants, number, capability, tile.warps, stages)
        print(f"sm_{capability} {number} {name} {tuple(tile)}: {found} bytes spilled")


if __name__ == "__main__":
    main()
