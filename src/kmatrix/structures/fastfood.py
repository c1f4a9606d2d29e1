"""Fastfood: Hadamard transforms between learned diagonals and a fixed random permutation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops import chain_matmul
from kmatrix.structures.base import Structure, fill_normal
from kmatrix.structures.kaleidoscope import butterfly_factors, power_of_two
from kmatrix.structures.tied import NumbersMatrix


@dataclass(frozen=True)
class Fastfood(Structure):
    """Adaptive Fastfood ``S H G P H B``: learned diagonals ``S, G, B``, Hadamard ``H``, fixed permutation ``P``.

    ``H`` is orthonormal of the power of two ``N >= n``; sides are padded and cropped, and ``ceil(m / N)``
    independent stacks give the outputs, all of which the counts show: ``3 N`` numbers per stack. Operations
    per stack are two Hadamard transforms, each a chain of ``log2 N`` factors of ``4 N``, and three
    diagonals.

    Example:
        >>> from kmatrix.structures import Fastfood
        >>> Fastfood().num_params(1024, 1024)
        3072
        >>> Fastfood().random(300, 100).shape
        (300, 100)

    Reference: Le, Sarlos, Smola, 2013; learned diagonals: Yang et al., arXiv 1412.7149.
    """

    def check(self, m: int, n: int) -> None:
        """Every shape has members."""

    def stacks(self, m: int, n: int) -> tuple[int, int]:
        """How many stacks, and their size."""
        size = power_of_two(n)
        return -(-m // size), size

    def num_params(self, m: int, n: int) -> int:
        stacks, size = self.stacks(m, n)
        return 3 * stacks * size

    def flops(self, m: int, n: int) -> int:
        stacks, size = self.stacks(m, n)
        return stacks * size * (8 * (size.bit_length() - 1) + 3)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> FastfoodMatrix:
        return FastfoodMatrix(self, (m, n), dtype=self._admit(m, n, dtype), device=device)


class FastfoodMatrix(NumbersMatrix):
    """A Fastfood matrix; ``numbers (3, stacks, N)`` are the diagonals ``B, G, S`` in order of application.

    Attributes:
        permutation: the index array of ``P`` for all stacks, each within its own (a buffer).
    """

    permutation: Tensor

    def __init__(
        self,
        structure: Fastfood,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        stacks, size = structure.stacks(*shape)
        super().__init__(structure, shape, (3, stacks, size), dtype=dtype, device=device)
        self._grid = (stacks, size)
        self.register_buffer("permutation", torch.arange(stacks * size, device=device))

    def check_state(self) -> None:
        stacks, size = self._grid
        position = torch.arange(stacks * size, device=self.permutation.device).reshape(stacks, size)
        if not torch.equal(self.permutation.reshape(stacks, size).sort(-1).values, position):
            got, way_out = f"array({stacks * size},)", "permute the positions of each stack"
            reason = f"not a permutation within each of {stacks} stacks of {size}"
            raise ArgumentError(complaint("Fastfood", "permutation", got, reason, way_out))

    def _matmul(self, x: Tensor) -> Tensor:
        m, n = self.shape
        stacks, size = self._grid
        b, g, s = self.numbers
        x = nn.functional.pad(x, (0, size - n)).unsqueeze(-2)
        x = _permute(hadamard(x * b), self.permutation)
        y: Tensor = (hadamard(x * g) * s).reshape(*x.shape[:-2], stacks * size)[..., :m]
        return y

    def _rmatmul(self, x: Tensor) -> Tensor:
        m, n = self.shape
        stacks, size = self._grid
        b, g, s = self.numbers
        x = nn.functional.pad(x, (0, stacks * size - m)).reshape(*x.shape[:-1], stacks, size)
        x = _permute(hadamard(x * s) * g, torch.argsort(self.permutation))
        y: Tensor = (hadamard(x) * b).sum(-2)[..., :n]
        return y

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """``B = +-1``, ``G ~ N(0, 1)``, rows of chi-distributed length as those of a Gaussian matrix have, new ``P``.

        Scaled so that outputs have the variance of the inputs, whatever the padding.
        """
        n = self.shape[1]
        stacks, size = self._grid
        seed = torch.empty((), dtype=torch.int64, device=generator.device if generator else "cpu")
        rng = np.random.default_rng(int(seed.random_(2**62, generator=generator)))
        signs = rng.integers(0, 2, (stacks, size)) * 2.0 - 1.0
        lengths = np.sqrt(rng.chisquare(size, (stacks, size)) * size / n)
        index = np.stack([rng.permutation(size) + k * size for k in range(stacks)])
        with torch.no_grad():
            self.permutation.copy_(torch.as_tensor(index.reshape(-1)))
            fill_normal(self.stored, 1.0, self._is_complex, generator)
            b, g, s = self.numbers
            b.copy_(torch.as_tensor(signs))
            s.copy_(torch.as_tensor(lengths))
            s.div_(torch.linalg.vector_norm(g, dim=-1, keepdim=True))


def hadamard(x: Tensor) -> Tensor:
    """Orthonormal Hadamard transform of the last axis, a power of two, as a chain of tied 2 x 2 factors."""
    size = x.shape[-1]
    if size == 1:
        return x
    factors = butterfly_factors(size, increasing=True)
    r = 0.5**0.5
    weight = torch.tensor(((r, r), (r, -r)), dtype=x.dtype, device=x.device).reshape(1, 2, 2, 1)
    return chain_matmul(x, [weight] * len(factors), [f.pattern for f in factors])


def _permute(x: Tensor, index: Tensor) -> Tensor:
    return x.flatten(-2)[..., index].reshape(x.shape)
