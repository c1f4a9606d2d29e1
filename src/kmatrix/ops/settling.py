"""A chain whose numbers are settled, for one vector at a time: the same product with fewer numbers to read.

One vector uses every weight once, so its time is that of reading them. Here go what multiplies padding, what makes
entries that are cropped, and one of two neighbouring factors of the same small blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix.ops.definition import Patterns
from kmatrix.ops.ends import Ends
from kmatrix.ops.merging import merge_factors
from kmatrix.ops.native_layout import HALF

_SMALL = 16  # blocks up to this size are multiplied out with their likes


def settled_for_one(
    weights: list[Tensor], patterns: Patterns, ends: Ends
) -> tuple[list[Tensor], Patterns, Ends]:
    """The same chain with as few numbers as can be had for nothing.

    Example:
        >>> import torch
        >>> from kmatrix.ops.definition import Pattern
        >>> p, ends = Pattern(2, 2, 2, 1), Ends(4, 4, None, None, None, ())
        >>> settled_for_one([torch.ones(p), torch.ones(p)], (p, p), ends)[1]
        (Pattern(a=2, b=2, c=2, d=1),)
    """
    weights, patterns = _merged(weights, patterns)
    return _without_crop(*_without_padding(weights, patterns, ends))


def _merged(weights: list[Tensor], patterns: Patterns) -> tuple[list[Tensor], Patterns]:
    """Neighbours with small square blocks of one pattern multiplied out: as many numbers as one of them has."""
    if weights[0].dtype in HALF:  # whose products would be rounded once more
        return weights, patterns
    kept, left = weights[:1], list(patterns[:1])
    for weight, pattern in zip(weights[1:], patterns[1:], strict=True):
        last = kept[-1]
        if pattern == left[-1] and pattern.b == pattern.c <= _SMALL and weight.shape == last.shape:
            kept[-1] = merge_factors(last, pattern, weight, pattern)[0].contiguous()
        else:
            kept.append(weight)
            left.append(pattern)
    return kept, tuple(left)


def _without_padding(
    weights: list[Tensor], patterns: Patterns, ends: Ends
) -> tuple[list[Tensor], Patterns, Ends]:
    """Zeros behind the vector are left away with the weights that they meet, where those are whole columns."""
    first, n = patterns[0], ends.n_in
    if ends.gather is None or first.a > 1 or n >= first.cols or n % first.d:
        return weights, patterns, ends
    padded = torch.full((first.cols,), -1, dtype=ends.gather.dtype, device=ends.gather.device)
    padded[:n] = torch.arange(n)
    if not torch.equal(ends.gather, padded):
        return weights, patterns, ends
    fewer = first._replace(c=n // first.d)
    kept = [weights[0][:, :, : fewer.c].contiguous(), *weights[1:]]
    return kept, (fewer, *patterns[1:]), Ends(n, ends.n_out, None, ends.take, ends.bias, ends.sources)


def _without_crop(
    weights: list[Tensor], patterns: Patterns, ends: Ends
) -> tuple[list[Tensor], Patterns, Ends]:
    """Entries behind the product are not computed, where they are whole rows of blocks."""
    last, n = patterns[-1], ends.n_out
    if ends.take is None or last.a > 1 or n >= last.rows or n % last.d:
        return weights, patterns, ends
    if not torch.equal(ends.take, torch.arange(n, dtype=ends.take.dtype, device=ends.take.device)):
        return weights, patterns, ends
    fewer = last._replace(b=n // last.d)
    kept = [*weights[:-1], weights[-1][:, : fewer.b].contiguous()]
    return kept, (*patterns[:-1], fewer), Ends(ends.n_in, n, ends.gather, None, ends.bias, ends.sources)
