"""Those who run: the same product in one way each, as calls that take their arguments from different memory in turn."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from _gpu.cases import (
    BMM,
    BMM_COLUMNS,
    BUTTERFLY,
    COMPILED,
    COPY,
    DENSE,
    DENSE_COMPILED,
    DENSE_GRAPH,
    FFT,
    GRAPH,
    OURS,
    PORTABLE,
    PREPARED,
    PREPARED_GRAPH,
    REAL_FFT,
    Case,
)
from _gpu.problems import DTYPES, exactly, matrix_of, vectors
from kmatrix import ops
from kmatrix.benchmark.contenders import as_tensors, is_bare, wide
from kmatrix.ops.dispatch import use_backend
from kmatrix.structures import StructuredMatrix
from kmatrix.structures.chain import AbstractChainMatrix

Call = Callable[[], Any]
MOST_SETS = 128  # of arguments: as many layers as there are in a large model
IN_A_GRAPH = (
    64  # products of few vectors, so that launching the graph does not count; of many, a tenth of that
)


@dataclass(frozen=True)
class Contender:
    """What is called in turn.

    Attributes:
        calls: functions of nothing, each with arguments of its own.
        per: how many products a call makes.
        exact: what the first call should give, in double precision; None for the product of the case.
        answer: gives what the first call gives; None for the call itself.
    """

    calls: Sequence[Call]
    per: int = 1
    exact: Callable[[], list[Tensor]] | None = None
    answer: Callable[[], list[Tensor]] | None = None

    def result(self) -> list[Tensor]:
        """What the first call gives."""
        return as_tensors(self.calls[0]()) if self.answer is None else self.answer()


@dataclass(frozen=True)
class Bench:
    """A case with its tensors.

    Attributes:
        case: what is measured.
        device: where.
        backend: that ours is asked to run on by name; None to let it choose, as users do.
    """

    case: Case
    device: str
    backend: str | None = None

    @cached_property
    def matrix(self) -> StructuredMatrix:
        """The structured matrix."""
        made = matrix_of(self.case.kind, self.case.n, self.case.dtype, self.device)
        return made.requires_grad_(self.case.graded)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of vectors and matrix."""
        return DTYPES[self.case.dtype]

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Vectors that take turns: more than the cache holds, if it is they that fill it."""
        case = self.case
        size = case.batch * case.n * self.dtype.itemsize
        count = 1 if case.decode else self.sets(size, least=3)
        made = [vectors(case.batch, self.matrix.shape[1], case.dtype, self.device, i) for i in range(count)]
        return [x.requires_grad_(case.graded) for x in made]

    @cached_property
    def upstream(self) -> Tensor:
        """The gradient of the result."""
        return vectors(self.case.batch, self.matrix.shape[0], self.case.dtype, self.device, -1 % 2**32)

    @cached_property
    def dense_weight(self) -> Tensor:
        """The matrix in full."""
        with torch.no_grad():
            full = copy.deepcopy(self.matrix).to(wide(self.dtype)).to_dense()
        return full.to(self.dtype).contiguous().requires_grad_(self.case.graded)

    def sets(self, size: int, least: int = 2) -> int:
        """How many arguments of so many bytes are twice what the second cache holds."""
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size if self.device == "cuda" else 0
        return min(max(least, math.ceil(2 * cache / max(size, 1))), MOST_SETS)

    def turns(
        self, multiply: Sequence[Callable[[Tensor], Tensor]], weights: Sequence[list[Tensor]]
    ) -> list[Call]:
        """A call for each pair of a matrix and vectors, as many as there are of what there is more of."""
        count = max(len(multiply), len(self.inputs))
        found = []
        for i in range(count):
            run, held, x = (those[i % len(those)] for those in (multiply, weights, self.inputs))
            found.append(self.step(run, x, held) if self.case.graded else _bind(run, x))
        return found

    def step(self, run: Callable[[Tensor], Tensor], x: Tensor, weights: list[Tensor]) -> Call:
        """Forward and backward."""

        def call() -> tuple[Tensor, ...]:
            y = run(x)
            return (y, *torch.autograd.grad(y, [x, *weights], self.upstream))

        return call


def _bind(run: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    return lambda: run(x)


def _asked(call: Callable[..., Any], backend: str | None) -> Callable[..., Any]:
    """The same on a backend that is asked for by name, backward passes included."""
    if backend is None:
        return call

    def run(*args: Tensor) -> Any:
        with use_backend(backend):
            return call(*args)

    return run


def ours(bench: Bench, backend: str | None = None) -> Contender:
    """The matrix as users call it."""
    matrices = _copies(bench)
    calls = bench.turns(matrices, [list(m.parameters()) for m in matrices])
    return Contender([_asked(call, backend or bench.backend) for call in calls])


def _copies(bench: Bench) -> list[StructuredMatrix]:
    """The matrix, or as many of it as the cache does not hold."""
    if not bench.case.decode:
        return [bench.matrix]
    size = sum(p.nbytes for p in bench.matrix.parameters())
    return [bench.matrix, *(copy.deepcopy(bench.matrix) for _ in range(bench.sets(size) - 1))]


def prepared(bench: Bench) -> Contender:
    """``ops.prepare``."""
    calls = bench.turns([ops.prepare(matrix) for matrix in _copies(bench)], [[]])
    return Contender([_asked(call, bench.backend) for call in calls])


def dense(bench: Bench) -> Contender:
    """``F.linear`` with the matrix in full: cuBLAS."""
    first = bench.dense_weight
    count = bench.sets(first.nbytes) if bench.case.decode else 1
    held = [first, *(first.detach().clone() for _ in range(count - 1))]
    multiply = [lambda x, w=w: functional.linear(x, w) for w in held]
    exact = None
    if bench.case.graded:
        exact = partial(_dense_gradients, bench)
    return Contender(bench.turns(multiply, [[w] for w in held]), exact=exact)


def _dense_gradients(bench: Bench) -> list[Tensor]:
    exact = wide(bench.dtype)
    x, w, g = (t.detach().to(exact) for t in (bench.inputs[0], bench.dense_weight, bench.upstream))
    return [x @ w.mT, g @ w, g.mT @ x]


def block_products(bench: Bench, *, columns: bool = False) -> Contender:
    """The chain by ``torch.bmm``, a call for each factor: vectors in rows, or features first."""
    matrix = bench.matrix
    if not is_bare(matrix):
        raise TypeError(f"{matrix} is not one bare chain")
    assert isinstance(matrix, AbstractChainMatrix)
    patterns = matrix.layout.patterns
    blocks = [w.permute(0, 3, 1, 2).reshape(-1, *w.shape[1:3]).contiguous() for w in matrix.weights]

    def by_rows(x: Tensor) -> Tensor:
        for w, (a, b, c, d) in zip(blocks, patterns, strict=True):
            x = x.view(-1, a, c, d).permute(1, 3, 0, 2).reshape(a * d, -1, c)
            x = torch.bmm(x, w.mT).view(a, d, -1, b).permute(2, 0, 3, 1).reshape(-1, a * b * d)
        return x

    def by_columns(x: Tensor) -> Tensor:
        for w, (a, b, c, d) in zip(blocks, patterns, strict=True):
            x = x.view(a, c, d, -1).transpose(1, 2).reshape(a * d, c, -1)
            x = torch.bmm(w, x).view(a, d, b, -1).transpose(1, 2).reshape(a * b * d, -1)
        return x

    if not columns:
        return Contender([_bind(by_rows, x) for x in bench.inputs])
    calls = [_bind(by_columns, x.mT.contiguous()) for x in bench.inputs]
    return Contender(calls, answer=lambda: [calls[0]().mT])


def copying(bench: Bench) -> Contender:
    """``y.copy_(x)``: reading and writing the vectors, which every product must."""
    y = torch.empty_like(bench.inputs[0])
    return Contender([_bind(y.copy_, x) for x in bench.inputs], exact=lambda: [bench.inputs[0]])


def one_butterfly(bench: Bench) -> Contender:
    """A butterfly of the same size."""
    matrix = matrix_of("butterfly", bench.case.n, bench.case.dtype, bench.device)
    run = _asked(matrix, bench.backend)
    return Contender([_bind(run, x) for x in bench.inputs], exact=lambda: exactly(matrix, bench.inputs[0]))


def fourier(bench: Bench, *, real: bool = False) -> Contender:
    """A Fourier transform of the same size: cuFFT, complex to complex whatever the case, or real to complex."""
    case = bench.case
    dtype = "float32" if real else "complex64"
    rows = [vectors(case.batch, case.n, dtype, bench.device, i) for i in range(len(bench.inputs))]
    apply = torch.fft.rfft if real else torch.fft.fft
    return Contender([_bind(apply, x) for x in rows], exact=lambda: [apply(rows[0].to(wide(rows[0].dtype)))])


def compiled(bench: Bench, run: Callable[[Tensor], Tensor]) -> Contender:
    """A function through ``torch.compile``."""
    fast = torch.compile(run)
    return Contender([_bind(fast, x) for x in bench.inputs])


def graphed(bench: Bench, found: Contender) -> Contender:
    """All calls of another as one CUDA graph."""
    wanted = IN_A_GRAPH if bench.case.decode else IN_A_GRAPH // 10
    calls = list(found.calls) * math.ceil(wanted / len(found.calls))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls[:3]:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = calls[0]()
        for call in calls[1:]:
            call()  # its result makes room for the next one

    def answer() -> list[Tensor]:
        graph.replay()
        torch.cuda.synchronize()
        return as_tensors(kept)

    return Contender([graph.replay], per=len(calls), answer=answer)


CONTENDERS: dict[str, Callable[[Bench], Contender]] = {
    COPY: copying,
    DENSE: dense,
    OURS: ours,
    PORTABLE: partial(ours, backend="portable"),
    PREPARED: prepared,
    BUTTERFLY: one_butterfly,
    BMM: block_products,
    BMM_COLUMNS: partial(block_products, columns=True),
    FFT: fourier,
    REAL_FFT: partial(fourier, real=True),
    COMPILED: lambda bench: compiled(bench, bench.matrix),
    DENSE_COMPILED: lambda bench: compiled(bench, partial(functional.linear, weight=bench.dense_weight)),
    GRAPH: lambda bench: graphed(bench, ours(bench)),
    PREPARED_GRAPH: lambda bench: graphed(bench, prepared(bench)),
    DENSE_GRAPH: lambda bench: graphed(bench, dense(bench)),
}
"""By name."""
