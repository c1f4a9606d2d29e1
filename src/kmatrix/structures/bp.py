"""BP and BPBP: products of tied butterflies and permutations, learned (relaxed) or fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures._rotations import angles_per_block, haar_angles, rotations
from kmatrix.structures.base import Structure, StructuredMatrix, to_pairs
from kmatrix.structures.chain import (
    Chain,
    ChainMatrix,
    ChainStructure,
    Factor,
    Layout,
    Permute,
    PermuteKind,
    Stage,
)
from kmatrix.structures.kaleidoscope import butterfly_factors, power_of_two
from kmatrix.structures.permutation import BPPermutation, BPPermutationMatrix

Init = Literal["normal", "orthogonal"]


class _Modules(Structure):
    """What the learned and the fixed family share: ``depth`` modules of a power-of-two size."""

    depth: int
    expansion: int

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_size(name, "depth", self.depth)
        expansion = check_size(name, "expansion", self.expansion)
        if expansion & (expansion - 1):
            reason = "butterflies have a power-of-two size"
            raise ArgumentError(complaint(name, "expansion", expansion, reason, "use 1, 2, 4, ..."))

    def size(self, m: int, n: int) -> int:
        """Size of the modules of an ``m x n`` member."""
        # A 1 x 1 matrix still needs one number, so the smallest butterfly has two points.
        return max(2, self.expansion * power_of_two(max(m, n)))

    def butterfly(self, m: int, n: int) -> tuple[Factor, ...]:
        """The factors of one butterfly: growing strides, one block repeated in each."""
        factors = butterfly_factors(self.size(m, n), increasing=True)
        return tuple(Factor(f.a, f.b, f.c, f.d, tie="a") for f in factors)


@dataclass(frozen=True)
class BPBP(_Modules):
    """Products ``B_k P_k ... B_1 P_1`` of tied butterflies and learned permutations: BP, BPBP, (BP)^k_r.

    Each butterfly repeats one block per factor, ``4 N - 4`` numbers; each permutation is a
    ``BPPermutation`` with its ``3 (log2 N - 1)`` logits. ``N`` is ``expansion`` times the power of two that
    holds both sides: input and output are padded and cropped, which the counts show. The discrete Fourier
    and Hadamard transforms are members of depth 1, circulant matrices of depth 2; wrap in ``RealPart`` for
    the DCT and DST. After training, ``harden()`` fixes the permutations.

    Args:
        depth: how many modules; 1 is BP, 2 is BPBP.
        expansion: size of the modules as a multiple of the padded size, a power of two.
        tied_logits: one set of three logits per permutation instead of one per level.

    Raises:
        ArgumentError: if depth or expansion is not positive, or the expansion not a power of two.

    Example:
        >>> from kmatrix.structures import BPBP
        >>> BPBP(depth=2).num_params(1024, 1024)  # 2 (4 n - 4) and 2 * 3 * 9 logits
        8238

    Reference: Dao et al., arXiv 1903.05895, definition 1.
    """

    depth: int = 2
    expansion: int = 1
    tied_logits: bool = False

    @property
    def permutation(self) -> BPPermutation:
        """Structure of each permutation."""
        return BPPermutation(tied=self.tied_logits)

    def check(self, m: int, n: int) -> None:
        """Every shape has members."""

    def num_params(self, m: int, n: int) -> int:
        size = self.size(m, n)
        return self.depth * (4 * size - 4 + self.permutation.num_params(size, size))

    def flops(self, m: int, n: int) -> int:
        size = self.size(m, n)
        return self.depth * (Layout(self.butterfly(m, n)).flops + self.permutation.flops(size, size))

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> BPBPMatrix:
        return BPBPMatrix(self, (m, n), dtype=self._admit(m, n, dtype), device=device)


@dataclass(frozen=True)
class FixedBPBP(_Modules, ChainStructure):
    """Products ``B_k P_k ... B_1 P_1`` of tied butterflies and fixed permutations: an ordinary chain.

    Sizes are those of ``BPBP``; ``4 N - 4`` numbers per module.

    Args:
        depth: how many modules.
        expansion: size of the modules as a multiple of the padded size, a power of two.
        kind: the permutation of every module; ``"given"`` ones are the identity until they are set.

    Raises:
        ArgumentError: if depth or expansion is not positive, or the expansion not a power of two, or the
            kind unknown.

    Example:
        >>> from kmatrix.structures import FixedBPBP
        >>> FixedBPBP(depth=2).num_params(1024, 1024)
        8184

    Reference: Dao et al., arXiv 1903.05895, section 4.2.
    """

    depth: int = 2
    expansion: int = 1
    kind: PermuteKind = "bit_reversal"

    def __post_init__(self) -> None:
        super().__post_init__()
        Permute(1, self.kind)

    def layout(self, m: int, n: int) -> Layout:
        module: tuple[Stage, ...] = (Permute(self.size(m, n), self.kind), *self.butterfly(m, n))
        return Layout(module * self.depth)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> FixedBPBPMatrix:
        dtype = self._admit(m, n, dtype)
        return FixedBPBPMatrix(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


class FixedBPBPMatrix(ChainMatrix):
    """A product of tied butterflies and fixed permutations."""

    def reset_parameters(self, generator: torch.Generator | None = None, *, init: Init = "normal") -> None:
        """Twiddles drawn as those of ``BPBPMatrix.reset_parameters``; the permutations stay."""
        reset_twiddles(self, generator, init)


class BPBPMatrix(StructuredMatrix):
    """A product of tied butterflies and relaxed permutations, each permutation before its butterfly."""

    structure: BPBP

    def __init__(
        self,
        structure: BPBP,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape)
        self._size = structure.size(*shape)
        square = (self._size, self._size)
        butterfly = Chain(structure.butterfly(*shape))
        modules = range(structure.depth)
        self._permutations = nn.ModuleList(
            structure.permutation.empty(*square, dtype=dtype, device=device) for _ in modules
        )
        self._butterflies = nn.ModuleList(
            butterfly.empty(*square, dtype=dtype, device=device) for _ in modules
        )

    @property
    def permutations(self) -> tuple[BPPermutationMatrix, ...]:
        """The relaxed permutations, in order of application."""
        return tuple(cast(BPPermutationMatrix, p) for p in self._permutations)

    @property
    def butterflies(self) -> tuple[ChainMatrix, ...]:
        """The tied butterflies, in order of application."""
        return tuple(cast(ChainMatrix, b) for b in self._butterflies)

    @property
    def sharpness(self) -> Tensor:
        """How settled the least settled choice of the permutations is, from 0.5 to 1.

        Choices that the butterflies can undo, such as reversals of the smallest blocks, need not settle: round with
        ``harden()`` and polish the twiddles instead of waiting for 1.
        """
        return torch.stack([p.sharpness for p in self.permutations]).amin()

    def harden(self) -> FixedBPBPMatrix:
        """The same matrix with every permutation rounded: fixed permutations and a copy of the twiddles."""
        structure = FixedBPBP(self.structure.depth, self.structure.expansion, kind="given")
        hard = structure.empty(*self.shape, dtype=self.dtype, device=self.device)
        twiddles = [w for b in self.butterflies for w in b.factors]
        with torch.no_grad():
            for stored, twiddle in zip(hard.factors, twiddles, strict=True):
                stored.copy_(twiddle)
        hard.set_permutations([p.harden().index for p in self.permutations])
        return hard

    def _matmul(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, self._size - self.shape[1]))
        for p, b in zip(self.permutations, self.butterflies, strict=True):
            x = b(p(x))
        return x[..., : self.shape[0]]

    def _rmatmul(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, self._size - self.shape[0]))
        for p, b in zip(reversed(self.permutations), reversed(self.butterflies), strict=True):
            x = p.rforward(b.rforward(x))
        return x[..., : self.shape[1]]

    @property
    def dtype(self) -> torch.dtype:
        return self.butterflies[0].dtype

    @property
    def device(self) -> torch.device:
        return self.butterflies[0].device

    def reset_parameters(self, generator: torch.Generator | None = None, *, init: Init = "normal") -> None:
        """Logits N(0, 1); twiddles of mean square 1/2, or random orthogonal (unitary) blocks.

        Args:
            generator: source of randomness.
            init: ``"normal"``, or ``"orthogonal"``: every 2 x 2 block from the Haar measure of O(2) or U(2).
        """
        for p, b in zip(self.permutations, self.butterflies, strict=True):
            p.reset_parameters(generator)
            reset_twiddles(b, generator, init)


def reset_twiddles(butterfly: ChainMatrix, generator: torch.Generator | None, init: Init) -> None:
    """Redraw the 2 x 2 blocks of a chain: normal numbers of mean square 1/2, or Haar-distributed blocks."""
    if init == "normal":
        ChainMatrix.reset_parameters(butterfly, generator)
        return
    if init != "orthogonal":
        way_out = "use 'normal' or 'orthogonal'"
        raise ArgumentError(complaint("reset_parameters", "init", repr(init), "unknown", way_out))
    is_complex = butterfly.dtype.is_complex
    with torch.no_grad():
        for stored, f in zip(butterfly.factors, butterfly.layout.factors, strict=True):
            a, _, _, d = f.weight_shape
            real = stored.new_empty(a, d, angles_per_block(2, is_complex))
            haar_angles(real, 2, is_complex, generator)
            blocks = rotations(real, 2, is_complex)
            if not is_complex:
                signs = stored.new_empty(a, 1, d).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
                blocks[:, :, 0] *= signs
            stored.copy_(to_pairs(blocks))
