"""Factorise matrices of known order: kmatrix beside lazylinop and pyfaust, in one process, turn by turn.

    pip install lazylinop pyfaust psutil pandas     # the rivals, optional; kmatrix is measured without them too
    python benchmarks/factorise.py

Every factorisation is checked first (relative Frobenius error of its product); times are medians, and ratios to
kmatrix are what counts. Also times the projection of a 4096 x 4096 matrix onto Monarch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from rich.console import Console
from rich.table import Table

from kmatrix._permutations import bit_reversal
from kmatrix.fitting.certificate import machine
from kmatrix.fitting.chains.hierarchical import hierarchical
from kmatrix.fitting.chains.members import chain_matrix
from kmatrix.fitting.projections.nearest import project
from kmatrix.structures import Monarch

Array = np.ndarray[Any, np.dtype[Any]]
Factoriser = Callable[[Array], Callable[[], Array]]


def ours(dense: Array) -> Callable[[], Array]:
    n = dense.shape[0]
    natural = np.arange(n, dtype=np.int64)
    target = torch.from_numpy(dense)
    found = chain_matrix(hierarchical(target, [(2, 2)] * (n.bit_length() - 1)), natural, natural)
    return lambda: found.to_dense().detach().numpy()


def rivals() -> dict[str, Factoriser]:
    """The peers that are installed."""
    found: dict[str, Factoriser] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from lazylinop.butterfly import Chain, ksd

            def lazylinop(order: str) -> Factoriser:
                def run(dense: Array) -> Callable[[], Array]:
                    product = ksd(dense, chain=Chain.square_dyadic(dense.shape), order=order)
                    return lambda: np.asarray(product.toarray())

                return run

            found |= {"lazylinop l2r": lazylinop("l2r"), "lazylinop balanced": lazylinop("balanced")}
        except ImportError:
            pass
        try:
            from pyfaust.fact import butterfly

            def pyfaust(dense: Array) -> Callable[[], Array]:
                product = butterfly(np.asfortranarray(dense), type="bbtree")
                return lambda: np.asarray(product.toarray())

            found["pyfaust bbtree"] = pyfaust
        except ImportError:
            pass
    return found


@dataclass(frozen=True)
class Row:
    """One factorisation, timed."""

    target: str
    n: int
    tool: str
    relative_error: float
    seconds: float
    ratio: float


def measure(name: str, dense: Array, tools: dict[str, Factoriser], repeats: int) -> list[Row]:
    errors, samples = {}, {tool: [] for tool in tools}
    for tool, run in tools.items():
        errors[tool] = float(np.linalg.norm(run(dense)() - dense) / np.linalg.norm(dense))
    for _ in range(repeats):
        for tool, run in tools.items():
            start = time.perf_counter()
            run(dense)
            samples[tool].append(time.perf_counter() - start)
    medians = {tool: statistics.median(times) for tool, times in samples.items()}
    base = medians["kmatrix"]
    return [Row(name, len(dense), t, errors[t], medians[t], medians[t] / base) for t in tools]


def monarch(repeats: int) -> Row:
    dense = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    times, error = [], 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        matrix = project(Monarch(64), dense)
        times.append(time.perf_counter() - start)
        gap = torch.linalg.norm(matrix.to_dense().detach() - dense)
        error = float(gap / torch.linalg.norm(dense))
    return Row("Gaussian to Monarch(64)", 4096, "kmatrix", error, statistics.median(times), 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/factorise.json"))
    args = parser.parse_args()
    tools: dict[str, Factoriser] = {"kmatrix": ours, **rivals()}
    rows = []
    for n in args.sizes:
        dft = np.fft.fft(np.eye(n))[:, bit_reversal(n)]
        rows += measure("DFT, bit-reversed columns", dft, tools, args.repeats)
        rows += measure("Hadamard", scipy.linalg.hadamard(n).astype(float), tools, args.repeats)
    rows.append(monarch(args.repeats))
    table = Table("target", "n", "tool", "error", "seconds", "time / kmatrix")
    for row in rows:
        cells = (
            row.target,
            row.n,
            row.tool,
            f"{row.relative_error:.1e}",
            f"{row.seconds:.3f}",
            f"{row.ratio:.1f}",
        )
        table.add_row(*map(str, cells))
    Console(width=120).print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"machine": machine(), "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
