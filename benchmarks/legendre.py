"""Legendre: error against parameters for N = 64 ... 1024, the transform that the butterfly paper could not recover.

    python benchmarks/legendre.py

The target is the paper's: ``L_k(x_j) / sqrt(N)`` at ``N`` equispaced interior points, error as RMSE. Beside each
tolerance stand the family that reaches it with the fewest numbers, a truncated SVD of as many numbers, and the
paper's RMSE at its own budget of ``8 N`` real numbers (arXiv 1903.05895, figure 3).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from rich.console import Console
from rich.table import Table

import kmatrix as km
from kmatrix.fitting.certificate import machine

PAPER = {64: 1.4e-2, 128: 7.9e-3, 256: 4.5e-3, 512: 2.6e-3, 1024: 1.6e-3}
TOLERANCES = (0.5, 0.2, 0.1, 0.08, 0.03, 1e-2, 1e-3, 1e-4, 1e-6)


def legendre_matrix(n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    grid = np.linspace(-1, 1, n + 2)[1:-1]
    return np.asarray(legendre.legvander(grid, n - 1).T / math.sqrt(n))


def rows(n: int) -> list[dict[str, Any]]:
    dense = legendre_matrix(n)
    size = float(np.linalg.norm(dense))
    values = np.linalg.svd(dense, compute_uv=False)
    found = []
    targets = sorted({*TOLERANCES, PAPER[n] / 10 * n / size}, reverse=True)
    for tol in (t for t in targets if t < 1):
        fit = km.fit(dense, tol=tol, batches=())
        params = fit.certificate.num_params
        rank = params // (2 * n)
        svd = float(np.sqrt((values[rank:] ** 2).sum())) / size
        rmse = fit.relative_error * size / n
        found.append(
            {
                "n": n,
                "tol": tol,
                "rmse": rmse,
                "relative_error": fit.relative_error,
                "num_params": params,
                "per_n": params / n,
                "of_dense": params / n**2,
                "svd_relative_error": svd,
                "method": fit.method,
                "structure": type(fit.matrix.structure).__name__,
                "seconds": fit.seconds,
                "paper_rmse_at_8n": PAPER[n],
            }
        )
    return found


def at_budget(n: int, budget: int) -> dict[str, Any]:
    """The best family at the paper's own budget."""
    dense = legendre_matrix(n)
    tried = km.compare(dense, budgets=(budget / n**2,))
    best = min((a for a in tried if a.relative_error is not None), key=lambda a: a.relative_error or 0.0)
    rmse = (best.relative_error or 0.0) * float(np.linalg.norm(dense)) / n
    return {
        "n": n,
        "num_params": best.num_params,
        "rmse": rmse,
        "family": best.family,
        "paper_rmse": PAPER[n],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(PAPER))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/legendre.json"))
    args = parser.parse_args()
    console = Console(width=150)
    table = Table("n", "RMSE", "relative", "params", "/ n", "of dense", "SVD, as many", "paper at 8n", "how")
    collected, budgets = [], []
    for n in args.sizes:
        with console.status(f"n = {n}"):
            found = rows(n)
            budgets.append(at_budget(n, 8 * n))
        collected += found
        for r in found:
            numbers = (f"{r['rmse']:.1e}", f"{r['relative_error']:.1e}", r["num_params"], f"{r['per_n']:.0f}")
            tail = (f"{r['of_dense']:.1%}", f"{r['svd_relative_error']:.1e}", f"{r['paper_rmse_at_8n']:.1e}")
            table.add_row(*map(str, (n, *numbers, *tail, r["method"][:50])))
    console.print(table)
    for b in budgets:
        console.print(
            f"n={b['n']}: at 8n numbers the best is {b['family']}, RMSE {b['rmse']:.2e} (paper {b['paper_rmse']:.1e})"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"machine": machine(), "rows": collected, "budget": budgets}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
