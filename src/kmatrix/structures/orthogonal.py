"""Orthogonal and unitary butterflies, and the orthogonal hierarchy OBB: factors computed from angles.

Whatever the numbers are, every factor is orthogonal up to rounding; nothing is projected back during
training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix._permutations import prime_factors
from kmatrix.structures._rotations import angles_per_block, haar_angles, rotations
from kmatrix.structures.base import Structure, empty_parameter, from_pairs, stored_dtype
from kmatrix.structures.chain import AbstractChainMatrix, Factor, Layout


class _OrthogonalChain(Structure):
    """What the two families share: the radices of the longer side, and whether blocks are unitary."""

    radices: tuple[int, ...] | None
    unitary: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for radix in self.radices or ():
            check_size(type(self).__name__, "radices", radix)

    def radices_for(self, m: int, n: int) -> tuple[int, ...]:
        """Radices of an ``m x n`` member, growing stride."""
        size = max(m, n)
        radices = self.radices or prime_factors(size) or (1,)
        if math.prod(radices) != size:
            reason = f"their product is not max(m, n) = {size}: padding would not stay orthogonal"
            way_out = "choose radices of that product, or leave them out"
            raise ArgumentError(complaint(type(self).__name__, "radices", radices, reason, way_out))
        return radices

    def check(self, m: int, n: int) -> None:
        self.radices_for(m, n)

    def butterfly(self, m: int, n: int, *, increasing: bool = True) -> tuple[Factor, ...]:
        """Factors of one butterfly, strides growing (class B) or shrinking (class B*)."""
        size, stride = max(m, n), 1
        factors = []
        for radix in self.radices_for(m, n):
            factors.append(Factor(size // (stride * radix), radix, radix, stride))
            stride *= radix
        return tuple(factors if increasing else factors[::-1])

    def angles(self, factor: Factor) -> tuple[int, int, int]:
        """Shape of the angles of a factor: groups, stride, angles per block."""
        return factor.a, factor.d, angles_per_block(factor.b, self.unitary)

    def count(self, layout: Layout) -> int:
        """Numbers of all the angles; two real ones make a complex one, rounded up."""
        total = sum(math.prod(self.angles(factor)) for factor in layout.factors)
        return -(-total // 2) if self.unitary else total

    def field(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype, or raise if it is not of the field of the blocks."""
        if dtype.is_complex == self.unitary:
            return dtype
        name = type(self).__name__
        if self.unitary:
            reason, way_out = "unitary matrices are complex", f"pass dtype=torch.complex64, or {name}()"
        else:
            reason, way_out = "its members are real", f"use {name}(unitary=True), or a real dtype"
        raise DtypeError(complaint(name, "dtype", dtype, reason, way_out))


