"""The algebra: transposes, products and sums, each again a structured matrix, and multiples beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.structures.base import Structure, StructuredMatrix
from kmatrix.structures.scaled import Scaled as Scaled
from kmatrix.structures.scaled import ScaledMatrix as ScaledMatrix
from kmatrix.structures.scaled import scaled as scaled


@dataclass(frozen=True)
class Transpose(Structure):
    """Transposes of the members of a structure, conjugated if ``conjugate``."""

    of: Structure
    conjugate: bool = False

    def __post_init__(self) -> None:
        pass  # no field holds lists

    def check(self, m: int, n: int) -> None:
        self.of.check(n, m)

    def num_params(self, m: int, n: int) -> int:
        return self.of.num_params(n, m)

    def flops(self, m: int, n: int) -> int:
        return self.of.flops(n, m)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StructuredMatrix:
        return TransposedMatrix(self.of.empty(n, m, dtype=dtype, device=device), self.conjugate)


class TransposedMatrix(StructuredMatrix):
    """The (conjugate) transpose of ``base``, sharing its numbers."""

    base: StructuredMatrix
    conjugate: bool

    def __init__(self, base: StructuredMatrix, conjugate: bool) -> None:
        # Written where torch would write them, because ``X @ A.T`` makes one for a product that takes no longer.
        nn.Module.__init__(self)
        m, n = base.shape
        self.__dict__.update(
            structure=Transpose(base.structure, conjugate), shape=(n, m), conjugate=conjugate
        )
        self._modules["base"] = base

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None or self._conjugates:
            return super().forward(x, bias)
        return self._base.rforward(x)

    def rforward(self, x: Tensor) -> Tensor:
        return super().rforward(x) if self._conjugates else self._base.forward(x)

    @property
    def _conjugates(self) -> bool:
        return self.conjugate and self.dtype.is_complex

    @property
    def _base(self) -> StructuredMatrix:
        return cast(StructuredMatrix, self._modules["base"])  # past the slow search for attributes of modules

    def _matmul(self, x: Tensor) -> Tensor:
        base = self._base
        return _conjugated(base._rmatmul, x) if self._conjugates else base._rmatmul(x)

    def _rmatmul(self, x: Tensor) -> Tensor:
        base = self._base
        return _conjugated(base._matmul, x) if self._conjugates else base._matmul(x)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self.base.reset_parameters(generator)

    @property
    def dtype(self) -> torch.dtype:
        return self._base.dtype

    @property
    def device(self) -> torch.device:
        return self._base.device


def _conjugated(multiply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Multiply by the entrywise conjugate of what ``multiply`` multiplies by."""
    # Resolved, because numpy and hand-written kernels do not know a conjugate that is only a flag.
    return multiply(x.conj().resolve_conj()).conj().resolve_conj()


def transpose(matrix: StructuredMatrix, *, conjugate: bool) -> StructuredMatrix:
    """The transpose, or the adjoint; transposing twice gives the matrix back."""
    if not isinstance(matrix, TransposedMatrix):
        return TransposedMatrix(matrix, conjugate)
    if matrix.conjugate == conjugate or not matrix.dtype.is_complex:
        return matrix.base
    if isinstance(matrix.base, TransposedMatrix):
        # Only the conjugates of a complex matrix nest, and never more than two deep.
        return TransposedMatrix(matrix.base.base, matrix.conjugate)
    return TransposedMatrix(matrix, conjugate)


@dataclass(frozen=True)
class Product(Structure):
    """Products of members of given structures: ``factors[0] @ factors[1] @ ...``, inner sizes ``inner``.

    Args:
        factors: structures from left to right, as the product is written.
        inner: the size between each two neighbours, ``len(factors) - 1`` numbers.
    """

    factors: tuple[Structure, ...]
    inner: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.inner:
            check_size("Product", "inner", size)
        if len(self.factors) != len(self.inner) + 1:
            reason = f"{len(self.factors)} factors need {len(self.factors) - 1} inner sizes"
            raise ArgumentError(
                complaint("Product", "inner", self.inner, reason, "pass one size between neighbours")
            )

    def shapes(self, m: int, n: int) -> tuple[tuple[int, int], ...]:
        """Shape of each factor of an ``m x n`` product."""
        sizes = (m, *self.inner, n)
        return tuple(pairwise(sizes))

    def check(self, m: int, n: int) -> None:
        for structure, shape in zip(self.factors, self.shapes(m, n), strict=True):
            structure.check(*shape)

    def num_params(self, m: int, n: int) -> int:
        return sum(s.num_params(*shape) for s, shape in zip(self.factors, self.shapes(m, n), strict=True))

    def flops(self, m: int, n: int) -> int:
        return sum(s.flops(*shape) for s, shape in zip(self.factors, self.shapes(m, n), strict=True))

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StructuredMatrix:
        self._admit(m, n, dtype)
        shapes = zip(self.factors, self.shapes(m, n), strict=True)
        return ProductMatrix([s.empty(*shape, dtype=dtype, device=device) for s, shape in shapes])


