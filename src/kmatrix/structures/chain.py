"""Structures that are rules writing a chain: products of Kronecker-sparse factors and fixed permutations.

``ChainStructure`` is a family given by a rule that writes a ``Layout``, and ``ChainMatrix`` holds the numbers of
a member. Stages are listed in order of application: the first hits the vector first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from kmatrix import _permutations
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops import Pattern
from kmatrix.ops.apply import kind_of_call, repeated
from kmatrix.ops.autograd import multiply_watched
from kmatrix.structures.abstract_chain import AbstractChainMatrix as AbstractChainMatrix
from kmatrix.structures.base import Structure, empty_parameter, fill_normal, plus, stored_dtype, to_pairs
from kmatrix.structures.layout import Factor as Factor
from kmatrix.structures.layout import Layout as Layout
from kmatrix.structures.layout import Permute as Permute
from kmatrix.structures.layout import PermuteKind as PermuteKind
from kmatrix.structures.layout import Stage as Stage
from kmatrix.structures.layout import Tie as Tie

# Patterns, names of permutations, whether nothing surrounds the product, and its kinds without and with a bias.
Lane = tuple[tuple[Pattern, ...], tuple[str, ...], bool, int, int]


class ChainStructure(Structure):
    """A family given by a rule that writes a chain for every shape it admits.

    Where the chain is larger than ``m x n``, the input is padded with zeros and the output cropped; the
    counts are those of the larger chain.
    """

    @abstractmethod
    def layout(self, m: int, n: int) -> Layout:
        """The chain of an ``m x n`` member."""

    def check(self, m: int, n: int) -> None:
        layout = self.layout(m, n)
        if layout.rows < m or layout.cols < n:
            reason = f"the chain is {layout.rows} x {layout.cols}, too small for {m} x {n}"
            raise ArgumentError(
                complaint(type(self).__name__, "(m, n)", (m, n), reason, "use a larger chain")
            )

    def num_params(self, m: int, n: int) -> int:
        return self.layout(m, n).num_params

    def flops(self, m: int, n: int) -> int:
        return self.layout(m, n).flops

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ChainMatrix:
        dtype = self._admit(m, n, dtype)
        return ChainMatrix(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


class ChainMatrix(AbstractChainMatrix):
    """A chain whose weights are free parameters.

    Attributes:
        factors: the stored weights in order of application, real pairs if complex.
    """

    def __init__(
        self,
        structure: Structure,
        shape: tuple[int, int],
        layout: Layout,
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape, layout, device=device)
        self._is_complex = dtype.is_complex
        self.factors = nn.ParameterList(
            empty_parameter(f.weight_shape, dtype, device) for f in layout.factors
        )
        self._names = tuple([str(k) for k in range(len(layout.factors))])
        self._lane = self._lane_of(layout)
        # A chain of permutations alone has no parameter to ask for its dtype.
        real = dtype.to_real() if dtype.is_complex else dtype
        self.register_buffer("_like", torch.empty(0, dtype=real, device=device), persistent=False)

    @classmethod
    def from_weights(
        cls,
        structure: ChainStructure,
        shape: tuple[int, int],
        weights: Sequence[Tensor],
        permutations: Sequence[Tensor | _permutations.Index] = (),
    ) -> ChainMatrix:
        """Make a member from given numbers.

        Args:
            structure: the family; ``structure.layout(*shape)`` says what is expected.
            shape: ``(m, n)``.
            weights: one tensor per factor, in order of application, of shape ``weight_shape``.
            permutations: one index array per permutation stage, in order of application; all or none.

        Raises:
            ArgumentError: if a number or shape does not fit the layout, or an index is not a permutation.
        """
        dtype = weights[0].dtype if weights else torch.get_default_dtype()
        device = weights[0].device if weights else None
        if any(w.dtype != dtype for w in weights):
            dtypes = [w.dtype for w in weights]
            way_out = "convert them to one dtype"
            raise DtypeError(complaint("from_weights", "weights", dtypes, "their dtypes differ", way_out))
        matrix = structure.empty(*shape, dtype=dtype, device=device)
        expected = [f.weight_shape for f in matrix.layout.factors]
        if [tuple(w.shape) for w in weights] != expected:
            got = [tuple(w.shape) for w in weights]
            way_out = "pass one weight (a, b, c, d) per factor in order of application"
            raise ArgumentError(complaint("from_weights", "weights", got, f"expected {expected}", way_out))
        with torch.no_grad():
            for stored, weight in zip(matrix.factors, weights, strict=True):
                stored.copy_(to_pairs(weight))
        if permutations:
            matrix.set_permutations(permutations)
        return matrix

    def set_permutations(self, permutations: Sequence[Tensor | _permutations.Index]) -> None:
        """Replace the index arrays of the permutation stages, all of them, in order of application."""
        stages = self._permutes
        if len(stages) != len(permutations):
            reason = f"the chain has {len(stages)} permutations"
            raise ArgumentError(
                complaint("ChainMatrix", "permutations", len(permutations), reason, "pass one each")
            )
        for k, (stage, given) in enumerate(zip(stages, permutations, strict=True)):
            index = np.ascontiguousarray(given.cpu() if isinstance(given, Tensor) else given, dtype=np.int64)
            if index.shape != (stage.n,) or not _permutations.is_permutation(index):
                reason = f"not a permutation of 0..{stage.n - 1}"
                raise ArgumentError(
                    complaint(
                        "ChainMatrix",
                        f"permutations[{k}]",
                        f"array{index.shape}",
                        reason,
                        "pass each index once",
                    )
                )
            self.permutation(k).copy_(torch.as_tensor(index, device="cpu"))

    def _lane_of(self, layout: Layout) -> Lane | None:
        """What a product is recognised by, of a chain that is one run with a permutation at each end at most."""
        runs = [isinstance(run, int) for run in layout.runs]
        own = (
            type(self)._matmul is not AbstractChainMatrix._matmul
            or type(self).weights is not ChainMatrix.weights
        )
        if own or runs.count(False) != 1 or len(runs) > 3:
            return None
        before, behind = runs[0], len(runs) > 1 and runs[-1]
        if len(runs) != before + 1 + behind:
            return None
        permutations = tuple([f"permutation_{k}" for k in range(before + behind)])
        kinds = [
            kind_of_call(
                layout.patterns,
                self.shape[1],
                gather=before,
                take=behind,
                bias=bias,
                rows=self.shape[0],
                pairs=self._is_complex,
            )
            for bias in (False, True)
        ]
        bare = not permutations and (layout.rows, layout.cols) == self.shape
        return layout.patterns, permutations, bare, kinds[0], kinds[1]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        # A product that ran before needs no questions: a record tells all of them at once.
        if self._lane is not None and not torch.compiler.is_dynamo_compiling():
            y = self._repeated(x, bias)
            if y is not None:
                return y
        return super().forward(x, bias)

    def _repeated(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """The product, if one like it ran before."""
        patterns, permutations, bare, kind, kind_with_bias = cast(Lane, self._lane)
        weights = self._stored
        others: tuple[Tensor, ...] = ()
        if permutations:
            others = tuple([cast(Tensor, self._buffers[name]) for name in permutations])
        if bias is not None and not torch.is_grad_enabled():
            again = repeated(x, weights, patterns, (*others, bias), kind_with_bias)
            return again if isinstance(again, Tensor) else None
        again = repeated(x, weights, patterns, others, kind)
        if again is None or (not bare and not isinstance(again, Tensor)):
            return None  # autograd knows products, not what surrounds them
        y = again if isinstance(again, Tensor) else multiply_watched(x, self.weights, again)
        return y if bias is None else plus(y, bias)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        stored = self._stored
        return tuple([torch.view_as_complex(p) for p in stored]) if self._is_complex else stored

    @property
    def _held(self) -> tuple[tuple[Tensor, ...], bool]:
        # A class below this one may make its weights of the parameters.
        return (
            (self._stored, self._is_complex) if type(self).weights is ChainMatrix.weights else super()._held
        )

    @property
    def _stored(self) -> tuple[Tensor, ...]:
        # A ParameterList takes longer than a small product. Read past it, unless something else stands for a
        # parameter (a parametrization, a pruned weight); the compiler sees through the list.
        if not torch.compiler.is_compiling():
            named = cast("dict[str, Tensor]", self._modules["factors"]._parameters)  # type: ignore[union-attr]
            if tuple(named) == self._names:
                return tuple(named.values())
        return tuple(self.factors)

    @property
    def _first(self) -> Tensor | None:
        """The first stored weight, None if there is none."""
        if not torch.compiler.is_compiling():
            first = self._modules["factors"]._parameters.get("0")  # type: ignore[union-attr]
            if first is not None:
                return first
        return cast(Tensor, self.factors[0]) if self._names else None

    @property
    def dtype(self) -> torch.dtype:
        # Not the buffer where there are weights: load_state_dict(assign=True) replaces only those.
        first = self._first
        stored = self.get_buffer("_like") if first is None else first
        return stored_dtype(type(self.structure).__name__, stored, self._is_complex)

    @property
    def device(self) -> torch.device:
        first = self._first
        return (self.permutation(0) if first is None else first).device

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Normal numbers of the spectral scale, std = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in)."""
        for stored, std in zip(self.factors, spectral_scales(self.layout), strict=True):
            fill_normal(stored, std, self._is_complex, generator)


def spectral_scales(layout: Layout) -> Iterator[float]:
    """Standard deviation per factor at which its spectral norm is about sqrt(fan_out / fan_in)."""
    for f in layout.factors:
        yield min(1.0, (f.b / f.c) ** 0.5) / f.c**0.5


@dataclass(frozen=True)
class Chain(ChainStructure):
    """An explicit chain: the deformable butterfly, and whatever a search found.

    Args:
        stages: factors and permutations in order of application; neighbours must agree in size.

    Example:
        >>> import kmatrix as km
        >>> s = km.Chain((km.Factor(1, 8, 2, 3), km.Factor(4, 5, 6, 1)))
        >>> s.random(20, 6).shape
        (20, 6)
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise ArgumentError(
                complaint("Chain", "stages", (), "empty", "pass at least one Factor or Permute")
            )
        Layout(self.stages)

    def layout(self, m: int, n: int) -> Layout:
        return Layout(self.stages)
