"""Recover fast transforms from their dense entries alone, with no name and no order given.

    python benchmarks/recovery.py                       # the whole table, some minutes
    python benchmarks/recovery.py --sizes 64 1000 --orders natural "random rows"

Every target is built by numpy or scipy, never by kmatrix; ``fit`` sees the entries and ``tol=1e-10``. Prints a
table and writes JSON with versions and processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg
from rich.console import Console
from rich.table import Table

import kmatrix as km
from kmatrix.fitting.certificate import machine

Array = np.ndarray[Any, np.dtype[Any]]
TOL = 1e-10


def targets(n: int) -> dict[str, Array]:
    """The transforms of size ``n``; all of them for powers of two, DFT and DCT otherwise."""
    rng = np.random.default_rng(n)
    eye = np.eye(n)
    made: dict[str, Array] = {"DFT": scipy.fft.fft(eye, axis=0), "DCT-II": scipy.fft.dct(eye, axis=0)}
    if n & (n - 1) == 0:
        phase = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
        made |= {
            "inverse DFT": scipy.fft.ifft(eye, axis=0),
            "DST-II": scipy.fft.dst(eye, axis=0),
            "Hadamard": scipy.linalg.hadamard(n).astype(float),
            "Hartley": np.cos(phase) + np.sin(phase),
            "circulant": scipy.linalg.circulant(rng.standard_normal(n)),
            "Toeplitz": scipy.linalg.toeplitz(rng.standard_normal(n), rng.standard_normal(n)),
        }
    return made


def exact_params(name: str, n: int) -> int | None:
    """Parameters of our own exact member."""
    t = km.transforms
    makers: dict[str, Callable[[], km.StructuredMatrix]] = {
        "DFT": lambda: t.dft(n),
        "inverse DFT": lambda: t.idft(n),
        "DCT-II": lambda: t.dct(n),
        "DST-II": lambda: t.dst(n),
        "Hadamard": lambda: t.hadamard(n),
        "Hartley": lambda: t.hartley(n),
        "circulant": lambda: t.circulant(np.ones(n)),
        "Toeplitz": lambda: t.toeplitz(np.ones(n), np.ones(n)),
    }
    return makers[name]().num_params if name in makers else None


def bp_permutation(n: int, rng: np.random.Generator) -> Array:
    """A random member of the BP family of the butterfly paper: at each level even/odd, reversals of the halves."""

    def shuffle(index: Array) -> Array:
        size = len(index)
        if size <= 2:
            return index
        if rng.random() < 0.5:
            index = np.concatenate([index[0::2], index[1::2]])
        first, second = index[: size // 2], index[size // 2 :]
        first = first[::-1] if rng.random() < 0.5 else first
        second = second[::-1] if rng.random() < 0.5 else second
        return np.concatenate([shuffle(first), shuffle(second)])

    return shuffle(np.arange(n))


def orders(n: int) -> dict[str, tuple[Array, Array]]:
    """Row and column orders in which a target is handed over, by name."""
    rng = np.random.default_rng(7 * n + 1)
    natural = np.arange(n)
    divisor = max((k for k in range(2, int(n**0.5) + 1) if n % k == 0), default=1)
    stride = natural.reshape(divisor, n // divisor).T.reshape(n)
    named = {"strided": stride, "random": rng.permutation(n)}
    if n & (n - 1) == 0:
        reversal = (
            np.array([int(f"{i:0{n.bit_length() - 1}b}"[::-1], 2) for i in range(n)]) if n > 1 else natural
        )
        named |= {"bit-reversed": reversal, "BP-shuffled": bp_permutation(n, rng)}
    made = {"natural": (natural, natural)}
    for name, order in named.items():
        made |= {f"{name} rows": (order, natural), f"{name} columns": (natural, order)}
    made["random both"] = (rng.permutation(n), rng.permutation(n))
    return made


@dataclass(frozen=True)
class Row:
    """One recovery."""

    target: str
    n: int
    order: str
    relative_error: float
    num_params: int
    exact_params: int | None
    of_dense: float
    seconds: float
    method: str


def recover(sizes: list[int], wanted: list[str] | None, only: list[str] | None) -> Iterator[Row]:
    for n in sizes:
        for name, dense in targets(n).items():
            if only and name not in only:
                continue
            for order, (rows, columns) in orders(n).items():
                if wanted and order not in wanted:
                    continue
                start = time.perf_counter()
                found = km.fit(dense[rows][:, columns], tol=TOL, batches=())
                seconds = time.perf_counter() - start
                params = found.certificate.num_params
                exact = exact_params(name, n)
                error = found.relative_error
                yield Row(name, n, order, error, params, exact, params / n**2, seconds, found.method)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    powers, others = [8, 16, 32, 64, 128, 256, 512, 1024], [243, 360, 768, 1000]
    parser.add_argument("--sizes", type=int, nargs="+", default=powers + others)
    parser.add_argument("--orders", nargs="+")
    parser.add_argument("--targets", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recovery.json"))
    args = parser.parse_args()
    for wanted, made in ((args.orders, orders), (args.targets, targets)):
        known = {name: None for n in args.sizes for name in made(n)}
        unknown = [name for name in wanted or () if name not in known]
        if unknown:
            parser.error(f"not known at these sizes: {', '.join(unknown)}; there are {', '.join(known)}")
    console = Console(width=170)
    table = Table("target", "n", "order", "error", "params", "exact", "of dense", "seconds", "method")
    rows = []
    with console.status("recovering") as status:
        for row in recover(args.sizes, args.orders, args.targets):
            rows.append(row)
            status.update(f"{row.target} {row.n} {row.order}: {row.relative_error:.1e}")
            good = row.relative_error <= 1e-12 and row.exact_params and row.num_params <= 2 * row.exact_params
            cells = (
                row.target,
                row.n,
                row.order,
                f"{row.relative_error:.1e}",
                row.num_params,
                row.exact_params,
            )
            tail = (f"{row.of_dense:.1%}", f"{row.seconds:.2f}", row.method[:60])
            table.add_row(*map(str, cells + tail), style="" if good and row.seconds <= 10 else "red")
    console.print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"machine": machine(), "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
