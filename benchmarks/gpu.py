"""Speed on a GPU: everything is checked against double precision first, then timed beside dense, FFTs and a plain copy.

    make bench-gpu                             # all of it, some minutes
    make bench-gpu PYTHON=python3              # with a Python that has torch and triton; installs nothing
    python benchmarks/gpu.py --only decode     # cases and checks whose names match a regular expression
    python benchmarks/gpu.py --quick           # the main cases, few checks
    python benchmarks/gpu.py --tune            # look for better tiles as well, as long as --limit allows
    python benchmarks/gpu.py --interpret       # no GPU: tiny checks in Triton's interpreter, no times

Checks come first: products and gradients over a sweep of sizes, number types, odd and even batch sizes, and all
contenders of every case at its own size. An error may be twice that of plain torch in the same number type. Checks run
in several processes, which also fill Triton's cache of compiled kernels. A case of which ours fails is not timed, and
the exit status is 1. Then all contenders of a case are timed in one process, in turn in every round, with CUDA events:
medians and quartiles. Vectors (weights, where there are few vectors) take turns so that none lies in the second cache.
A plain copy of the same vectors runs in the same rounds as the bound. What was found so far is in ``gpu.json`` and
``gpu.md`` at any moment; ``gpu.svg`` comes at the end.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for _gpu, wherever Python was started

ROOT = Path(__file__).parents[1]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="names of cases and checks, a regular expression"
    )
    parser.add_argument("--quick", action="store_true", help="the main cases, few checks, short rounds")
    parser.add_argument("--tune", action="store_true", help="try other tiles, each checked, then timed")
    parser.add_argument(
        "--interpret", action="store_true", help="tiny checks in Triton's interpreter, on the CPU"
    )
    parser.add_argument("--no-sweep", action="store_true", help="check only what is timed")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out" / "gpu", help="folder for gpu.json, gpu.md, gpu.svg"
    )
    parser.add_argument("--seconds", type=float, help="of rounds for each case; 1 by default, 0.2 if quick")
    parser.add_argument("--limit", type=float, help="seconds for all; 470 by default, 570 with --tune")
    parser.add_argument(
        "--jobs", type=int, help="processes that check; by default for most cores, 12 at most"
    )
    args = parser.parse_args(given)
    args.seconds = args.seconds or (0.2 if args.quick else 1.0)
    args.limit = args.limit or (570.0 if args.tune else 470.0)
    args.jobs = 0 if args.interpret else args.jobs or max(1, min(12, (os.cpu_count() or 2) * 3 // 4))
    re.compile(args.only)
    return args


def obstacle(interpret: bool) -> str:
    """Why nothing can be measured here, or checked in the interpreter; empty if it can."""
    import torch

    from kmatrix.ops.triton.available import triton_is_here

    ok, reason = triton_is_here()
    if interpret:
        return "" if ok else reason
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return "there is no CUDA GPU that torch can use"
    return "" if ok else reason


def main(given: list[str] | None = None) -> int:
    """All of it; the exit status."""
    args = arguments(given)
    os.environ["KMATRIX_WISDOM"] = ""  # nothing that was tuned before counts
    if args.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    if reason := obstacle(args.interpret):
        way_out = "run it on a machine with an NVIDIA GPU, or with --interpret for checks alone"
        print(reason if args.interpret else f"{reason}: {way_out}", file=sys.stderr)
        return 2
    from _gpu.session import Session

    return Session(args, time.monotonic() + args.limit).run()


if __name__ == "__main__":
    sys.exit(main())
