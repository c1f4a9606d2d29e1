"""Who is right: errors against double precision, beside those of plain torch in the same number type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from _gpu.cases import Case, Sweep
from _gpu.contenders import CONTENDERS, Bench
from _gpu.problems import DTYPES, allow_tf32, exactly, matrix_of, mode, product, release, vectors
from _gpu.workers import is_fatal
from kmatrix._errors import BackendUnavailableError
from kmatrix.benchmark.contenders import relative, rounding, wide
from kmatrix.ops import dispatch, segments_dispatch
from kmatrix.structures import StructuredMatrix
from kmatrix.structures.chain import AbstractChainMatrix

TIMES_PLAIN = 2.0  # an error of ours may be so many times that of plain torch
TF32_UNIT = 2.0**-10


@dataclass(frozen=True)
class Verdict:
    """What was found of one product.

    Attributes:
        error: the largest relative error of result and gradients (Frobenius).
        plain: that of plain torch, for the one of them where ours is worst beside it.
        ratio: of the two.
        worst: of any one vector of the results, relative to their length on average.
        bound: how large it may be, by rounding.
        backends: who multiplied.
        why: what is wrong; empty if nothing is.
    """

    error: float
    plain: float | None = None
    ratio: float | None = None
    worst: float = 0.0
    bound: float = 0.0
    backends: tuple[str, ...] = ()
    why: str = ""


def check_sweep(sweep: Sweep, device: str) -> list[dict[str, object]]:
    """Forward and backward at all batch sizes, on our kernels by name."""
    allow_tf32(sweep.dtype)
    matrix = matrix_of(sweep.kind, sweep.n, sweep.dtype, device).requires_grad_()
    found = [
        {"check": sweep.name, "batch": batch, **asdict(_one_batch(sweep, matrix, batch, device))}
        for batch in sweep.batches
    ]
    release(device)
    return found


def _one_batch(sweep: Sweep, matrix: StructuredMatrix, batch: int, device: str) -> Verdict:
    rows, cols = matrix.shape
    x = vectors(batch, cols, sweep.dtype, device, batch)
    upstream = vectors(batch, rows, sweep.dtype, device, batch + 1)
    exact = exactly(matrix, x, upstream)
    plain = plain_product(matrix, x, upstream, sweep.dtype)
    poison(exact, x.dtype, device)
    try:
        found = product(matrix, x, upstream, "triton")
    except BackendUnavailableError as error:
        return Verdict(float("inf"), why=f"not taken: {error}")
    return judged(found, plain, exact, rounding_bound(matrix, sweep.dtype), ("triton",))


def check_case(case: Case, device: str, backend: str | None) -> dict[str, dict[str, object]]:
    """Every contender of a case at its own size."""
    allow_tf32(case.dtype)
    bench = Bench(case, device, backend)
    x, upstream = bench.inputs[0], bench.upstream if case.graded else None
    exact = exactly(bench.matrix, x, upstream)
    plain = plain_product(bench.matrix, x, upstream, case.dtype)
    bound = rounding_bound(bench.matrix, case.dtype)
    found: dict[str, dict[str, object]] = {}
    for name in case.contenders:
        try:
            verdict = _contender(bench, name, plain, exact, bound)
        except Exception as error:
            if is_fatal(error):
                raise
            verdict = Verdict(float("inf"), why=f"{type(error).__name__}: {error}")
        found[name] = asdict(verdict)
    release(device)
    return found


def _contender(
    bench: Bench, name: str, plain: list[Tensor | None], exact: list[Tensor], bound: float
) -> Verdict:
    contender = CONTENDERS[name](bench)
    poison(exact, bench.dtype, bench.device)
    with mode(bench.case), watched() as backends:
        found = contender.result()
    if name.startswith("kmatrix"):
        return judged(found, plain, exact, bound, tuple(dict.fromkeys(backends)))
    truth = exact if contender.exact is None else contender.exact()
    # A dense weight is rounded, too, and so are vectors between products.
    return judged(found, [None] * len(truth), truth, 2 * bound)


def plain_product(
    matrix: StructuredMatrix, x: Tensor, upstream: Tensor | None, dtype: str
) -> list[Tensor | None]:
    """The same in stock torch and the same number type: by the definition, factor by factor.

    Products of tf32 are those of a dense layer, because torch makes narrow blocks in full precision anyway; there is
    nothing to compare gradients of structured weights with.
    """
    if dtype != "tf32":
        return list(product(matrix, x, upstream, "reference"))
    with torch.no_grad():
        double = exactly(matrix, torch.eye(matrix.shape[1], device=x.device, dtype=x.dtype))[0].to(x.dtype)
        forward = x @ double
        if upstream is None:
            return [forward]
        return [forward, upstream @ double.mT, *[None for _ in matrix.parameters()]]


def judged(
    found: Sequence[Tensor],
    plain: Sequence[Tensor | None],
    exact: Sequence[Tensor],
    bound: float,
    backends: tuple[str, ...] = (),
) -> Verdict:
    """Errors against the truth; wrong if more than twice plain torch's, or more than rounding explains."""
    if [f.shape for f in found] != [e.shape for e in exact]:
        return Verdict(float("inf"), why=f"shapes {[tuple(f.shape) for f in found]}", backends=backends)
    errors = _errors(found, exact)
    beside = _errors(plain, exact)
    ratios = [
        (error / other if other else float("inf") if error else 0.0, other)
        for error, other in zip(errors, beside, strict=True)
        if error is not None and other is not None
    ]
    worst = max(_worst_row(f, e) for f, e in zip(found[:2], exact[:2], strict=True) if e.ndim == 2)
    ratio, other = max(ratios, default=(None, None), key=lambda one: one[0] or 0.0)
    largest = max(error for error in errors if error is not None)
    why = []
    if ratio is not None and not ratio <= TIMES_PLAIN:
        why.append(f"error {ratio:.2f} times that of plain torch")
    if not worst <= bound:
        why.append(f"a vector is off by {worst:.1e}, rounding explains {bound:.1e}")
    if not largest < float("inf"):
        why.append("not finite")
    return Verdict(largest, other, ratio, worst, bound, backends, "; ".join(why))


