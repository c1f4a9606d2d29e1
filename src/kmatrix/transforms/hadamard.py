"""Exact Walsh-Hadamard matrices as learnable chains, in the natural and in the sequency order."""

from __future__ import annotations

import numpy as np
import torch

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import bit_reversal
from kmatrix.structures import ChainMatrix
from kmatrix.transforms._draft import Draft
from kmatrix.transforms._requests import EXPONENT, Norm, check_norm, number_dtype


def hadamard(
    n: int,
    *,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the Walsh-Hadamard matrix in natural order: ``H_1 = 1``, ``H_2n = [[H_n, H_n], [H_n, -H_n]]``.

    A butterfly of radix 2 without permutation: ``2 n log2 n`` numbers, all 1 or -1. Symmetric,
    ``H H = n I``: its inverse is ``hadamard(n, norm="forward")``.

    Args:
        n: size, a power of two.
        norm: ``"backward"`` leaves it as above, ``"ortho"`` divides by ``sqrt(n)``, ``"forward"`` by ``n``;
            spread evenly over the factors.
        tied: store the one block that a factor repeats once: 4 numbers per factor.
        dtype: any number type; torch's default if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n`` is not a power of two, or the norm is none of the three.

    Example:
        >>> from kmatrix import transforms
        >>> transforms.hadamard(4).to_dense().int().tolist()
        [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
        >>> transforms.hadamard(1024).num_params
        20480

    Reference: arXiv 2012.14966, lemma J.2.
    """
    n = _power_of_two("hadamard", n)
    return _hadamard("hadamard", n, norm).build((n, n), number_dtype("hadamard", dtype), device, tied=tied)


def walsh(
    n: int,
    *,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the Walsh matrix: the rows of ``hadamard(n)`` by sequency, row k changing its sign k times.

    The factors of ``hadamard`` and one permutation of the outputs, Gray code followed by bit reversal; as
    many numbers. Symmetric, ``W W = n I``.

    Args:
        n: size, a power of two.
        norm: as for ``hadamard``.
        tied: store the one block that a factor repeats once.
        dtype: any number type; torch's default if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n`` is not a power of two, or the norm is none of the three.

    Example:
        >>> from kmatrix import transforms
        >>> transforms.walsh(4).to_dense().int().tolist()
        [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]]

    Reference: Fino and Algazi, IEEE Trans. Comput. 25 (1976) 1142.
    """
    n = _power_of_two("walsh", n)
    draft = _hadamard("walsh", n, norm)
    gray = np.arange(n) ^ (np.arange(n) >> 1)
    return draft.writing(bit_reversal(n)[gray]).build((n, n), number_dtype("walsh", dtype), device, tied=tied)


def _power_of_two(where: str, n: int) -> int:
    n = check_size(where, "n", n)
    if n & (n - 1):
        near = 1 << (n.bit_length() - 1)
        way_out = f"use {near} or {2 * near}, or another transform"
        raise ArgumentError(complaint(where, "n", n, "not a power of two", way_out))
    return n


def _hadamard(where: str, n: int, norm: Norm | None) -> Draft:
    exponent = EXPONENT[check_norm(where, norm)]
    block = np.array([[1.0, 1.0], [1.0, -1.0]])[None, :, :, None] * 2.0**exponent
    stages = n.bit_length() - 1
    factors = [np.broadcast_to(block, (n >> (k + 1), 2, 2, 1 << k)) for k in range(stages)]
    return Draft(tuple(factors) or (np.ones((1, 1, 1, 1)),))