class CompoundMatrix(StructuredMatrix):
    """What products, sums and groups share: parts that hold the numbers."""

    parts: nn.ModuleList

    def __init__(
        self, structure: Structure, shape: tuple[int, int], parts: Sequence[StructuredMatrix]
    ) -> None:
        super().__init__(structure, shape)
        dtypes = [part.dtype for part in parts]
        if len({dtype.to_real() for dtype in dtypes}) != 1:
            way_out = "convert the parts to one precision, for example with A.to(dtype)"
            name = type(structure).__name__
            raise DtypeError(complaint(name, "dtypes", dtypes, "precisions do not mix", way_out))
        self.parts = nn.ModuleList(parts)

    @property
    def members(self) -> tuple[StructuredMatrix, ...]:
        """The parts, typed as what they are."""
        return tuple(cast(StructuredMatrix, part) for part in self.parts)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        for part in self.members:
            part.reset_parameters(generator)

    @property
    def dtype(self) -> torch.dtype:
        return reduce(torch.promote_types, (part.dtype for part in self.members))

    @property
    def device(self) -> torch.device:
        return self.members[0].device


class ProductMatrix(CompoundMatrix):
    """The product ``parts[0] @ parts[1] @ ...``, applied from the right."""

    def __init__(self, parts: Sequence[StructuredMatrix]) -> None:
        for left, right in pairwise(parts):
            if left.shape[1] != right.shape[0]:
                reason = f"{left.shape[1]} columns meet {right.shape[0]} rows"
                shapes = [p.shape for p in parts]
                raise ArgumentError(
                    complaint("A @ B", "shapes", shapes, reason, "make the inner sizes agree")
                )
        structure = Product(tuple(p.structure for p in parts), tuple(p.shape[1] for p in parts[:-1]))
        super().__init__(structure, (parts[0].shape[0], parts[-1].shape[1]), parts)

    def _matmul(self, x: Tensor) -> Tensor:
        for part in reversed(self.members):
            x = part(x)
        return x

    def _rmatmul(self, x: Tensor) -> Tensor:
        for part in self.members:
            x = part.rforward(x)
        return x


def product(*matrices: StructuredMatrix) -> StructuredMatrix:
    """The lazy product of matrices, left to right; nested products are flattened."""
    parts: list[StructuredMatrix] = []
    for matrix in matrices:
        parts.extend(matrix.members if isinstance(matrix, ProductMatrix) else [matrix])
    return parts[0] if len(parts) == 1 else ProductMatrix(parts)


@dataclass(frozen=True)
class Sum(Structure):
    """Sums of members of given structures, such as sparse plus low rank.

    Args:
        terms: the structures of the terms, all of the same shape.

    Example:
        >>> import kmatrix as km
        >>> km.Sum((km.Butterfly(), km.LowRank(rank=4))).random(16, 16).shape
        (16, 16)
    """

    terms: tuple[Structure, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.terms:
            raise ArgumentError(complaint("Sum", "terms", (), "empty", "pass at least one structure"))

    def check(self, m: int, n: int) -> None:
        for term in self.terms:
            term.check(m, n)

    def num_params(self, m: int, n: int) -> int:
        return sum(term.num_params(m, n) for term in self.terms)

    def flops(self, m: int, n: int) -> int:
        return sum(term.flops(m, n) for term in self.terms) + m * (len(self.terms) - 1)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StructuredMatrix:
        self._admit(m, n, dtype)
        return SumMatrix([term.empty(m, n, dtype=dtype, device=device) for term in self.terms])


class SumMatrix(CompoundMatrix):
    """The sum of ``parts``."""

    def __init__(self, parts: Sequence[StructuredMatrix]) -> None:
        shapes = [part.shape for part in parts]
        if len(set(shapes)) != 1:
            raise ArgumentError(
                complaint("A + B", "shapes", shapes, "they differ", "add matrices of one shape")
            )
        super().__init__(Sum(tuple(p.structure for p in parts)), shapes[0], parts)

    def _matmul(self, x: Tensor) -> Tensor:
        return reduce(torch.add, (part(x) for part in self.members))

    def _rmatmul(self, x: Tensor) -> Tensor:
        return reduce(torch.add, (part.rforward(x) for part in self.members))


def sum_of(*matrices: StructuredMatrix) -> StructuredMatrix:
    """The lazy sum of matrices of one shape; nested sums are flattened."""
    parts: list[StructuredMatrix] = []
    for matrix in matrices:
        parts.extend(matrix.members if isinstance(matrix, SumMatrix) else [matrix])
    return parts[0] if len(parts) == 1 else SumMatrix(parts)
