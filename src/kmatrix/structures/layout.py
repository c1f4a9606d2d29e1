"""What a chain is for one shape: its stages, factors and fixed permutations, in order of application.

A ``Layout`` holds sizes and no numbers; ``ChainMatrix`` holds the numbers that go with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from kmatrix import _permutations
from kmatrix._checks import check_size, freeze_fields
from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops import Pattern

Tie = Literal["", "a", "d", "ad"]
PermuteKind = Literal["given", "stride", "bit_reversal", "reverse"]


@dataclass(frozen=True)
class Factor:
    """A Kronecker-sparse factor of pattern ``(a, b, c, d)``, its weights tied over ``a``, ``d``, or both."""

    a: int
    b: int
    c: int
    d: int
    tie: Tie = ""

    def __post_init__(self) -> None:
        for name in ("a", "b", "c", "d"):
            check_size("Factor", name, getattr(self, name))
        if self.tie not in get_args(Tie):
            way_out = f"use one of {get_args(Tie)}"
            raise ArgumentError(complaint("Factor", "tie", repr(self.tie), "unknown", way_out))

    @property
    def pattern(self) -> Pattern:
        return Pattern(self.a, self.b, self.c, self.d)

    @property
    def rows(self) -> int:
        return self.a * self.b * self.d

    @property
    def cols(self) -> int:
        return self.a * self.c * self.d

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (1 if "a" in self.tie else self.a, self.b, self.c, 1 if "d" in self.tie else self.d)


@dataclass(frozen=True)
class Permute:
    """A fixed permutation of ``n`` positions, ``y = x[index]``.

    ``kind`` says which index a new member starts with: ``"given"`` the identity until one is supplied,
    ``"stride"`` the perfect shuffle of ``(k, n/k)``, ``"bit_reversal"``, ``"reverse"`` the flip.
    """

    n: int
    kind: PermuteKind = "given"
    k: int = 1

    def __post_init__(self) -> None:
        check_size("Permute", "n", self.n)
        check_size("Permute", "k", self.k)
        if self.kind not in get_args(PermuteKind):
            way_out = f"use one of {', '.join(get_args(PermuteKind))}"
            raise ArgumentError(complaint("Permute", "kind", repr(self.kind), "unknown", way_out))
        if self.kind == "stride" and self.n % self.k:
            reason = f"does not divide n={self.n}"
            raise ArgumentError(complaint("Permute", "k", self.k, reason, "choose a divisor of n"))
        if self.kind == "bit_reversal" and self.n & (self.n - 1):
            way_out = "use a kind that has every size"
            raise ArgumentError(complaint("Permute", "n", self.n, "not a power of two", way_out))

    @property
    def rows(self) -> int:
        return self.n

    @property
    def cols(self) -> int:
        return self.n

    def index(self) -> _permutations.Index:
        """The index array a new member starts with."""
        if self.kind == "stride":
            return _permutations.stride(self.k, self.n)
        if self.kind == "bit_reversal":
            return _permutations.bit_reversal(self.n)
        identity = np.arange(self.n, dtype=np.int64)
        return identity[::-1].copy() if self.kind == "reverse" else identity


Stage = Factor | Permute


@dataclass(frozen=True)
class Layout:
    """A chain for one shape: its stages in order of application.

    Attributes:
        factors: the stages that are factors.
        patterns: their patterns.
        runs: maximal runs of factors as ``(start, stop)`` into ``factors``; permutations by their own count.
    """

    stages: tuple[Stage, ...]
    # Computed at once and not on demand: a cached_property stops torch.compile before Python 3.12.
    factors: tuple[Factor, ...] = field(init=False, repr=False, compare=False)
    patterns: tuple[Pattern, ...] = field(init=False, repr=False, compare=False)
    runs: tuple[tuple[int, int] | int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        freeze_fields(self)
        for first, second in pairwise(self.stages):
            if first.rows != second.cols:
                reason = f"{first} gives {first.rows} values but {second} takes {second.cols}"
                way_out = "make the sizes of neighbouring stages agree"
                raise ArgumentError(complaint("Layout", "stages", len(self.stages), reason, way_out))
        factors = tuple(stage for stage in self.stages if isinstance(stage, Factor))
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "patterns", tuple(f.pattern for f in factors))
        object.__setattr__(self, "runs", tuple(_runs(self.stages)))

    @property
    def rows(self) -> int:
        return self.stages[-1].rows

    @property
    def cols(self) -> int:
        return self.stages[0].cols

    @property
    def num_params(self) -> int:
        return sum(math.prod(f.weight_shape) for f in self.factors)

    @property
    def flops(self) -> int:
        return sum(2 * f.pattern.numel for f in self.factors)


def _runs(stages: Iterable[Stage]) -> Iterator[tuple[int, int] | int]:
    start = stop = permutations = 0
    for stage in stages:
        if isinstance(stage, Factor):
            stop += 1
            continue
        if stop > start:
            yield start, stop
        start = stop
        yield permutations
        permutations += 1
    if stop > start:
        yield start, stop


def transposed_chain(
    weights: Sequence[Tensor], patterns: Sequence[Pattern]
) -> tuple[tuple[Tensor, ...], tuple[Pattern, ...]]:
    """The chain of the plain transpose: views of the weights and their patterns, in its order of application."""
    return (
        tuple([w.transpose(1, 2) for w in reversed(weights)]),
        tuple([Pattern(a, c, b, d) for a, b, c, d in reversed(patterns)]),
    )
