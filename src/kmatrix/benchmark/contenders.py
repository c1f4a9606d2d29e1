"""Those who run: a product in one way each, with the truth it is held to before any clock starts.

All data are torch tensors, which lie on 64-byte boundaries; others see them through numpy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix import ops
from kmatrix._errors import KMatrixError, complaint
from kmatrix.benchmark.clock import Runner
from kmatrix.ops.definition import Patterns, reference_chain_matmul
from kmatrix.structures import StructuredMatrix
from kmatrix.structures.chain import AbstractChainMatrix

INPUTS = 4  # that take turns, so that the last product's vectors are not the next one's
HALF = (torch.bfloat16, torch.float16)


class WrongResultError(KMatrixError, RuntimeError):
    """A contender computed something else than it should: its time means nothing."""


@dataclass(frozen=True)
class Contender(Runner):
    """A runner whose result is known.

    Attributes:
        expected: the results for the first input in double precision.
        tolerance: how far from them it may be, relative to their norm.
    """

    expected: Callable[[], Sequence[Tensor]] = tuple
    tolerance: float = 0.0

    def error(self) -> float:
        """The largest relative error of the results for the first input (Frobenius)."""
        found, expected = as_tensors(self.run(self.inputs[0])), self.expected()
        if len(found) != len(expected) or any(
            f.shape != e.shape for f, e in zip(found, expected, strict=True)
        ):
            return float("inf")
        return max(relative(f, e) for f, e in zip(found, expected, strict=True))

    def checked(self, where: str) -> float:
        """The error, or raise if it is more than rounding explains.

        Raises:
            WrongResultError: if it is.
        """
        error = self.error()
        if not error <= self.tolerance:
            reason = f"more than rounding explains ({self.tolerance:.1e})"
            raise WrongResultError(
                complaint("bench", where, f"relative error {error:.1e}", reason, "report it, please")
            )
        return error


def as_tensors(result: object) -> list[Tensor]:
    """A result, an array or several, as tensors."""
    if isinstance(result, tuple | list):
        return [tensor for one in result for tensor in as_tensors(one)]
    return [torch.as_tensor(result).detach()]


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error in double precision; infinite if anything is not a number."""
    gap = torch.linalg.vector_norm(found.to(expected.dtype) - expected)
    size = torch.linalg.vector_norm(expected)
    return float(gap / size) if bool(gap.isfinite()) else float("inf")


def wide(dtype: torch.dtype) -> torch.dtype:
    """Double precision of the same field."""
    return torch.complex128 if dtype.is_complex else torch.float64


def rounding(dtype: torch.dtype, terms: int, stages: int = 1) -> float:
    """How far ``stages`` sums of ``terms`` products in all may be from the truth, by first-order rounding analysis.

    Half precision is rounded to between stages at worst, and adds up in float32.
    """
    sums = torch.float32 if dtype in HALF else dtype
    return float(stages * torch.finfo(dtype).eps * (dtype in HALF) + 4 * terms * torch.finfo(sums).eps)


def some_vectors(batch: int, n: int, dtype: torch.dtype) -> list[Tensor]:
    """Inputs that take turns, normally distributed."""
    generator = torch.Generator().manual_seed(batch * n)
    real = torch.float64 if wide(dtype) is torch.float64 else torch.complex128
    return [torch.randn(batch, n, dtype=real, generator=generator).to(dtype) for _ in range(INPUTS)]


