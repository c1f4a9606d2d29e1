"""The atom and the one operation: a Kronecker-sparse factor, and a vector multiplied by a chain of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Pattern(NamedTuple):
    """Support of a factor: the (a*b*d) x (a*c*d) matrices supported on I_a (x) ones(b, c) (x) I_d."""

    a: int
    b: int
    c: int
    d: int

    @property
    def rows(self) -> int:
        return self.a * self.b * self.d

    @property
    def cols(self) -> int:
        return self.a * self.c * self.d

    @property
    def numel(self) -> int:
        return self.a * self.b * self.c * self.d


def chain_matmul(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern] | None = None) -> Tensor:
    if patterns is None:
        patterns = [Pattern(*w.shape) for w in weights]
    for w, (a, b, c, d) in zip(weights, patterns, strict=True):
        grid = x.reshape(*x.shape[:-1], a, c, d)
        x = torch.einsum("abcd,...acd->...abd", w.expand(a, b, c, d), grid).reshape(*x.shape[:-1], a * b * d)
    return x
