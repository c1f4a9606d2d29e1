"""Speed over sizes: the break-even map, and time against n beside what this processor can do at most."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from kmatrix.benchmark.cases import BF16, C64, DENSE, DENSE_BF16, F16, F32, OURS, member
from kmatrix.benchmark.clock import Runner, race
from kmatrix.benchmark.contenders import Contender, Problem, copying, dense, ours, transform
from kmatrix.benchmark.results import CurvePoint, Point
from kmatrix.structures import Butterfly

DTYPES = {"float32": F32, "bfloat16": BF16, "float16": F16, "float64": torch.float64, "complex64": C64}
SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 16, 256, 2048)
QUICK_SIZES, QUICK_BATCHES = (16, 64, 256, 1024), (1, 256)
QUICK_DTYPES = ("float32", "bfloat16")
CURVE_SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
CURVE_BATCH = 256
MOST_DENSE = 8192  # larger ones would hold a gigabyte
MOST_WORK = (
    2**33
)  # multiplications of a dense product on the map, beyond which only the two fast types are timed


def places(sizes: Sequence[int], batches: Sequence[int]) -> list[tuple[str, int, int]]:
    """Where the map is measured."""
    return [
        (name, n, batch)
        for name, dtype in DTYPES.items()
        for n in sizes
        for batch in batches
        if n * n * batch <= MOST_WORK or dtype in (F32, BF16)
    ]


def point(name: str, n: int, batch: int, seconds: float) -> Point:
    """Ours against dense of the same number type, a butterfly of size ``n``."""
    dtype = DTYPES[name]
    problem = Problem(
        member(Butterfly(), n, n, torch.float64 if dtype is torch.float64 else C64 if dtype is C64 else F32),
        batch,
    )
    contenders = {"dense": dense(problem, dtype), OURS: ours(problem, dtype)}
    with torch.inference_mode():
        for who, contender in contenders.items():
            contender.checked(f"{who}, {name} {n}, batch {batch}")
        speed = race(contenders, seconds).fair(f"{name} {n}, batch {batch}").ratio("dense", OURS)
    return Point(name, n, batch, *speed)


def curve(n: int, seconds: float, flops_per_second: float) -> list[CurvePoint]:
    """Time of everyone at one size, and the two lower bounds of a butterfly: arithmetic, and moving the vectors."""
    matrix = member(Butterfly(), n, n)
    problem = Problem(matrix, CURVE_BATCH)
    contenders: dict[str, Contender] = {}
    if n <= MOST_DENSE:
        contenders |= {DENSE: dense(problem, F32), DENSE_BF16: dense(problem, BF16)}
    contenders |= {
        "torch rfft": transform(problem, torch.fft.rfft, F32),
        "torch fft": transform(problem, torch.fft.fft, C64),
        OURS: ours(problem),
        "copy": copying(problem),
    }
    with torch.inference_mode():
        for name, contender in contenders.items():
            if n <= 4096 or name == OURS:  # the truth of larger dense products takes minutes
                contender.checked(f"{name}, {n}")
        found = race(contenders, seconds).fair(f"time against n, {n}")
    points = [CurvePoint(name, n, 1e6 * found.time(name).median) for name in contenders]
    return [*points, CurvePoint("arithmetic", n, 1e6 * matrix.flops * CURVE_BATCH / flops_per_second)]


def arithmetic_peak(seconds: float) -> float:
    """Operations a second of the best float32 matrix product: what a core can do with everything in its favour."""
    best = 0.0
    for n in (384, 768, 1536):
        a, b, c = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        found = race({"mm": Runner(partial(_product, b, c), [a])}, seconds / 3).fair("arithmetic peak")
        best = max(best, 2 * n**3 / found.time("mm").low)
    return best


def _product(b: Tensor, c: Tensor, a: Tensor) -> None:
    torch.mm(a, b, out=c)
