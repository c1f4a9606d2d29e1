"""Members of the orthogonal hierarchy by construction: from blocks of either determinant to angles of rotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kmatrix.constructions import sparse_obb
from kmatrix.fitting.chains.peeling import Peeled, peel
from kmatrix.ops import chain_matmul
from kmatrix.structures import OBB, OBBMatrix, StructuredMatrix

_SPARSE_WIDTH = 4  # terms that any n nonzeros take


def obb_starts(structure: OBB, target: Tensor) -> Iterator[tuple[StructuredMatrix, str]]:
    """Real members near the target, on powers of two: peeled, of rank one, or of the largest entries.

    Args:
        structure: the family.
        target: ``(m, n)`` float64.
    """
    m, n = target.shape
    size = max(m, n)
    if target.is_complex() or structure.unitary or set(structure.radices_for(m, n)) != {2}:
        return
    framed = nn.functional.pad(target, (0, size - n, 0, size - m))
    peeled = obb_matrix(structure, (m, n), [_real(peel(framed))])
    _best_diagonal(peeled, framed)
    yield peeled, "peeling"
    yield obb_matrix(structure, (m, n), [rank_one(framed)]), "the leading singular vectors"
    if structure.width >= _SPARSE_WIDTH:
        entries = torch.zeros_like(framed).flatten()
        largest = framed.abs().flatten().topk(size).indices
        entries[largest] = framed.flatten()[largest]
        yield obb_matrix(structure, (m, n), _sparse(entries.view(size, size))), "the largest entries"


def obb_matrix(structure: OBB, shape: tuple[int, int], terms: Sequence[Peeled]) -> OBBMatrix:
    """The member whose first terms are the given ones, with the nearest orthogonal blocks, and the rest the identity.

    Every reflection is a rotation times a sign, and signs move through rotations to the diagonal of their term.

    Args:
        structure: a family of real matrices whose radices are all 2.
        shape: ``(m, n)``.
        terms: first applied first.
    """
    matrix = structure.empty(*shape, dtype=torch.float64)
    levels = len(matrix.angles) // (2 * structure.width)
    with torch.no_grad():
        for angles in matrix.angles:
            angles.zero_()
        matrix.diagonals.fill_(1.0)
        for k, term in enumerate(terms):
            shrinking, first_signs = _rotations([w.transpose(1, 2) for w in reversed(term.shrinking)])
            growing, last_signs = _rotations(term.growing)
            # The angles of the transposed factors are those of their transposes, turned round.
            found = [*(-a for a in reversed(shrinking)), *growing]
            start = 2 * levels * k
            for stored, angles in zip(matrix.angles[start : start + 2 * levels], found, strict=True):
                stored.copy_(angles.unsqueeze(-1))
            matrix.diagonals[k] = first_signs * term.diagonal * last_signs
    return matrix


def _best_diagonal(matrix: OBBMatrix, framed: Tensor) -> None:
    """Set the first diagonal to the best one for the rotations of the first term: ``diag(M1^T W M2)``."""
    with torch.no_grad():
        blocks = matrix.blocks
        levels = len(framed).bit_length() - 1
        eye = torch.eye(len(framed), dtype=framed.dtype)
        right = chain_matmul(eye, blocks[:levels]).mT
        left = chain_matmul(eye, blocks[levels : 2 * levels])
        matrix.diagonals[0] = ((left @ framed) * right).sum(1)


def _rotations(growing: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Angles ``(a, d)`` and signs: ``growing``, with the nearest orthogonal blocks, is ``rotations * diag(signs)``."""
    signs = growing[0].new_ones(2 * growing[0].shape[0] * growing[0].shape[3])
    angles: list[Tensor] = []
    for weight in reversed(growing):
        a, _, _, d = weight.shape
        blocks = (weight * signs.reshape(a, 2, 1, d)).permute(0, 3, 1, 2)
        u, _, vh = torch.linalg.svd(blocks)
        blocks = u @ vh
        signs = torch.ones(a, 2, d, dtype=weight.dtype)
        signs[:, 1] = torch.linalg.det(blocks).sign()
        angles.append(torch.atan2(blocks[..., 1, 0], blocks[..., 0, 0]))
        signs = signs.flatten()
    return angles[::-1], signs


def _real(peeled: Peeled) -> Peeled:
    """The real parts, where the matrix has no real factors."""
    return Peeled(
        tuple(w.real if w.is_complex() else w for w in peeled.shrinking),
        peeled.diagonal,
        tuple(w.real if w.is_complex() else w for w in peeled.growing),
    )


def rank_one(target: Tensor) -> Peeled:
    """The best approximation of rank one of an ``(n, n)`` matrix: both singular vectors as columns of butterflies."""
    u, s, vh = torch.linalg.svd(target)
    diagonal = torch.zeros_like(s)
    diagonal[0] = s[0]
    turned = tuple(w.transpose(1, 2) for w in reversed(_with_first_column(vh[0])))
    return Peeled(turned, diagonal, tuple(_with_first_column(u[:, 0])))


def _with_first_column(unit: Tensor) -> list[Tensor]:
    """Rotations of an orthogonal butterfly (growing strides) that has the unit vector as its first column."""
    size, weights = len(unit), []
    while len(unit) > 1:
        d = len(unit) // 2
        low, high = unit[:d], unit[d:]
        unit = torch.hypot(low, high)
        safe = torch.where(unit > 0, unit, 1.0)
        cosine, sine = torch.where(unit > 0, low / safe, 1.0), high / safe
        weight = torch.eye(2, dtype=unit.dtype)[None, :, :, None].repeat(size // (2 * d), 1, 1, d)
        weight[0] = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
        weights.append(weight)
    return weights[::-1]


def _sparse(entries: Tensor) -> list[Peeled]:
    """At most ``n`` nonzeros as four terms (Lemma K.9 of arXiv 2012.14966)."""
    weights = [w.detach() for w in sparse_obb(entries).weights]
    levels = len(entries).bit_length() - 1
    terms = []
    for start in range(0, len(weights), 2 * levels):
        shrinking, growing = weights[start : start + levels], weights[start + levels : start + 2 * levels]
        # The construction folds the diagonal into the factor after it: orthogonal columns of any length.
        lengths = torch.linalg.vector_norm(growing[0], dim=1, keepdim=True)
        unit = growing[0] / torch.where(lengths > 0, lengths, 1.0)
        terms.append(Peeled(tuple(shrinking), lengths.flatten(), (_completed(unit, lengths), *growing[1:])))
    return terms


def _completed(unit: Tensor, lengths: Tensor) -> Tensor:
    """Unit columns in place of zero ones, at right angles to their neighbours."""
    turned = torch.stack([-unit[:, 1].flip(1), unit[:, 0].flip(1)], 1)
    turned = torch.where(lengths.flip(2) > 0, turned, torch.eye(2, dtype=unit.dtype)[None, :, :, None])
    return torch.where(lengths > 0, unit, turned)
