"""Exact projections onto matrices whose entries repeat (Toeplitz, Hankel, circulant) and onto permutations.

Both are the global minimiser of the Frobenius distance, and closed: a mean over the entries that share a number, and a
linear assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures import (
    BlockCirculant,
    BlockCirculantMatrix,
    Circulant,
    CirculantMatrix,
    Hankel,
    HankelMatrix,
    Permutation,
    PermutationMatrix,
    Toeplitz,
    ToeplitzMatrix,
)

TiedStructure = Toeplitz | Hankel | Circulant | BlockCirculant
TiedMatrix = ToeplitzMatrix | HankelMatrix | CirculantMatrix | BlockCirculantMatrix


def shared_numbers(structure: TiedStructure, m: int, n: int) -> Tensor:
    """Which number of a member each entry equals: an ``(m, n)`` tensor of flat positions in ``A.numbers``."""
    i, j = torch.arange(m)[:, None], torch.arange(n)[None, :]
    if isinstance(structure, Toeplitz):
        return i - j + n - 1
    if isinstance(structure, Hankel):
        return i + j
    if isinstance(structure, Circulant):
        return (i - j) % n
    k = structure.block
    block = (i // k) * structure.grid(m, n)[1] + j // k
    return block * k + (i - j) % k


def project_tied(structure: TiedStructure, target: Tensor, weight: Tensor | None = None) -> TiedMatrix:
    """The closest matrix with repeated entries: the minimiser of ``sum_ij weight_ij |target_ij - A_ij|^2``.

    Every number is the (weighted) mean of the entries it stands for. A number that no entry of positive weight
    shows, such as one in the padding of a grid of blocks, is zero.

    Args:
        structure: ``Toeplitz``, ``Hankel``, ``Circulant`` or ``BlockCirculant``.
        target: ``(m, n)``, real or complex.
        weight: ``(m, n)``, real and not negative; all ones, the Frobenius norm, by default.

    Raises:
        ArgumentError: if the structure has no member of this shape, or the weight is of another shape or negative.

    Example:
        >>> import torch
        >>> from kmatrix.fit.projections_tied import project_tied
        >>> from kmatrix.structures import Toeplitz
        >>> project_tied(Toeplitz(), torch.tensor([[1.0, 5.0], [7.0, 3.0]])).to_dense()
        tensor([[2., 5.],
                [7., 2.]])
    """
    m, n = target.shape
    matrix = structure.empty(m, n, dtype=target.dtype, device=target.device)
    if weight is None:
        weight = torch.ones(m, n, device=target.device)
    elif weight.shape != target.shape or weight.is_complex() or bool((weight < 0).any()):
        reason = f"not {m} x {n} real numbers that are not negative"
        way_out = "pass one weight per entry, zero where the entry does not matter"
        raise ArgumentError(complaint("project_tied", "weight", tuple(weight.shape), reason, way_out))
    where = shared_numbers(structure, m, n).flatten().to(target.device)
    weight = weight.to(target.real.dtype).flatten()
    with torch.no_grad():
        count = matrix.numbers.numel()
        sums = target.new_zeros(count).index_add_(0, where, target.flatten() * weight)
        weights = weight.new_zeros(count).index_add_(0, where, weight)
        means = sums / torch.where(weights > 0, weights, torch.ones_like(weights))
        matrix.numbers.copy_(means.reshape(matrix.numbers.shape))
    return matrix


def project_permutation(structure: Permutation, target: Tensor) -> PermutationMatrix:
    """The closest permutation: it maximises ``sum_i Re target[i, index[i]]``, a linear assignment.

    A structure of one of the other kinds has a single member, which is returned.

    Args:
        structure: the kind of permutation.
        target: ``(n, n)``, real or complex.

    Raises:
        ArgumentError: if the target is not square, or no permutation of the kind has this size.

    Example:
        >>> import torch
        >>> from kmatrix.fit.projections_tied import project_permutation
        >>> from kmatrix.structures import Permutation
        >>> project_permutation(Permutation(), torch.tensor([[0.4, 0.9], [0.2, 0.8]])).index
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    matrix = structure.empty(*target.shape, dtype=target.dtype, device=target.device)
    if structure.kind == "given":
        score = target.detach().real.to("cpu", torch.float64).numpy()
        matrix.set_permutations([linear_sum_assignment(score, maximize=True)[1]])
    return matrix
