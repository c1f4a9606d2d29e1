"""Chains to test with: every family's shape of chain, tied and untied, in sizes that are no powers of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from kmatrix.ops import Pattern

CHAINS: dict[str, tuple[list[Pattern], str]] = {
    "dense": ([Pattern(1, 3, 5, 1)], ""),
    "low rank": ([Pattern(1, 2, 7, 1), Pattern(1, 5, 2, 1)], ""),
    "diagonal": ([Pattern(6, 1, 1, 1)], ""),
    "diagonal along d": ([Pattern(1, 1, 1, 6)], ""),
    "one factor": ([Pattern(2, 3, 2, 3)], ""),
    "butterfly": ([Pattern(6, 2, 2, 1), Pattern(2, 3, 3, 2), Pattern(1, 2, 2, 6)], ""),
    "butterfly transposed": ([Pattern(1, 2, 2, 6), Pattern(2, 3, 3, 2), Pattern(6, 2, 2, 1)], ""),
    "kaleidoscope": (
        [Pattern(4, 2, 2, 1), Pattern(1, 4, 4, 2), Pattern(1, 4, 4, 2), Pattern(4, 2, 2, 1)],
        "",
    ),
    "monarch": ([Pattern(3, 4, 5, 1), Pattern(1, 2, 3, 4)], ""),
    "tile rank 2": ([Pattern(3, 4, 2, 1), Pattern(1, 2, 6, 2)], ""),
    "wide then narrow": ([Pattern(2, 6, 1, 1), Pattern(1, 1, 3, 4)], ""),
    "unmergeable": ([Pattern(2, 3, 3, 1), Pattern(3, 2, 2, 1)], ""),
    "hadamard": ([Pattern(6, 2, 2, 1), Pattern(2, 3, 3, 2), Pattern(1, 2, 2, 6)], "ad ad ad"),
    "kronecker": ([Pattern(3, 4, 2, 1), Pattern(1, 5, 3, 4)], "a d"),
    "mixed ties": ([Pattern(6, 2, 3, 1), Pattern(2, 3, 2, 3), Pattern(1, 4, 2, 9)], "a d -"),
    "tied between": ([Pattern(2, 3, 2, 3), Pattern(2, 2, 3, 3)], "a ad"),
    "convolution like": ([Pattern(2, 3, 2, 4), Pattern(2, 2, 3, 4)], "d d"),
}


class Example(NamedTuple):
    """A chain, and how to draw numbers for it."""

    patterns: list[Pattern]
    shapes: list[tuple[int, int, int, int]]

    @property
    def cols(self) -> int:
        return self.patterns[0].cols

    @property
    def rows(self) -> int:
        return self.patterns[-1].rows

    def draw(self, dtype: torch.dtype = torch.float64, *, requires_grad: bool = False) -> list[Tensor]:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        weights = [torch.randn(shape, dtype=wide) / shape[2] ** 0.5 for shape in self.shapes]
        return [w.to(dtype).requires_grad_(requires_grad) for w in weights]


def build(patterns: list[Pattern], ties: str = "") -> Example:
    """An example whose weights are tied along the axes named for each factor, such as "a ad -"."""
    tied = ties.split() or ["-"] * len(patterns)
    shapes = [
        (1 if "a" in t else p.a, p.b, p.c, 1 if "d" in t else p.d)
        for p, t in zip(patterns, tied, strict=True)
    ]
    return Example(patterns, shapes)


@pytest.fixture(params=CHAINS, ids=str)
def example(request: pytest.FixtureRequest) -> Example:
    """Each of the chains."""
    return build(*CHAINS[request.param])


@pytest.fixture
def mixed() -> Example:
    """One chain with untied and tied factors, rectangular, for tests that need only one."""
    return build(*CHAINS["mixed ties"])


@pytest.fixture
def make() -> Callable[[list[Pattern], str], Example]:
    """Build an example from patterns and ties."""
    return build


@pytest.fixture
def dense() -> Callable[[list[Tensor], list[Pattern]], Tensor]:
    """The matrix of a chain, entry by entry from the meaning of a pattern."""

    def matrix(weights: list[Tensor], patterns: list[Pattern]) -> Tensor:
        product = torch.eye(patterns[0].cols, dtype=weights[0].dtype)
        for w, p in zip(weights, patterns, strict=True):
            a, b, c, d = p
            factor = torch.zeros(a, b, d, a, c, d, dtype=w.dtype)
            full = w.expand(a, b, c, d)
            for i in range(a):
                for j in range(d):
                    factor[i, :, j, i, :, j] = full[i, :, :, j]
            product = factor.reshape(p.rows, p.cols) @ product
        return product

    return matrix


DTYPES = [torch.float64, torch.complex128]


@pytest.fixture(params=DTYPES, ids=["real", "complex"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Real and complex numbers in double precision."""
    return request.param
