"""What a chain is and what multiplying by it means, in plain torch.

``Pattern`` says which matrices a factor may be; ``reference_chain_matmul`` is the definition every backend is
held to. Nothing here knows about backends, operators or speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix._checks import DTYPES, check_dtype
from kmatrix._errors import ArgumentError, DtypeError, complaint


class Pattern(NamedTuple):
    """Support of a factor: the (a*b*d) x (a*c*d) matrices supported on ``I_a (x) ones(b, c) (x) I_d``.

    Rows are indexed ``(a, b, d)`` and columns ``(a, c, d)``, the last index fastest: ``a`` independent
    groups, each a ``b x c`` grid of ``d x d`` diagonal blocks.

    Example:
        >>> Pattern(2, 3, 4, 5).rows, Pattern(2, 3, 4, 5).cols, Pattern(2, 3, 4, 5).numel
        (30, 40, 120)
    """

    a: int
    b: int
    c: int
    d: int

    @property
    def rows(self) -> int:
        """Length of the vectors a factor of this pattern returns."""
        return self.a * self.b * self.d

    @property
    def cols(self) -> int:
        """Length of the vectors a factor of this pattern takes."""
        return self.a * self.c * self.d

    @property
    def numel(self) -> int:
        """How many entries of the factor may be nonzero."""
        return self.a * self.b * self.c * self.d

    @property
    def transposed(self) -> Pattern:
        """The pattern of the transposed factor."""
        return Pattern(self.a, self.c, self.b, self.d)


Patterns = tuple[Pattern, ...]


def reference_chain_matmul(
    x: Tensor, weights: Sequence[Tensor], patterns: Sequence[tuple[int, int, int, int]] | None = None
) -> Tensor:
    """Multiply by a chain, one factor after the other: the definition, differentiable in every way.

    A tied weight has size 1 along ``a`` or ``d`` and is broadcast there. Arguments as in ``chain_matmul``,
    unchecked.

    Example:
        >>> reference_chain_matmul(torch.ones(6), [torch.ones(2, 1, 3, 1)])
        tensor([3., 3.])
    """
    shapes = [w.shape for w in weights] if patterns is None else patterns
    for w, (a, b, c, d) in zip(weights, shapes, strict=True):
        grid = x.reshape(*x.shape[:-1], a, c, d)
        x = torch.einsum("abcd,...acd->...abd", w, grid).reshape(*x.shape[:-1], a * b * d)
    return x


def flatten_patterns(patterns: Sequence[Sequence[int]]) -> list[int]:
    """Patterns as the flat list of integers that the operators take."""
    return [size for pattern in patterns for size in pattern]


def unflatten_patterns(flat: Sequence[int]) -> Patterns:
    """The inverse of ``flatten_patterns``."""
    return tuple([Pattern(*flat[i : i + 4]) for i in range(0, len(flat), 4)])


def check_weights(where: str, weights: Sequence[Tensor], patterns: Patterns) -> None:
    """Raise unless there is one weight for each pattern, of its shape up to tying."""
    if len(weights) != len(patterns):
        way_out = f"pass one pattern for each of the {len(weights)} weights"
        raise ArgumentError(
            complaint(where, "patterns", list(patterns), f"there are {len(patterns)}", way_out)
        )
    for i, (w, (a, b, c, d)) in enumerate(zip(weights, patterns, strict=True)):
        shape = w.shape
        if len(shape) == 4 and shape[0] in (1, a) and shape[3] in (1, d) and shape[1:3] == (b, c):
            continue
        reason = f"does not fit the pattern (a, b, c, d) = {(a, b, c, d)}"
        way_out = "pass a weight of that shape, with size 1 along a or d where it is tied"
        raise ArgumentError(complaint(where, f"weights[{i}].shape", tuple(shape), reason, way_out))


def check_numbers(where: str, x: Tensor, weights: Sequence[Tensor], *, x_is: str = "x") -> None:
    """Raise unless the number type of ``x`` is usable, and every weight has it and lies on the same device."""
    dtype, device = x.dtype, x.device
    if dtype not in DTYPES:
        check_dtype(f"{where}: {x_is}", dtype)
    for i, w in enumerate(weights):
        if w.dtype != dtype or w.device != device:
            check_alike(where, f"weights[{i}]", w, x, x_is=x_is)


def check_alike(where: str, name: str, tensor: Tensor, x: Tensor, *, x_is: str = "x") -> None:
    """Raise unless a tensor has the number type and the device of ``x``, which the message calls ``x_is``."""
    if tensor.dtype != x.dtype:
        way_out = f"convert one: {name}.to({x.dtype}) or {x_is}.to({tensor.dtype})"
        raise DtypeError(complaint(where, f"{name}.dtype", tensor.dtype, f"{x_is} has {x.dtype}", way_out))
    if tensor.device != x.device:
        reason, way_out = f"{x_is} is on {x.device}", "move one to the other"
        raise ArgumentError(complaint(where, f"{name}.device", tensor.device, reason, way_out))


def check_sizes(where: str, x: Tensor, patterns: Patterns) -> None:
    """Raise unless each factor takes what comes before it, the first the last dimension of ``x``."""
    size = x.shape[-1]
    for i, (a, b, c, d) in enumerate(patterns):
        if size != a * c * d:
            raise _misfit(where, x, patterns, i, size)
        size = a * b * d


def _misfit(where: str, x: Tensor, patterns: Patterns, i: int, size: int) -> ArgumentError:
    pattern = patterns[i]
    if i == 0:
        reason = f"the last dimension must be a*c*d={pattern.cols} of the first pattern {tuple(pattern)}"
        way_out = f"pass x of shape (*, {pattern.cols})"
        return ArgumentError(complaint(where, "x.shape", tuple(x.shape), reason, way_out))
    reason = f"takes vectors of length a*c*d={pattern.cols}, but factor {i - 1} returns length a*b*d={size}"
    way_out = "list the factors in order of application: weights[0] is applied first"
    return ArgumentError(complaint(where, f"patterns[{i}]", tuple(pattern), reason, way_out))
