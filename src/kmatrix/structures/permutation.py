"""Permutations: fixed ones, and the relaxed ones that are learned by gradient and then rounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kmatrix import _permutations
from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.base import Structure, StructuredMatrix, fill_normal, stored_dtype
from kmatrix.structures.chain import ChainMatrix, ChainStructure, Layout, Permute, PermuteKind


@dataclass(frozen=True)
class Permutation(ChainStructure):
    """Fixed permutation matrices: ``(A x)[i] = x[index[i]]``, no numbers to learn and no operations.

    Args:
        kind: ``"given"`` for any permutation (``random`` draws one), ``"stride"`` the perfect shuffle of
            ``k`` by ``n / k``, ``"bit_reversal"`` for powers of two, ``"reverse"`` the flip.
        k: rows of the shuffle.

    Raises:
        ArgumentError: if the shape is not square, the kind unknown, or the size not one the kind has.

    Example:
        >>> import torch
        >>> from kmatrix.structures import Permutation
        >>> Permutation("reverse").random(4, 4) @ torch.arange(4.0)
        tensor([3., 2., 1., 0.])
    """

    kind: PermuteKind = "given"
    k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("Permutation", "k", self.k)
        Permute(self.k if self.kind == "stride" else 1, self.kind, self.k)

    def check(self, m: int, n: int) -> None:
        if m != n:
            raise ArgumentError(
                complaint("Permutation", "(m, n)", (m, n), "permutations are square", "pass m == n")
            )
        Permute(n, self.kind, self.k)

    def layout(self, m: int, n: int) -> Layout:
        return Layout((Permute(n, self.kind, self.k),))

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> PermutationMatrix:
        dtype = self._admit(m, n, dtype)
        return PermutationMatrix(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


class PermutationMatrix(ChainMatrix):
    """A fixed permutation."""

    @classmethod
    def from_index(
        cls, index: Tensor | _permutations.Index, *, dtype: torch.dtype | None = None
    ) -> PermutationMatrix:
        """The permutation ``y = x[index]``.

        Raises:
            ArgumentError: if ``index`` does not hold each of ``0 .. n-1`` exactly once.

        Example:
            >>> import torch
            >>> from kmatrix.structures import PermutationMatrix
            >>> PermutationMatrix.from_index(torch.tensor([2, 0, 1])).to_dense()
            tensor([[0., 0., 1.],
                    [1., 0., 0.],
                    [0., 1., 0.]])
        """
        n = len(index)
        matrix = Permutation().empty(n, n, dtype=dtype, device=getattr(index, "device", None))
        matrix.set_permutations([index])
        return matrix

    @property
    def index(self) -> Tensor:
        """Where each output comes from."""
        return self.permutation(0)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw a uniform permutation if the kind is ``"given"``; the other kinds have one member."""
        structure = self.structure
        if isinstance(structure, Permutation) and structure.kind == "given":
            device = generator.device if generator else self.index.device
            device = torch.device("cpu") if device.type == "meta" else device
            self.index.copy_(torch.randperm(self.shape[1], generator=generator, device=device))


@dataclass(frozen=True)
class BPPermutation(Structure):
    """Relaxed permutations learned by gradient: a choice of even-odd split and two reversals at every block size.

    For blocks of m = n, n/2, ..., 4 in turn, each step mixes the vector with its permuted self, ``x <- p P
    x + (1 - p) x`` with ``p = sigmoid(logit)``: (a) even before odd positions, (b) first half reversed, (c)
    second half reversed. ``p = (1, 0, 0)`` at all levels is bit reversal. Rounding every p gives one of at
    most ``n**3`` permutations. There are ``3 (log2 n - 1)`` logits, real whatever the dtype, each counted
    as a number; ``6 n`` operations per level.

    Args:
        tied: one set of three logits for all levels.
        levels: how many levels, from the largest block; all by default.

    Raises:
        ArgumentError: if the shape is not square of a power of two.

    Example:
        >>> from kmatrix.structures import BPPermutation
        >>> A = BPPermutation().random(16, 16)
        >>> A.probabilities.shape
        torch.Size([3, 3])
        >>> A.harden().structure
        Permutation(kind='given', k=1)

    Reference: Dao et al., arXiv 1903.05895, section 3.2.
    """

    tied: bool = False
    levels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels is not None:
            check_size("BPPermutation", "levels", self.levels)

    def check(self, m: int, n: int) -> None:
        if m != n:
            raise ArgumentError(
                complaint("BPPermutation", "(m, n)", (m, n), "permutations are square", "pass m == n")
            )
        if n & (n - 1):
            way_out = "pad to a power of two, as BPBP does, or use Permutation() for a fixed one"
            raise ArgumentError(complaint("BPPermutation", "n", n, "not a power of two", way_out))

    def depth(self, n: int) -> int:
        """How many levels; a block of two has nothing to choose."""
        most = max(0, n.bit_length() - 2)
        return most if self.levels is None else min(self.levels, most)

    def sets(self, n: int) -> int:
        """How many sets of three logits."""
        return min(1, self.depth(n)) if self.tied else self.depth(n)

    def num_params(self, m: int, n: int) -> int:
        return 3 * self.sets(n)

    def flops(self, m: int, n: int) -> int:
        return 6 * n * self.depth(n)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> BPPermutationMatrix:
        return BPPermutationMatrix(self, (m, n), dtype=self._admit(m, n, dtype), device=device)


