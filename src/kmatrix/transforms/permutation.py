"""Permutations as matrices: chains of one fixed index, with nothing to learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kmatrix import _permutations
from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures import Chain, ChainMatrix, Permute
from kmatrix.transforms._requests import Numbers, number_dtype


def permutation(
    p: Numbers, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> ChainMatrix:
    """Make the matrix of ``y = x[p]``, ``P[i, p[i]] = 1``.

    No parameters and no operations; its transpose is the inverse permutation. (As a product of butterflies,
    which can be learned from, it is ``kmatrix.constructions.permutation``.)

    Args:
        p: each of ``0 .. n-1`` once.
        dtype: any number type; torch's default if not given.
        device: where the index lives.

    Raises:
        ArgumentError: if ``p`` is not a permutation.

    Example:
        >>> import torch
        >>> from kmatrix import transforms
        >>> P = transforms.permutation([2, 0, 1])
        >>> P @ torch.tensor([10., 20., 30.]), P.num_params
        (tensor([30., 10., 20.]), 0)

    Reference: arXiv 2012.14966, section 2.
    """
    index = np.asarray(p.detach().cpu() if isinstance(p, Tensor) else p)
    whole = index.ndim == 1 and index.size > 0 and index.dtype.kind in "iu"
    if not whole or not _permutations.is_permutation(index.astype(np.int64)):
        way_out = "pass each index exactly once"
        raise ArgumentError(
            complaint("permutation", "p", f"array{index.shape}", "not a permutation of 0..n-1", way_out)
        )
    matrix = _of(Permute(index.size), number_dtype("permutation", dtype), device)
    matrix.set_permutations([index.astype(np.int64)])
    return matrix


def bit_reversal(
    n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> ChainMatrix:
    """Make the bit reversal of ``n = 2**k`` positions, its own inverse: the input order of the radix-2 FFT.

    Args:
        n: size, a power of two.
        dtype: any number type; torch's default if not given.
        device: where the index lives.

    Raises:
        ArgumentError: if ``n`` is not a power of two.

    Example:
        >>> import torch
        >>> from kmatrix import transforms
        >>> (transforms.bit_reversal(8) @ torch.arange(8.)).int().tolist()
        [0, 4, 2, 6, 1, 5, 3, 7]

    Reference: arXiv 2012.14966, lemma J.1.
    """
    n = check_size("bit_reversal", "n", n)
    _permutations.bit_reversal(n)  # complains in the name of this function
    return _of(Permute(n, "bit_reversal"), number_dtype("bit_reversal", dtype), device)


def stride(
    k: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> ChainMatrix:
    """Make the stride permutation (perfect shuffle): view as ``(k, n/k)``, transpose, flatten.

    Its inverse is ``stride(n // k, n)``.

    Args:
        k: a divisor of ``n``.
        n: size.
        dtype: any number type; torch's default if not given.
        device: where the index lives.

    Raises:
        ArgumentError: if ``k`` does not divide ``n``.

    Example:
        >>> import torch
        >>> from kmatrix import transforms
        >>> (transforms.stride(2, 6) @ torch.arange(6.)).int().tolist()
        [0, 3, 1, 4, 2, 5]

    Reference: arXiv 2204.00595, section 3 (the permutation of Monarch matrices).
    """
    n, k = check_size("stride", "n", n), check_size("stride", "k", k)
    _permutations.stride(k, n)  # complains in the name of this function
    return _of(Permute(n, "stride", k), number_dtype("stride", dtype), device)


def _of(stage: Permute, dtype: torch.dtype, device: torch.device | str | None) -> ChainMatrix:
    return Chain((stage,)).empty(stage.n, stage.n, dtype=dtype, device=device)
