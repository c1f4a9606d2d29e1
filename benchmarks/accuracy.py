"""How exact the exact members are: error against n in units of rounding, beside scipy in the same precision.

    python benchmarks/accuracy.py --out benchmarks/results    # every member, sizes to 4096, about a minute
    python benchmarks/accuracy.py --members dft dct --figure out/accuracy.png

Each matrix multiplies 16 random vectors X. The error is ``|A X - T X| / (|T X| eps log2 n)`` (Frobenius);
T X comes from scipy.fft in extended precision on the same numbers. Writes ``accuracy.json`` with the
versions and the processor, and the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
import scipy.fft as sf
import scipy.linalg
import torch
from rich.console import Console
from rich.table import Table

from kmatrix import StructuredMatrix, transforms

Array = npt.NDArray[Any]
POWERS = [2**k for k in range(1, 13)]
SIZES = [
    *(3, 5, 7, 12, 17, 24, 31, 37, 60, 61, 97, 120, 127, 131, 243, 251, 257, 360, 509, 509 * 2, 600, 768),
    *(1000, 1009, 1080, 1296, 1536, 1999, 2000, 2187, 3000, 3072, 3125, 4093),
]
PRECISIONS = {torch.float32: np.float32, torch.float64: np.float64}
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


@dataclass(frozen=True)
class Member:
    """One transform: our matrix, and what scipy does to the columns of ``x`` in the precision of ``x``."""

    family: str
    make: Callable[[int, torch.dtype], StructuredMatrix]
    apply: Callable[[Array], Array]
    scipy: bool = True
    least: int = 1
    powers_only: bool = False


def kernel(n: int) -> Array:
    """Numbers of a convolution, rounded to single precision so that every precision means one matrix."""
    return np.random.default_rng(n).standard_normal(n).astype(np.float32)


def cas(x: Array) -> Array:
    spectrum = sf.fft(x, axis=0)
    return np.asarray(spectrum.real - spectrum.imag)


def circular(x: Array) -> Array:
    c = kernel(len(x)).astype(x.real.dtype)
    return np.asarray(sf.ifft(sf.fft(c)[:, None] * sf.fft(x, axis=0), axis=0).real)


def toeplitz(x: Array) -> Array:
    n, size = len(x), 2 * len(x)
    c, r = kernel(n).astype(x.dtype), kernel(n)[::-1].astype(x.dtype)
    column = np.concatenate([c, [x.dtype.type(0)], r[:0:-1]])
    return np.asarray(sf.irfft(sf.rfft(column)[:, None] * sf.rfft(x, size, axis=0), size, axis=0)[:n])


def sylvester(x: Array) -> Array:
    return np.asarray(scipy.linalg.hadamard(len(x), dtype=np.int64).astype(x.dtype) @ x)


def sides(n: int) -> tuple[int, int]:
    """The most square image of n pixels."""
    height = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    return height, n // height


def image_spectrum(x: Array) -> Array:
    return np.asarray(sf.fft2(x.reshape(*sides(len(x)), -1), axes=(0, 1))).reshape(x.shape)


def members() -> dict[str, Member]:
    made = {
        "dft": Member(
            "Fourier", lambda n, t: transforms.dft(n, dtype=COMPLEX[t]), lambda x: sf.fft(x, axis=0)
        ),
        "idft": Member(
            "Fourier", lambda n, t: transforms.idft(n, dtype=COMPLEX[t]), lambda x: sf.ifft(x, axis=0)
        ),
        "dft2": Member("Fourier", lambda n, t: transforms.dft2(*sides(n), dtype=COMPLEX[t]), image_spectrum),
        "hartley": Member("Fourier", lambda n, t: transforms.hartley(n, dtype=t), cas),
    }
    for name, family in (("dct", "cosine"), ("dst", "sine")):
        for type in (1, 2, 3, 4):
            made[f"{name}-{'I' * type if type < 4 else 'IV'}"] = real_member(name, family, type)
    one = "convolution, Hadamard"
    return made | {
        "circulant, tied": Member(one, lambda n, t: transforms.circulant(kernel(n), dtype=t), circular),
        "circulant, real chain": Member(
            one, lambda n, t: transforms.circulant_chain(kernel(n), dtype=t), circular
        ),
        "circulant, BB*": Member(
            one, lambda n, t: transforms.circulant_chain(kernel(n), dtype=COMPLEX[t]), circular
        ),
        "toeplitz, real chain": Member(
            one, lambda n, t: transforms.toeplitz_chain(kernel(n), kernel(n)[::-1].copy(), dtype=t), toeplitz
        ),
        "hadamard": Member(
            one, lambda n, t: transforms.hadamard(n, dtype=t), sylvester, scipy=False, powers_only=True
        ),
    }


def real_member(name: str, family: str, type: int) -> Member:
    def make(n: int, dtype: torch.dtype) -> StructuredMatrix:
        return getattr(transforms, name)(n, type=type, dtype=dtype)

    def apply(x: Array) -> Array:
        return np.asarray(getattr(sf, name)(x, type=type, axis=0))

    return Member(family, make, apply, least=2 if (name, type) == ("dct", 1) else 1)


@dataclass(frozen=True)
class Row:
    """One matrix, its error and that of scipy in units of rounding."""

    member: str
    family: str
    n: int
    precision: str
    num_params: int
    factors: int
    units: float
    units_scipy: float | None


def measure(name: str, member: Member, n: int, dtype: torch.dtype) -> Row:
    matrix = member.make(n, dtype)
    x = np.random.default_rng(1).standard_normal((n, 16)).astype(PRECISIONS[dtype])
    truth = member.apply(x.astype(np.longdouble))
    with torch.no_grad():
        ours = (matrix @ torch.from_numpy(x)).resolve_conj().numpy()
    scale = np.linalg.norm(to_double(truth)) * torch.finfo(dtype).eps * max(1.0, math.log2(n))

    def units(y: Array) -> float:
        return round(float(np.linalg.norm(to_double(y - truth)) / scale), 4)

    peer = units(member.apply(x)) if member.scipy else None
    factors = len(matrix.layout.factors) if hasattr(matrix, "layout") else 1
    return Row(name, member.family, n, str(dtype)[6:], matrix.num_params, factors, units(ours), peer)


def to_double(y: Array) -> Array:
    """Norms are taken in double precision: a difference of extended numbers is already exact enough."""
    return y.astype(np.complex128 if y.dtype.kind == "c" else np.float64)


def run(wanted: list[str] | None, largest: int) -> Iterator[Row]:
    for name, member in members().items():
        if wanted and name not in wanted:
            continue
        sizes = POWERS if member.powers_only else sorted({*POWERS, *SIZES})
        for n in sizes:
            for dtype in PRECISIONS if member.least <= n <= largest else ():
                yield measure(name, member, n, dtype)


COLORS = ["#1a5799", "#c74f0d", "#3d8b4f", "#8a4fae", "#b58900"]


def draw(rows: list[Row], path: Path) -> None:
    """One panel per family and precision: ours in colour, scipy as grey crosses."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {"svg.hashsalt": "kmatrix", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 10}
    )
    import matplotlib.pyplot as plt

    families = list(dict.fromkeys(row.family for row in rows))
    precisions = list(dict.fromkeys(row.precision for row in rows))
    top = 1.15 * max(max(row.units, row.units_scipy or 0.0) for row in rows)
    size = (3.4 * len(families) + 0.4, 2.9 * len(precisions) + 1.1)
    figure, axes = plt.subplots(
        len(precisions), len(families), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for i, precision in enumerate(precisions):
        for j, family in enumerate(families):
            panel(axes[i][j], [r for r in rows if (r.precision, r.family) == (precision, family)])
            axes[i][j].set_title(f"{family}, {precision}", loc="left")
            axes[i][j].set_ylim(0, top)
        axes[i][0].set_ylabel("error in units of rounding")
    for j in range(len(families)):
        axes[-1][j].set_xlabel("n")
        handles, labels = axes[0][j].get_legend_handles_labels()
        axes[-1][j].legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2, frameon=False
        )
    title = "Error of the exact members,  |A X − T X| / (|T X| ε log₂ n);  lines join powers of two"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def panel(axis: Any, rows: list[Row]) -> None:
    peers = [r for r in rows if r.units_scipy is not None]
    # Thousands of points as vectors would make a picture of half a megabyte.
    points = {"ls": "", "rasterized": True}
    cross = points | {"marker": "x", "color": "#b0b0b0", "ms": 3.8, "mew": 0.8, "label": "scipy.fft"}
    axis.plot([r.n for r in peers], [r.units_scipy for r in peers], **cross)
    for color, name in zip(COLORS, dict.fromkeys(r.member for r in rows), strict=False):
        own = [r for r in rows if r.member == name]
        powers = [r for r in own if r.n & (r.n - 1) == 0]
        axis.plot([r.n for r in powers], [r.units for r in powers], color=color, lw=1.1)
        axis.plot(
            [r.n for r in own],
            [r.units for r in own],
            marker=".",
            color=color,
            ms=5.5,
            mew=0,
            label=name,
            **points,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks([2**k for k in range(1, 13, 2)], [str(2**k) for k in range(1, 13, 2)])
    axis.grid(color="#e6e6e6", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def summary(rows: list[Row]) -> Table:
    """Largest errors over all sizes, and counts at two sizes."""
    table = Table("member", "float32 worst", "scipy", "float64 worst", "scipy", "params 1000", "params 1024")
    for name in dict.fromkeys(r.member for r in rows):
        own = [r for r in rows if r.member == name]
        cells = []
        for precision in ("float32", "float64"):
            at = [r for r in own if r.precision == precision]
            worst = max(at, key=lambda r: r.units)
            peers = [r.units_scipy for r in at if r.units_scipy is not None]
            cells += [f"{worst.units:.2f} at {worst.n}", f"{max(peers):.2f}" if peers else "-"]
        counts = {r.n: f"{r.num_params:,}" for r in own}
        table.add_row(name, *cells, counts.get(1000, "-"), counts.get(1024, "-"))
    return table


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", nargs="+", choices=members(), metavar="NAME", help=", ".join(members()))
    parser.add_argument("--largest", type=int, default=4096, help="largest size")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="folder of accuracy.json"
    )
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/accuracy.svg"), help=".svg or .png")
    args = parser.parse_args()
    console = Console(width=130)
    rows = []
    with console.status("measuring") as status:
        for row in run(args.members, args.largest):
            rows.append(row)
            status.update(f"{row.member} {row.n} {row.precision}: {row.units:.2f} units")
    machine = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    text = f'{{"machine": {json.dumps(machine)},\n"rows": [\n{lines}\n]}}\n'
    (args.out / "accuracy.json").write_text(text, encoding="utf-8")
    draw(rows, args.figure)
    console.print(summary(rows))
    console.print(f"{args.out / 'accuracy.json'}, {args.figure}")


if __name__ == "__main__":
    main()