class BPPermutationMatrix(StructuredMatrix):
    """A relaxed permutation.

    Attributes:
        logits: ``(levels, 3)``, or ``(1, 3)`` if tied: largest block first; even-odd, first half, second
            half.
    """

    structure: BPPermutation

    def __init__(
        self,
        structure: BPPermutation,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape)
        self._is_complex = dtype.is_complex
        real = dtype.to_real() if dtype.is_complex else dtype
        self.logits = nn.Parameter(torch.empty(structure.sets(shape[1]), 3, dtype=real, device=device))

    @property
    def probabilities(self) -> Tensor:
        """Probability of each choice, ``(levels, 3)``, largest block first."""
        return torch.sigmoid(self.logits).expand(self.structure.depth(self.shape[1]), 3)

    @property
    def sharpness(self) -> Tensor:
        """How settled the least settled choice is, from 0.5 (even) to 1 (a permutation)."""
        p = self.probabilities
        return torch.maximum(p, 1 - p).amin() if p.numel() else p.new_ones(())

    def harden(self) -> PermutationMatrix:
        """The fixed permutation that rounding every probability gives."""
        choices = (self.probabilities.detach() > 0.5).cpu().numpy()
        index = np.arange(self.shape[1])
        for level, (split, first, second) in enumerate(choices):
            blocks = index.reshape(1 << level, -1)
            if split:
                blocks = np.concatenate([blocks[:, 0::2], blocks[:, 1::2]], axis=1)
            low, high = np.split(blocks, 2, axis=1)
            halves = [low[:, ::-1] if first else low, high[:, ::-1] if second else high]
            index = np.concatenate(halves, axis=1).reshape(-1)
        return PermutationMatrix.from_index(torch.as_tensor(index, device=self.device), dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return stored_dtype("BPPermutation", self.logits, self._is_complex)

    @property
    def device(self) -> torch.device:
        return self.logits.device

    def _matmul(self, x: Tensor) -> Tensor:
        probabilities = self.probabilities.to(self.dtype)
        if not len(probabilities):
            return x.clone()
        for level, p in enumerate(probabilities):
            x = _reverse_halves(_split(x, level, p[0]), level, p[1:])
        return x

    def _rmatmul(self, x: Tensor) -> Tensor:
        probabilities = self.probabilities.to(self.dtype)
        if not len(probabilities):
            return x.clone()
        for level in reversed(range(len(probabilities))):
            p = probabilities[level]
            # Reversals commute and are their own transposes.
            x = _merge(_reverse_halves(x, level, p[1:]), level, p[0])
        return x

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Logits N(0, 1)."""
        fill_normal(self.logits, 1.0, False, generator)


def _split(x: Tensor, level: int, p: Tensor) -> Tensor:
    """In each of the ``2**level`` blocks: even positions before odd ones, with weight ``p``."""
    n = x.shape[-1]
    pairs = x.reshape(*x.shape[:-1], 1 << level, (n >> level) // 2, 2)
    return x + p * (pairs.transpose(-1, -2).reshape(x.shape) - x)


def _merge(x: Tensor, level: int, p: Tensor) -> Tensor:
    """Transpose of ``_split``."""
    n = x.shape[-1]
    halves = x.reshape(*x.shape[:-1], 1 << level, 2, (n >> level) // 2)
    return x + p * (halves.transpose(-1, -2).reshape(x.shape) - x)


def _reverse_halves(x: Tensor, level: int, p: Tensor) -> Tensor:
    """In each block: first and second half reversed, with weights ``p[0]`` and ``p[1]``."""
    n = x.shape[-1]
    halves = x.reshape(*x.shape[:-1], 1 << level, 2, (n >> level) // 2)
    return (halves + p.unsqueeze(-1) * (halves.flip(-1) - halves)).reshape(x.shape)