@dataclass(frozen=True)
class OrthogonalButterfly(_OrthogonalChain):
    """Orthogonal matrices ``B_k ... B_1 diag(s)``: one factor of small orthogonal blocks per digit, fixed signs ``s``.

    A block of radix 2 is a rotation by one angle, so that a power of two takes ``n/2 log2 n`` numbers; one
    of radix r is the exponential of a skew matrix, ``r (r - 1) / 2`` numbers. A unitary block of radix 2
    takes four angles, one of radix r the ``r**2`` real numbers of a skew-Hermitian matrix; two real numbers
    count as a complex one. No size is padded, as padding and cropping would not stay orthogonal: a size
    with a large prime factor has large blocks. The signs make reflections reachable, and ``random`` draws
    them, so that it draws from O(n) and not from SO(n) alone; they are fixed in training. Blocks of radix
    other than 2 are computed in float32 in half precisions.

    A rectangular member is the corner of one of the longer side: its columns, or rows if it is wide, are
    orthonormal.

    Args:
        radices: sizes of the orthogonal blocks, in order of application, of product ``max(m, n)``; by
            default its prime factors. Larger ones, such as ``(16, 16, 4)``, give the blocks of butterfly
            fine-tuning.
        unitary: complex matrices with unitary blocks instead of real ones.

    Raises:
        ArgumentError: if the radices do not multiply to the longer side.
        DtypeError: if the dtype is complex for orthogonal or real for unitary blocks.

    Example:
        >>> from kmatrix.structures import OrthogonalButterfly
        >>> OrthogonalButterfly().num_params(1024, 1024)
        5120
        >>> import torch
        >>> A = OrthogonalButterfly().random(12, 12)
        >>> torch.allclose(A.T @ A.to_dense(), torch.eye(12), atol=1e-5)
        True

    Reference: arXiv 2012.14966, section 2.4 and appendix K; blocks of any size: BOFT, arXiv 2311.06243.
    """

    radices: tuple[int, ...] | None = None
    unitary: bool = False

    def layout(self, m: int, n: int) -> Layout:
        """The chain of an ``m x n`` member."""
        return Layout(self.butterfly(m, n))

    def num_params(self, m: int, n: int) -> int:
        return self.count(self.layout(m, n))

    def flops(self, m: int, n: int) -> int:
        return self.layout(m, n).flops

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> OrthogonalButterflyMatrix:
        dtype = self.field(self._admit(m, n, dtype))
        return OrthogonalButterflyMatrix(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


@dataclass(frozen=True)
class OBB(_OrthogonalChain):
    """The orthogonal hierarchy: products of ``width`` terms ``M1 D M2``, ``M1`` in B~, ``M2`` in B~*, ``D`` diagonal.

    ``D`` is free: real or complex, of any sign, singular if need be. Its signs are what makes reflections
    and permutations reachable from rotations, so it is never forced positive. A power of two takes ``n log2
    n + n`` numbers per term. The diagonals fold into the neighbouring factors and cost no operations.
    Blocks are as in ``OrthogonalButterfly``; nothing is padded. A rectangular member is the corner of one
    of the longer side.

    Args:
        width: how many terms.
        radices: sizes of the orthogonal blocks in order of growing stride, of product ``max(m, n)``; by
            default its prime factors.
        unitary: complex matrices with unitary blocks and complex diagonals instead of real ones.

    Raises:
        ArgumentError: if the radices do not multiply to the longer side, or the width is not positive.
        DtypeError: if the dtype is complex for orthogonal or real for unitary blocks.

    Example:
        >>> from kmatrix.structures import OBB
        >>> OBB().num_params(1024, 1024)
        11264
        >>> OBB(width=2).random(12, 7).shape
        (12, 7)

    Reference: arXiv 2012.14966, section 2.4 and appendix K.
    """

    width: int = 1
    radices: tuple[int, ...] | None = None
    unitary: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("OBB", "width", self.width)

    def layout(self, m: int, n: int) -> Layout:
        """The chain of an ``m x n`` member, diagonals folded."""
        term = self.butterfly(m, n, increasing=False) + self.butterfly(m, n)
        return Layout(term * self.width)

    def num_params(self, m: int, n: int) -> int:
        return self.count(self.layout(m, n)) + self.width * max(m, n)

    def flops(self, m: int, n: int) -> int:
        return self.layout(m, n).flops

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> OBBMatrix:
        dtype = self.field(self._admit(m, n, dtype))
        return OBBMatrix(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


class _OrthogonalChainMatrix(AbstractChainMatrix):
    """A chain whose factors are computed from real angles.

    Attributes:
        angles: one tensor ``(groups, stride, angles per block)`` per factor, in order of application.
    """

    def __init__(
        self,
        structure: _OrthogonalChain,
        shape: tuple[int, int],
        layout: Layout,
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape, layout, device=device)
        self._is_complex = dtype.is_complex
        real = dtype.to_real() if dtype.is_complex else dtype
        self.angles = nn.ParameterList(
            empty_parameter(structure.angles(f), real, device) for f in layout.factors
        )

    @property
    def blocks(self) -> list[Tensor]:
        """The factors without diagonals, ``(a, b, b, d)`` each, in order of application."""
        return [
            rotations(angles, f.b, self._is_complex)
            for angles, f in zip(self.angles, self.layout.factors, strict=True)
        ]

    @property
    def dtype(self) -> torch.dtype:
        return stored_dtype(type(self.structure).__name__, self.angles[0], self._is_complex)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.angles[0].device
        return device

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Every block drawn from the Haar measure."""
        for angles, f in zip(self.angles, self.layout.factors, strict=True):
            haar_angles(angles, f.b, self._is_complex, generator)


def _scale_columns(weight: Tensor, diagonal: Tensor) -> Tensor:
    """The factor times ``diag(diagonal)`` from the right."""
    a, _, c, d = weight.shape
    return weight * diagonal.reshape(a, 1, c, d)


class OrthogonalButterflyMatrix(_OrthogonalChainMatrix):
    """An orthogonal or unitary butterfly.

    Attributes:
        signs: the diagonal ``s`` of ones and minus ones that meets the vector first (a buffer).
    """

    signs: Tensor

    def __init__(
        self,
        structure: OrthogonalButterfly,
        shape: tuple[int, int],
        layout: Layout,
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape, layout, dtype=dtype, device=device)
        self.register_buffer("signs", torch.ones(layout.cols, dtype=self.angles[0].dtype, device=device))

    def check_state(self) -> None:
        if not bool((self.signs.abs() == 1).all()):
            reason, way_out = "not ones and minus ones", "use OBB for other diagonals"
            got = f"array({len(self.signs)},)"
            raise ArgumentError(complaint("OrthogonalButterfly", "signs", got, reason, way_out))

    @property
    def weights(self) -> tuple[Tensor, ...]:
        first, *rest = self.blocks
        return (_scale_columns(first, self.signs), *rest)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Every block drawn from the Haar measure, and random signs."""
        super().reset_parameters(generator)
        random_signs(self.signs, generator)


class OBBMatrix(_OrthogonalChainMatrix):
    """A member of the orthogonal hierarchy.

    Attributes:
        stored_diagonals: the diagonals ``D (width, n)`` as they are kept, real pairs if complex.
    """

    stored_diagonals: nn.Parameter

    def __init__(
        self,
        structure: OBB,
        shape: tuple[int, int],
        layout: Layout,
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape, layout, dtype=dtype, device=device)
        self.stored_diagonals = empty_parameter((structure.width, layout.cols), dtype, device)

    @property
    def diagonals(self) -> Tensor:
        """The diagonals ``D``, one row per term, the first applied first."""
        return from_pairs(self.stored_diagonals, self._is_complex)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        blocks, diagonals = self.blocks, self.diagonals
        levels = len(blocks) // (2 * len(diagonals))
        for term, diagonal in enumerate(diagonals):
            middle = (2 * term + 1) * levels
            blocks[middle] = _scale_columns(blocks[middle], diagonal)
        return tuple(blocks)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Every block drawn from the Haar measure, diagonals of random signs: an orthogonal start."""
        super().reset_parameters(generator)
        with torch.no_grad():
            self.stored_diagonals.zero_()
        random_signs(self.diagonals.real if self._is_complex else self.diagonals, generator)


def random_signs(out: Tensor, generator: torch.Generator | None) -> None:
    """Fill with ones and minus ones, each with probability one half."""
    with torch.no_grad():
        out.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
