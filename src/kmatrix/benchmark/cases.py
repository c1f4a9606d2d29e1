"""The products that are timed, and how much faster each must be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from kmatrix.benchmark.contenders import (
    Contender,
    Problem,
    block_products,
    copying,
    dense,
    is_bare,
    ours,
    transform,
)
from kmatrix.benchmark.peers import peers, scipy_transforms
from kmatrix.benchmark.training import dense_step, our_step
from kmatrix.structures import Butterfly, Kaleidoscope, Monarch, Structure, StructuredMatrix
from kmatrix.transforms import dft

F32, BF16, F16, C64 = torch.float32, torch.bfloat16, torch.float16, torch.complex64
DENSE, DENSE_BF16, OURS = "dense float32", "dense bfloat16", "kmatrix"
# What the processor has that the marks were set on: it decides how fast dense is in half precision, and we are.
AMX, HALF_AMX = ("amx_tile", "amx_bf16"), ("amx_tile", "amx_bf16", "avx512_fp16")


@dataclass(frozen=True)
class Goal:
    """``of`` must take ``must`` times less time than ``over``, and aims at ``aim`` times.

    ``needs`` are the instructions, as Linux calls them, that the processor had for which the marks were set.
    """

    must: float
    aim: float | None = None
    over: str = DENSE
    of: str = OURS
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One product: who runs, whom all are compared with, and the goals. ``graded`` cases run with autograd."""

    group: str
    name: str
    shape: tuple[int, int]
    batch: int
    contenders: Callable[[], Mapping[str, Contender]]
    goals: tuple[Goal, ...] = ()
    baseline: str = DENSE
    graded: bool = False


def member(structure: Structure, m: int, n: int, dtype: torch.dtype = F32) -> StructuredMatrix:
    """A random member, always the same."""
    made = structure.random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(m + n))
    return made.requires_grad_(False)


def cases() -> Iterator[Case]:
    """All of them, small ones first within a group."""
    yield from (
        butterfly(256, 1),
        butterfly(256, 16),
        butterfly(256, 256, Goal(10, 16)),
        butterfly(256, 2048),
        butterfly(1024, 1, Goal(35, 90), Goal(3, None, "torch rfft")),
        butterfly(1024, 16, Goal(55, 95)),
        butterfly(
            *(1024, 256, Goal(20, 35), Goal(25, None, DENSE, "kmatrix out=")),
            *(Goal(1, None, "torch rfft", "kmatrix out="), Goal(2, None, "torch fft", "kmatrix out=")),
        ),
        butterfly(1024, 2048, Goal(20, 28)),
        butterfly(4096, 1),
        butterfly(4096, 16),
        butterfly(4096, 256, Goal(75, 100)),
        butterfly(4096, 2048),
        half(
            *(1024, 256, Goal(4.5, 6, DENSE_BF16, needs=AMX)),
            Goal(10, 13, DENSE_BF16, "kmatrix float16", HALF_AMX),
        ),
        chain("kmatrix", "BB*", Kaleidoscope(width=1), 1024, 1024, 256, Goal(15, 22)),
        chain(
            *("monarch", "Monarch 32 x 32", Monarch(nblocks=32), 1024, 1024, 256, Goal(9, 12)),
            *(Goal(3, None, "torch.bmm"), Goal(1, None, "torch.bmm, features first")),
        ),
    )
    for n, must in ((768, 10.0), (1000, 10.0), (1025, 5.0)):
        yield chain("sizes", "mixed radix", Butterfly(), n, n, 256, Goal(must, 20))
    for m, n in ((3072, 768), (768, 3072)):
        for batch in (16, 256):
            yield chain("rectangles", "butterfly", Butterfly(), m, n, batch, Goal(8, 15))
    for n, radices in ((512, (8, 8, 8)), (256, (16, 16)), (1024, (8, 8, 16)), (4096, (16, 16, 16))):
        what = "blocks of " + "·".join(map(str, radices))
        structure = Butterfly(radices=tuple((r, r) for r in radices))
        yield chain("blocks", what, structure, n, n, 256, Goal(8, None, "torch.bmm"))
    for n in (1024, 1000):
        yield fourier(n, 256, Goal(0.5, 1.0, "torch fft"))
    yield training(1024, 256, Goal(18, 25), Goal(3.5, None, DENSE_BF16, needs=AMX))
    yield training(4096, 256, Goal(50, 70))


def butterfly(n: int, batch: int, *goals: Goal) -> Case:
    """A butterfly of size n among everyone."""

    def contenders() -> dict[str, Contender]:
        problem = Problem(member(Butterfly(), n, n), batch)
        return {
            DENSE: dense(problem, F32),
            DENSE_BF16: dense(problem, BF16),
            OURS: ours(problem),
            "kmatrix out=": ours(problem, into=True),
            "torch rfft": transform(problem, torch.fft.rfft, F32),
            "torch fft": transform(problem, torch.fft.fft, C64),
            **scipy_transforms(problem),
            "copy": copying(problem),
            **peers(problem),
        }

    return Case("butterfly", f"butterfly {n}, batch {batch}", (n, n), batch, contenders, goals)


def chain(group: str, what: str, structure: Structure, m: int, n: int, batch: int, *goals: Goal) -> Case:
    """A chain among dense and, where it is bare, ``torch.bmm`` in both layouts."""

    def contenders() -> dict[str, Contender]:
        problem = Problem(member(structure, m, n), batch)
        found = {DENSE: dense(problem, F32), DENSE_BF16: dense(problem, BF16), OURS: ours(problem)}
        if is_bare(problem.matrix):
            found["torch.bmm"] = block_products(problem)
            found["torch.bmm, features first"] = block_products(problem, features_first=True)
        return found

    size = f"{n}" if m == n else f"{n} to {m}"
    return Case(group, f"{what} {size}, batch {batch}", (m, n), batch, contenders, goals)


def half(n: int, batch: int, *goals: Goal) -> Case:
    """Half precision in and out."""

    def contenders() -> dict[str, Contender]:
        problem = Problem(member(Butterfly(), n, n), batch)
        return {
            DENSE_BF16: dense(problem, BF16),
            OURS: ours(problem),
            "kmatrix bfloat16": ours(problem, BF16),
            "kmatrix float16": ours(problem, F16),
        }

    return Case("half", f"half precision {n}, batch {batch}", (n, n), batch, contenders, goals, DENSE_BF16)


def fourier(n: int, batch: int, *goals: Goal) -> Case:
    """An exact Fourier transform as a complex chain, its permutation included."""

    def contenders() -> dict[str, Contender]:
        problem = Problem(dft(n, dtype=C64).requires_grad_(False), batch)
        return {
            "dense complex64": dense(problem, C64),
            OURS: ours(problem),
            "torch fft": transform(problem, torch.fft.fft, C64),
            **scipy_transforms(problem),
        }

    return Case("fourier", f"DFT {n}, batch {batch}", (n, n), batch, contenders, goals, "dense complex64")


def training(n: int, batch: int, *goals: Goal) -> Case:
    """Forward and backward."""

    def contenders() -> dict[str, Contender]:
        problem = Problem(member(Butterfly(), n, n), batch)
        return {
            DENSE: dense_step(problem, F32),
            DENSE_BF16: dense_step(problem, BF16),
            OURS: our_step(problem, F32),
            "kmatrix bfloat16": our_step(problem, BF16),
        }

    name = f"forward + backward {n}, batch {batch}"
    return Case("training", name, (n, n), batch, contenders, goals, graded=True)
