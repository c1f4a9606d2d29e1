"""What is checked and timed, as data: the sweep of sizes and batches, the cases, and what each must reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

BATCH = 2**15
OURS, PORTABLE, DENSE, COPY, FFT, BMM = "kmatrix", "kmatrix, portable", "dense", "copy", "cuFFT", "torch.bmm"
PREPARED, COMPILED, DENSE_COMPILED = "kmatrix, prepared", "kmatrix, torch.compile", "dense, torch.compile"
GRAPH, PREPARED_GRAPH, DENSE_GRAPH = "kmatrix, graph", "kmatrix, prepared, graph", "dense, graph"
BMM_COLUMNS, REAL_FFT, BUTTERFLY = "torch.bmm, features first", "cuFFT, real to complex", "one butterfly"
ONLY_CUDA = (COMPILED, DENSE_COMPILED, GRAPH, PREPARED_GRAPH, DENSE_GRAPH)


@dataclass(frozen=True)
class Goal:
    """``of`` is compared with ``over``: how many times less time it takes, or, with ``less``, how many times more."""

    over: str
    must: float
    aim: float | None = None
    of: str = OURS
    less: bool = False


@dataclass(frozen=True)
class Case:
    """A product of one shape by several.

    Attributes:
        name: unique.
        kind: of matrix, a key of ``problems.KINDS``.
        n: length of the vectors.
        dtype: a key of ``problems.DTYPES``.
        batch: how many vectors at once.
        contenders: who runs, by name.
        goals: in this order in the table; "not slower than portable" is added to all.
        graded: forward and backward.
        decode: few vectors, so it is the weights that must not lie in the cache.
    """

    name: str
    kind: str
    n: int
    dtype: str
    batch: int
    contenders: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    graded: bool = False
    decode: bool = False

    @property
    def judged(self) -> tuple[Goal, ...]:
        """All goals."""
        return (*self.goals, Goal(PORTABLE, 1.0)) if PORTABLE in self.contenders else self.goals


@dataclass(frozen=True)
class Sweep:
    """Checks only: one kind of matrix at several batch sizes, forward and backward."""

    kind: str
    n: int
    dtype: str
    batches: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.n}, {self.dtype}"


def cases(quick: bool = False) -> list[Case]:
    """All, those with the hardest goals first; the first seven where it must be quick."""
    found = [*_targets(), *_others()]
    return found[:7] if quick else found


def _targets() -> Iterator[Case]:
    main = (COPY, DENSE, OURS, PORTABLE)
    ways = (*main, PREPARED, GRAPH)  # what is left if the host has little to do, or nothing
    half = "bfloat16"
    yield Case(
        *("butterfly 1024", "butterfly", 1024, half, BATCH, ways),
        (Goal(COPY, 0.7, 0.85), Goal(DENSE, 2)),
    )
    yield Case(
        *("butterfly 4096", "butterfly", 4096, half, BATCH, ways),
        (Goal(COPY, 0.6, 0.8), Goal(DENSE, 6, 10)),
    )
    yield Case(
        *("K-matrix 4096", "K-matrix", 4096, half, BATCH, (*main, BUTTERFLY)),
        (Goal(BUTTERFLY, 1.5, 1.2, less=True),),
    )
    yield Case(
        *(
            "Monarch 4096, 64 blocks",
            "Monarch",
            4096,
            half,
            BATCH,
            (*main, BMM, BMM_COLUMNS, PREPARED, GRAPH),
        ),
        (Goal(COPY, 0.6), Goal(DENSE, 5), Goal(BMM, 3)),
    )
    yield Case(
        *("forward + backward, butterfly 4096", "butterfly", 4096, half, BATCH, (DENSE, OURS, PORTABLE)),
        (Goal(DENSE, 5, 8),),
        graded=True,
    )
    for dtype, transforms in (("complex64", (FFT,)), ("float32", (FFT, REAL_FFT))):
        yield Case(
            *(f"butterfly 1024, {dtype}", "butterfly", 1024, dtype, BATCH, (*main, *transforms)),
            (Goal(FFT, 1.0, 0.6, less=True),),  # complex to complex, for real vectors too
        )
    steps = (DENSE, OURS, PREPARED, PORTABLE, DENSE_GRAPH, GRAPH, PREPARED_GRAPH)
    for batch in (1, 2, 4, 8, 16):
        yield Case(
            *(f"decode 4096, batch {batch}", "butterfly", 4096, half, batch, steps),
            (Goal(DENSE, 1.0), Goal(DENSE_GRAPH, 2.0, of=GRAPH), Goal(DENSE_GRAPH, 2.0, of=PREPARED_GRAPH)),
            decode=True,
        )


def _others() -> Iterator[Case]:
    main = (COPY, DENSE, OURS, PORTABLE)
    for dtype in ("float16", "float32", "tf32"):
        yield Case(f"butterfly 4096, {dtype}", "butterfly", 4096, dtype, BATCH, main)
    yield Case("butterfly 8192", "butterfly", 8192, "bfloat16", BATCH, main)
    for kind in ("block tensor-train", "BLAST", "low rank"):
        yield Case(f"{kind} 4096", kind, 4096, "bfloat16", BATCH, (*main, BMM))
    yield Case("GBLR 4096, 25 % of the FLOPs", "GBLR", 4096, "bfloat16", BATCH, main)
    for kind, n in (("butterfly", 1024), ("Monarch", 4096)):
        name = f"forward + backward, {kind} {n}"
        yield Case(name, kind, n, "bfloat16", BATCH, (DENSE, OURS, PORTABLE), graded=True)
    both = (*main, COMPILED, DENSE_COMPILED)
    yield Case("torch.compile, butterfly 4096", "butterfly", 4096, "bfloat16", BATCH, both)


def sweeps(quick: bool = False) -> list[Sweep]:
    """Sizes, number types, odd and even batch sizes; batches of one power of two share their compiled kernels."""
    few, many = (1, 33, 258), (1, 6, 33, 258, 4097)
    if quick:
        return [
            Sweep(kind, n, dtype, few)
            for kind, n in (("butterfly", 64), ("butterfly", 1024), ("Monarch", 1024))
            for dtype in ("bfloat16", "float32")
        ]
    found = [Sweep("butterfly", n, d, many) for n in (64, 1024, 4096) for d in ("bfloat16", "float32")]
    found += [
        Sweep(kind, n, dtype, (1, 33, 4098))
        for kind, n in (
            ("butterfly", 256),
            ("butterfly", 1000),
            ("K-matrix", 1024),
            ("Monarch", 1024),
            ("Monarch", 4096),
            ("block tensor-train", 1024),
            ("BLAST", 1024),
            ("low rank", 256),
            ("Kronecker", 1024),
            ("wide butterfly", 768),
            ("padded butterfly", 1024),
            ("GBLR", 512),
        )
        for dtype in ("bfloat16", "float32")
    ]
    found += [
        Sweep(kind, n, dtype, (1, 33, 258))
        for kind, n in (("butterfly", 1024), ("Monarch", 1024))
        for dtype in ("float16", "complex64", "tf32")
    ]
    return found


def tiny_cases() -> list[Case]:
    """Each kind of case once, as small as makes sense, without those who need a GPU: for the interpreter."""
    found: dict[tuple[object, ...], Case] = {}
    for case in cases():
        able = tuple(name for name in case.contenders if name not in ONLY_CUDA)
        small = replace(case, n=16, batch=3, contenders=able)
        found.setdefault((case.kind, case.dtype, case.graded, case.decode, able), small)
    return list(found.values())


def tiny_sweeps() -> list[Sweep]:
    """For the interpreter."""
    return [
        Sweep("butterfly", 32, "float32", (3,)),
        Sweep("Monarch", 16, "float16", (1,)),
        Sweep("K-matrix", 16, "complex64", (5,)),
        Sweep("Kronecker", 16, "float32", (9,)),
        Sweep("GBLR", 16, "float32", (3,)),
    ]