@dataclass(frozen=True)
class Problem:
    """A matrix and a batch of vectors that every contender multiplies.

    Attributes:
        matrix: the structured matrix, in the number type to be measured.
        batch: how many vectors at once.
    """

    matrix: StructuredMatrix
    batch: int

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    def inputs(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        """The vectors, in rows."""
        return some_vectors(self.batch, self.matrix.shape[1], dtype or self.dtype)

    def dense_weight(self, dtype: torch.dtype) -> Tensor:
        """The matrix in full."""
        with torch.no_grad():
            return converted(self.matrix, wide(self.dtype)).to_dense().to(dtype).contiguous()

    def chain(self, dtype: torch.dtype) -> tuple[list[Tensor], Patterns]:
        """Weights and patterns, if the matrix is one chain without anything around it.

        Raises:
            TypeError: if it is not.
        """
        if not is_bare(self.matrix):
            raise TypeError(f"{self.matrix} is not one bare chain")
        assert isinstance(self.matrix, AbstractChainMatrix)
        return [w.detach().to(dtype).contiguous() for w in self.matrix.weights], self.matrix.layout.patterns


def converted(matrix: StructuredMatrix, dtype: torch.dtype) -> StructuredMatrix:
    """A copy in another number type."""
    return copy.deepcopy(matrix).to(dtype).requires_grad_(False)


def is_bare(matrix: StructuredMatrix) -> bool:
    """Whether a matrix is one chain, nothing permuted, padded or cropped."""
    if not isinstance(matrix, AbstractChainMatrix):
        return False
    layout = matrix.layout
    return (
        len(layout.runs) == 1
        and not isinstance(layout.runs[0], int)
        and ((layout.rows, layout.cols) == matrix.shape)
    )


def dense(problem: Problem, dtype: torch.dtype) -> Contender:
    """``F.linear`` with the matrix in full: what everyone has without us."""
    inputs, weight = problem.inputs(dtype), problem.dense_weight(dtype)

    def expected() -> list[Tensor]:
        return [functional.linear(inputs[0].to(wide(dtype)), weight.to(wide(dtype)))]

    tolerance = rounding(dtype, weight.shape[1])
    return Contender(lambda x: functional.linear(x, weight), inputs, None, expected, tolerance)


def ours(problem: Problem, dtype: torch.dtype | None = None, *, into: bool = False) -> Contender:
    """The op as users call it: ``chain_matmul`` on a bare chain, else the matrix; with ``out=`` if asked for."""
    dtype = dtype or problem.dtype
    inputs = problem.inputs(dtype)
    if not is_bare(problem.matrix):
        matrix = converted(problem.matrix, dtype)
        return Contender(matrix, inputs, None, lambda: [_truth(matrix, inputs[0])], _tolerance(matrix, dtype))
    weights, patterns = problem.chain(dtype)
    tolerance = _tolerance(problem.matrix, dtype)

    def expected() -> list[Tensor]:
        return [chain_truth(problem, dtype)]

    if into:
        y = torch.empty(problem.batch, problem.matrix.shape[0], dtype=dtype)
        return Contender(
            lambda x: ops.chain_matmul(x, weights, patterns, out=y), inputs, None, expected, tolerance
        )
    return Contender(lambda x: ops.chain_matmul(x, weights, patterns), inputs, None, expected, tolerance)


@lru_cache(maxsize=2)
def chain_truth(problem: Problem, dtype: torch.dtype) -> Tensor:
    """The product of a bare chain in double precision, from numbers rounded to ``dtype``; made once for everyone."""
    weights, patterns = problem.chain(dtype)
    x = problem.inputs(dtype)[0].to(wide(dtype))
    return reference_chain_matmul(x, [w.to(wide(dtype)) for w in weights], patterns)


def _truth(matrix: StructuredMatrix, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.to(wide(x.dtype)) @ converted(matrix, wide(x.dtype)).to_dense().mT


def _tolerance(matrix: StructuredMatrix, dtype: torch.dtype) -> float:
    if not isinstance(matrix, AbstractChainMatrix):
        return rounding(dtype, matrix.shape[1])
    patterns = matrix.layout.patterns
    return rounding(dtype, sum(p.c for p in patterns), len(patterns))


def block_products(problem: Problem, *, features_first: bool = False) -> Contender:
    """The same chain by ``torch.bmm``, a call for each factor: vectors in rows, or features first."""
    weights, patterns = problem.chain(problem.dtype)
    # (a, b, c, d) -> (a d, b, c), once: a peer would store them so.
    blocks = [w.permute(0, 3, 1, 2).reshape(-1, *w.shape[1:3]).contiguous() for w in weights]
    rows = problem.inputs()
    truth = ours(problem)

    def by_rows(x: Tensor) -> Tensor:
        for w, (a, b, c, d) in zip(blocks, patterns, strict=True):
            x = x.view(-1, a, c, d).permute(1, 3, 0, 2).reshape(a * d, -1, c)
            x = torch.bmm(x, w.mT).view(a, d, -1, b).permute(2, 0, 3, 1).reshape(-1, a * b * d)
        return x

    def by_features(x: Tensor) -> Tensor:
        for w, (a, b, c, d) in zip(blocks, patterns, strict=True):
            x = x.view(a, c, d, -1).transpose(1, 2).reshape(a * d, c, -1)
            x = torch.bmm(w, x).view(a, d, b, -1).transpose(1, 2).reshape(a * b * d, -1)
        return x

    if not features_first:
        return Contender(by_rows, rows, None, truth.expected, truth.tolerance)
    columns = [x.mT.contiguous() for x in rows]
    return Contender(by_features, columns, None, lambda: [y.mT for y in truth.expected()], truth.tolerance)


def copying(problem: Problem) -> Contender:
    """``y.copy_(x)``: reading and writing the vectors, which every product must."""
    inputs = problem.inputs()
    y = torch.empty_like(inputs[0])
    return Contender(y.copy_, inputs, None, lambda: [inputs[0].to(wide(problem.dtype))], 0.0)


def transform(problem: Problem, apply: Callable[[Any], Any], dtype: torch.dtype) -> Contender:
    """A fast Fourier transform of torch along the rows: another matrix, the benchmark for anything of this kind."""
    inputs = problem.inputs(dtype)
    n = problem.matrix.shape[1]
    tolerance = rounding(dtype, 4 * n.bit_length())
    return Contender(apply, inputs, None, lambda: [apply(inputs[0].to(wide(dtype)))], tolerance)
