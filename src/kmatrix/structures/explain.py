"""Why a matrix is as fast as it is: who multiplies, who would not and why, and what each takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix._checks import check_size
from kmatrix._errors import DtypeError, complaint
from kmatrix.ops import dispatch, native
from kmatrix.ops.chain import chain_matmul, check_chain
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.dispatch import Product
from kmatrix.ops.native_layout import described
from kmatrix.ops.tuning import race
from kmatrix.structures.base import StructuredMatrix


@dataclass(frozen=True)
class Candidate:
    """One way to multiply.

    Attributes:
        name: the backend, "dense" for the ordinary matrix product, or "itself" for a matrix that is no chain.
        reason: why it can run or cannot.
        seconds: its measured time; None where it cannot run.
    """

    name: str
    reason: str
    seconds: float | None


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` found; ``print`` it.

    Attributes:
        what: the matrix, its number type, batch size and threads, in words.
        backend: who multiplies by default; None if the matrix needs no chain product.
        candidates: every backend in order of preference, then the dense product.
        products: each chain product that one multiplication runs, and how, in words.
    """

    what: str
    backend: str | None
    candidates: tuple[Candidate, ...]
    products: tuple[str, ...]

    @property
    def dense_seconds(self) -> float:
        """The time of the dense product."""
        return self.candidates[-1].seconds or 0.0

    def __str__(self) -> str:
        lines = [self.what]
        for name, reason, seconds in ((c.name, c.reason, c.seconds) for c in self.candidates):
            mark = "*" if name == self.backend else " "
            if seconds is None:
                lines.append(f"{mark} {name:10} {'-':>10} {'':>14}  {reason}")
                continue
            against = f"{self.dense_seconds / seconds:.2f}x dense"
            lines.append(f"{mark} {name:10} {_time(seconds):>10} {against:>14}  {reason}")
        return "\n".join([*lines, *[f"  {product}" for product in self.products]])


def explain(
    matrix: StructuredMatrix | Sequence[Tensor],
    patterns: Sequence[tuple[int, int, int, int]] | None = None,
    *,
    batch: int = 1,
    seconds: float = 0.5,
) -> Explanation:
    """Say which backend multiplies by a matrix, why the others do not, and what each takes against dense.

    Args:
        matrix: a structured matrix, or the weights of a chain as for ``chain_matmul``.
        patterns: as for ``chain_matmul``, where weights are given.
        batch: how many vectors are multiplied at a time.
        seconds: about how long to measure, all in all.

    Raises:
        ArgumentError: if the weights and patterns do not fit, or ``batch`` is not positive.
        DtypeError: if ``matrix`` is neither.

    Example:
        >>> import kmatrix as km
        >>> print(km.explain(km.Butterfly().random(256, 256), batch=64))  # doctest: +SKIP
        Butterfly, 256 x 256, float32, batch 64, 1 thread
        * native        6.90 us    36.35x dense  native kernels, avx512
          portable    121.40 us     2.07x dense  merged factors, stock torch kernels
          reference   613.20 us     0.41x dense  the definition, one factor after the other
          dense       250.80 us     1.00x dense  torch.nn.functional.linear
          8 factors, 256 -> 256: native, tiles kernel, passes 4+4, tiles 4 vectors high
    """
    check_size("explain", "batch", batch)
    name, multiply, dense = _described(matrix, patterns)
    m, n = dense.shape
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(batch, n, generator=generator, device="cpu").to(dense.device, dense.dtype)
    threads = torch.get_num_threads()
    kind = str(dense.dtype).removeprefix("torch.")
    what = f"{name}, {m} x {n}, {kind}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    with torch.no_grad():
        with dispatch.observing() as products:
            multiply(x)
        runners = {b.name: _forced(b.name, multiply, x) for b in dispatch.BACKENDS}
        reasons = {b.name: _refusal(b, products) for b in dispatch.BACKENDS}
        able = {name: run for name, run in runners.items() if reasons[name][0]}
        if not products:
            able["itself"] = lambda: multiply(x)
        able["dense"] = lambda: functional.linear(x, dense)
        times = dict(zip(able, race(list(able.values()), seconds), strict=True))
    candidates = [Candidate(name, reasons[name][1], times.get(name)) for name in runners]
    if not products:
        candidates.append(Candidate("itself", "stock torch functions", times["itself"]))
    candidates.append(Candidate("dense", "torch.nn.functional.linear", times["dense"]))
    backend = products[0].backend if products else None
    return Explanation(what, backend, tuple(candidates), tuple([_words(p) for p in products]))


def _described(
    matrix: StructuredMatrix | Sequence[Tensor], patterns: Sequence[tuple[int, int, int, int]] | None
) -> tuple[str, Callable[[Tensor], Tensor], Tensor]:
    """What it is, how it multiplies, and the same as an ordinary matrix."""
    if isinstance(matrix, StructuredMatrix):
        with torch.no_grad():
            return type(matrix.structure).__name__, matrix, matrix.to_dense()
    if not isinstance(matrix, Sequence) or isinstance(matrix, str) or not len(matrix):
        way_out = "pass a StructuredMatrix, or the weights of a chain"
        raise DtypeError(complaint("explain", "matrix", type(matrix).__name__, "not a matrix", way_out))
    weights = tuple(matrix)
    chain = check_chain("explain", weights, patterns)
    with torch.no_grad():
        eye = torch.eye(chain[0].cols, dtype=weights[0].dtype, device=weights[0].device)
        dense = reference_chain_matmul(eye, weights, chain).mT.contiguous()
    return "chain", lambda x: chain_matmul(x, weights, chain), dense


def _forced(name: str, multiply: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    def run() -> object:
        with dispatch.use_backend(name):
            return multiply(x)

    return run


def _refusal(backend: dispatch.Backend, products: Sequence[Product]) -> tuple[bool, str]:
    """Whether a backend can run all products, and the first reason why not or why."""
    reason = "there is no chain to multiply by"
    for product in products:
        probe = torch.empty(product.shape, dtype=product.weights[0].dtype, device=product.weights[0].device)
        ok, reason = backend.can_run(probe, product.weights, product.patterns)
        if not ok:
            return False, reason
    return bool(products), reason


def _words(product: Product) -> str:
    cols, rows = product.patterns[0].cols, product.patterns[-1].rows
    many = f"{len(product.patterns)} factor{'s' if len(product.patterns) > 1 else ''}"
    text = f"{many}, {cols} -> {rows}: {product.backend}"
    if product.backend != dispatch.NATIVE.name:
        return text
    _, description = described(product.weights, product.patterns)
    kernel, passes, height = native.schedule_of(description, product.shape[:-1].numel(), product.ends)
    grouped = "+".join(map(str, passes))
    tall = f", tiles {height} vector{'s' if height > 1 else ''} high" if kernel == "tiles" else ""
    return f"{text}, {kernel} kernel, passes {grouped}{tall}"


def _time(seconds: float) -> str:
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 1000:
            return f"{seconds * scale:.2f} {unit}"
    return f"{seconds:.2f} s"
