"""Structured matrices and vectors, made where they are used and always the same."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

import kmatrix as km
from _gpu.cases import Case
from kmatrix.benchmark.contenders import wide
from kmatrix.ops.dispatch import use_backend
from kmatrix.structures import Structure, StructuredMatrix

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "tf32": torch.float32,
    "complex64": torch.complex64,
}
"""Number types by name; ``tf32`` is float32 where torch may round what it multiplies."""

SLICE = 2048  # vectors at once in double precision


@dataclass(frozen=True)
class Kind:
    """Matrices of one structure, by size: how they are made, and their shape ``(m, n)`` where they are not square."""

    structure: Callable[[int], Structure]
    shape: Callable[[int], tuple[int, int]] = lambda n: (n, n)


KINDS = {
    "butterfly": Kind(lambda n: km.Butterfly()),
    "K-matrix": Kind(lambda n: km.Kaleidoscope(width=1)),
    "Monarch": Kind(lambda n: km.Monarch(nblocks=math.isqrt(n))),
    "block tensor-train": Kind(lambda n: km.BlockTensorTrain(rank=2)),
    "BLAST": Kind(lambda n: km.BLAST(nblocks=max(2, n // 256), rank=max(2, n // 32))),
    "low rank": Kind(lambda n: km.LowRank(rank=max(2, n // 32))),
    "GBLR": Kind(lambda n: km.GBLR(budget=0.25)),
    "Kronecker": Kind(lambda n: km.Kronecker()),
    "wide butterfly": Kind(lambda n: km.Butterfly(), lambda n: (4 * n, n)),
    "padded butterfly": Kind(lambda n: km.Butterfly(), lambda n: (n + 1, n + 1)),
}


def matrix_of(kind: str, n: int, dtype: str, device: str) -> StructuredMatrix:
    """A random member."""
    rows, cols = KINDS[kind].shape(n)
    exact = torch.complex64 if dtype == "complex64" else torch.float32
    generator = torch.Generator().manual_seed(rows + cols)
    made = KINDS[kind].structure(n).random(rows, cols, dtype=exact, generator=generator)
    return made.to(DTYPES[dtype]).to(device).requires_grad_(False)


def vectors(batch: int, n: int, dtype: str, device: str, seed: int) -> Tensor:
    """Normally distributed rows."""
    exact = torch.complex64 if dtype == "complex64" else torch.float32
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(batch, n, dtype=exact, device=device, generator=generator).to(DTYPES[dtype])


def exactly(matrix: StructuredMatrix, x: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
    """The product in double precision, and with ``upstream`` all gradients; by the definition, slice by slice."""
    double = copy.deepcopy(matrix).to(wide(matrix.dtype)).requires_grad_(upstream is not None)
    found: list[list[Tensor]] = []
    for start in range(0, len(x), SLICE):
        part = x[start : start + SLICE].detach().to(double.dtype)
        pulled = None if upstream is None else upstream[start : start + SLICE].to(double.dtype)
        found.append(product(double, part, pulled, "reference"))
    rows = 1 if upstream is None else 2
    columns = list(zip(*found, strict=True))
    return [*map(torch.cat, columns[:rows]), *(torch.stack(parts).sum(0) for parts in columns[rows:])]


def product(
    matrix: StructuredMatrix, x: Tensor, upstream: Tensor | None = None, backend: str | None = None
) -> list[Tensor]:
    """The product, and with ``upstream`` the gradients of the vectors and of all weights."""
    with nullcontext() if backend is None else use_backend(backend):
        if upstream is None:
            with torch.no_grad():
                return [matrix(x)]
        x = x.detach().requires_grad_()
        y = matrix(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *matrix.parameters()], upstream)]


def mode(case: Case) -> AbstractContextManager[object]:
    """How users run it: with gradients, or without autograd."""
    return torch.enable_grad() if case.graded else torch.inference_mode()


def release(device: str) -> None:
    """Give memory back that nothing holds, for other processes."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def allow_tf32(dtype: str) -> None:
    """Let torch, and with it our kernels, round products of float32 where a case is about that, and nowhere else."""
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
