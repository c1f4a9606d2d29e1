"""Exact projections onto matrices whose entries repeat (Toeplitz, Hankel, circulant) and onto permutations.

Both are the global minimiser of the Frobenius distance, and closed: a mean over the entries that share a number, and a
linear assignment. Importing this registers them with ``project``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.fitting.projections.nearest import like, project, wide
from kmatrix.structures import (
    BlockCirculant,
    BlockCirculantMatrix,
    Circulant,
    CirculantMatrix,
    Hankel,
    HankelMatrix,
    Permutation,
    PermutationMatrix,
    StructuredMatrix,
    Toeplitz,
    ToeplitzMatrix,
)

TiedStructure = Toeplitz | Hankel | Circulant | BlockCirculant
TiedMatrix = ToeplitzMatrix | HankelMatrix | CirculantMatrix | BlockCirculantMatrix


@project.register(Toeplitz)
@project.register(Hankel)
@project.register(Circulant)
@project.register(BlockCirculant)
def _(
    structure: TiedStructure, target: Tensor, *, generator: torch.Generator | None = None
) -> StructuredMatrix:
    return project_tied(target, structure)


@project.register(Permutation)
def _(
    structure: Permutation, target: Tensor, *, generator: torch.Generator | None = None
) -> StructuredMatrix:
    return project_permutation(target, structure)


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


def project_tied(target: Tensor, structure: TiedStructure, weight: Tensor | None = None) -> TiedMatrix:
    """The closest matrix with repeated entries: the minimiser of ``sum_ij weight_ij |target_ij - A_ij|^2``.

    Every number is the (weighted) mean of the entries it stands for. A number that no entry of positive weight
    shows, such as one in the padding of a grid of blocks, is zero.

    Args:
        target: ``(m, n)``, real or complex.
        structure: ``Toeplitz``, ``Hankel``, ``Circulant`` or ``BlockCirculant``.
        weight: ``(m, n)``, real and not negative; all ones, the Frobenius norm, by default.

    Returns:
        The member, in the number type and on the device of the target; the means are taken in double precision.

    Raises:
        ArgumentError: if the target is not a finite matrix of a shape that the structure has, or the weight is of
            another shape or negative.

    Example:
        >>> import torch
        >>> from kmatrix.fitting.projections.tied import project_tied
        >>> from kmatrix.structures import Toeplitz
        >>> project_tied(torch.tensor([[1.0, 5.0], [7.0, 3.0]]), Toeplitz()).numbers.tolist()
        [5.0, 2.0, 7.0]
    """
    dense = wide(target, structure)
    m, n = dense.shape
    matrix = structure.empty(m, n, dtype=dense.dtype)
    if weight is None:
        weight = torch.ones(m, n)
    elif weight.shape != target.shape or weight.is_complex() or bool((weight < 0).any()):
        reason = f"not {m} x {n} real numbers that are not negative"
        way_out = "pass one weight per entry, zero where the entry does not matter"
        raise ArgumentError(complaint("project_tied", "weight", tuple(weight.shape), reason, way_out))
    where = shared_numbers(structure, m, n).flatten()
    weight = weight.detach().to("cpu", torch.float64).flatten()
    with torch.no_grad():
        count = matrix.numbers.numel()
        sums = dense.new_zeros(count).index_add_(0, where, dense.flatten() * weight)
        weights = weight.new_zeros(count).index_add_(0, where, weight)
        means = sums / torch.where(weights > 0, weights, torch.ones_like(weights))
        matrix.numbers.copy_(means.reshape(matrix.numbers.shape))
    like(matrix, target)  # modules convert in place
    return matrix


def project_permutation(target: Tensor, structure: Permutation) -> PermutationMatrix:
    """The closest permutation: it maximises ``sum_i Re target[i, index[i]]``, a linear assignment.

    A structure of one of the other kinds has a single member, which is returned.

    Args:
        target: ``(n, n)``, real or complex.
        structure: the kind of permutation.

    Raises:
        ArgumentError: if the target is not a finite square matrix, or no permutation of the kind has this size.

    Example:
        >>> import torch
        >>> from kmatrix.fitting.projections.tied import project_permutation
        >>> from kmatrix.structures import Permutation
        >>> project_permutation(torch.tensor([[0.4, 0.9], [0.7, 0.8]]), Permutation()).index
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    dense = wide(target, structure)
    matrix = structure.empty(*dense.shape, dtype=target.dtype, device=target.device)
    if structure.kind == "given":
        matrix.set_permutations([linear_sum_assignment(dense.real.numpy(), maximize=True)[1]])
    return matrix
