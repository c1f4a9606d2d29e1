"""Permutations as products of two butterflies: the switches of a Benes network, set by index arrays."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import Index, bit_reversal
from kmatrix._permutations import inverse as inverse_permutation
from kmatrix.constructions._inputs import Array, ArrayLike, like, take_permutation
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kform import KForm, padded_size
from kmatrix.structures import Chain, ChainMatrix, Factor

Side = Literal["BB*", "B*B"]


def permutation(p: ArrayLike, *, side: Side = "BB*", dtype: torch.dtype | None = None) -> ChainMatrix:
    """Write any permutation as a product of two butterflies whose factors hold only 0 and 1.

    ``(P x)[i] = x[p[i]]`` and ``P = L R`` with ``L`` in B and ``R`` in B* (or the other way round): every 2
    x 2 block is the identity or a swap, so the product is exact in any number type and every factor is
    orthogonal. A size that is not a power of two is padded with fixed points. Costs O(n log^2 n) work on
    index arrays.

    Args:
        p: index array holding each of 0 .. n-1 once.
        side: ``"BB*"`` gives a K-matrix of width 1 and expansion 1; ``"B*B"`` gives a ``Chain`` whose
            strides grow first, the form that fits between a member of B and one of B*.
        dtype: number type; torch's default if not given.

    Returns:
        A matrix of shape ``(n, n)``.

    Raises:
        ArgumentError: if ``p`` is not a permutation, or ``side`` is unknown.

    Example:
        >>> import torch, kmatrix as km
        >>> P = km.constructions.permutation([2, 0, 1])
        >>> P @ torch.tensor([10.0, 20.0, 30.0])
        tensor([30., 10., 20.], grad_fn=<SliceBackward0>)

    Reference: arXiv 2012.14966, Theorem 2 and Lemma G.7. Instead of balancing columns (Lemma G.2) the
    switches come from two-colouring the loops of the Benes network, all blocks of a level at once; the
    factors are the same kind.
    """
    index = take_permutation("permutation", "p", p)
    n = index.size
    kind = like("permutation", dtype)
    size = padded_size(n, n)
    if side == "BB*":
        return KForm((n, n), permutation_halves(index, size)).matrix(kind)
    if side != "B*B":
        raise ArgumentError(complaint("permutation", "side", repr(side), "unknown", 'use "BB*" or "B*B"'))
    first, last = permutation_halves_reversed(index, size)
    twiddles = first.twiddles + last.twiddles
    structure = Chain(tuple(Factor(w.shape[0], 2, 2, w.shape[3]) for w in twiddles))
    weights = [torch.as_tensor(w).to(kind.dtype) for w in twiddles]
    return ChainMatrix.from_weights(structure, (n, n), weights)


def permutation_halves(p: Index, size: int) -> tuple[ButterflyFactors, ButterflyFactors]:
    """``x -> x[p]``, the points beyond ``p`` fixed, as a member of B* followed by one of B (Theorem 2)."""
    p = _padded(p, size)
    points = np.arange(size)
    first, last = [], []
    half = size // 2
    while half:
        upper = _two_colour(p, half)
        first.append(_switches(upper, half))
        last.append(_switches(upper[p], half))
        routed = np.empty_like(p)
        routed[(points & ~half) | (upper[p] * half)] = (p & ~half) | (upper[p] * half)
        p, half = routed, half // 2
    return ButterflyFactors(size, tuple(first)), ButterflyFactors(size, tuple(reversed(last)))


def permutation_halves_reversed(p: Index, size: int) -> tuple[ButterflyFactors, ButterflyFactors]:
    """``x -> x[p]`` as a member of B followed by one of B*: decompose between bit reversals (Lemma G.7)."""
    reverse = bit_reversal(size)
    first, last = permutation_halves(reverse[_padded(p, size)[reverse]], size)
    return first.bit_reversed(), last.bit_reversed()


def _padded(p: Index, size: int) -> Index:
    return np.concatenate([p, np.arange(p.size, size, dtype=np.int64)])


def _two_colour(p: Index, half: int) -> npt.NDArray[np.bool_]:
    """For every input, whether it passes through the upper of the two half networks of its block.

    The partners of a switch part ways: inputs ``j`` and ``j ^ half``, and the inputs of outputs ``i`` and
    ``i ^ half``. Following both constraints leads from an input to the next one of the same colour; these
    cycles come in pairs (of an input and of its partner), and the one with the smallest label takes the
    lower half.
    """
    following = p[inverse_permutation(p) ^ half] ^ half
    label = np.arange(p.size)
    length = 1
    while length < half:  # a cycle has at most ``half`` inputs; each round doubles the reach
        label = np.minimum(label, label[following])
        following = following[following]
        length *= 2
    upper: npt.NDArray[np.bool_] = label > label[np.arange(p.size) ^ half]
    return upper


def _switches(swap: npt.NDArray[np.bool_], half: int) -> Array:
    """The factor of stride ``half`` that swaps the pairs whose lower point is marked."""
    crossed = swap.reshape(-1, 2, half)[:, 0].astype(np.float64)
    straight = 1.0 - crossed
    return np.stack([np.stack([straight, crossed], axis=1), np.stack([crossed, straight], axis=1)], axis=1)