def _errors(found: Sequence[Tensor | None], exact: Sequence[Tensor]) -> list[float | None]:
    """Of the product, of the gradient of the vectors, and of those of all weights together, where there are such."""
    each = [None if f is None else relative(f, e) for f, e in zip(found, exact, strict=True)]
    weights = [error for error in each[2:] if error is not None]
    return [*each[:2], math.hypot(*weights) / math.sqrt(len(weights)) if weights else None]


def _worst_row(found: Tensor, exact: Tensor) -> float:
    gap = torch.linalg.vector_norm(found.to(exact.dtype) - exact, dim=-1).max()
    size = torch.linalg.vector_norm(exact, dim=-1).square().mean().sqrt()
    return float(gap / size) if bool(gap.isfinite()) else float("inf")


def rounding_bound(matrix: StructuredMatrix, dtype: str) -> float:
    """How far a product may be from the truth, relative to its length."""
    patterns = matrix.layout.patterns if isinstance(matrix, AbstractChainMatrix) else ()
    terms, stages = sum(p.c for p in patterns) or sum(matrix.shape), len(patterns) or 2
    exact = rounding(DTYPES[dtype], terms, stages)
    return exact + 2 * stages * TF32_UNIT if dtype == "tf32" else exact


def poison(like: Sequence[Tensor], dtype: torch.dtype, device: str) -> None:
    """Fill memory that will be handed out next with NaN, so that what nobody writes does not look right."""
    if device == "cuda":
        held = [
            torch.full(t.shape, float("nan"), dtype=d, device=device)
            for t in like
            for d in (dtype, wide(dtype))
        ]
        del held


@contextmanager
def watched() -> Iterator[list[str]]:
    """Names of the backends that multiply inside the block."""
    names: list[str] = []
    with dispatch.observing() as chains, segments_dispatch.observing() as boxes:
        yield names
    names += [one.backend for one in (*chains, *boxes)]
