"""Orthogonal matrices as products of orthogonal butterflies, and any matrix from its SVD."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from kmatrix._errors import ArgumentError, complaint
from kmatrix.constructions._inputs import Array, ArrayLike, Like, take_array
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kform import KForm, padded_size
from kmatrix.structures import ChainMatrix


def householder(u: ArrayLike) -> ChainMatrix:
    """Write a reflection as a K-matrix of width 1 and expansion 1 whose factors are all orthogonal (unitary).

    ``I - 2 u u*``, a member of OBB with D = I. With halves u0, u1 of u and ``r = sqrt(|u0|^2 + |u1|^2)``
    entrywise, the unitary factor ``L = [[v0*, v1*], [v1, -v0]]``, ``(v0, v1) = (u0, u1) / r``, turns the
    reflection into ``L* diag(I - 2 r r*, I) L``; r is half as long. The reflection -1 that is left at
    length 1 goes into the first factor of B. The 2 x 2 blocks are reflections, so a class of rotations only
    needs signs in D as well.

    Args:
        u: ``(n,)`` numbers of norm 1 (to the square root of its precision; the result is exactly orthogonal).

    Raises:
        ArgumentError: if the norm is not 1, or numbers are not finite.

    Example:
        >>> import kmatrix as km
        >>> H = km.constructions.householder([1.0, 0.0, 0.0])
        >>> H.to_dense().diagonal().tolist()
        [-1.0, 1.0, 1.0]

    Reference: arXiv 2012.14966, Lemma K.1.
    """
    vector, kind = take_array("householder", "u", u, 1)
    norm = float(np.linalg.norm(vector))
    if abs(norm - 1) > _tolerance(kind):
        way_out = "divide it by its norm"
        raise ArgumentError(complaint("householder", "norm(u)", norm, "not 1", way_out))
    return _reflection(vector, padded_size(vector.size, vector.size)).matrix(kind)


def orthogonal(q: ArrayLike) -> ChainMatrix:
    """Write an orthogonal (unitary) matrix as a K-matrix of width max(1, n - 1) with orthogonal factors only.

    ``Q = H_1 ... H_{n-1} D`` by Householder triangularisation: a triangular orthogonal matrix is a diagonal
    D of signs (phases), which is folded into a factor. It holds 4 n^2 log2(n) numbers: a proof and an
    oracle for small n.

    Args:
        q: ``(n, n)`` numbers with ``Q* Q = I`` (to the square root of its precision).

    Raises:
        ArgumentError: if ``q`` is not square and orthogonal, or numbers are not finite.

    Example:
        >>> import torch, kmatrix as km
        >>> Q = km.constructions.orthogonal(torch.eye(4).flip(0))
        >>> Q.structure.width, Q.to_dense().argmax(1).tolist()
        (3, [3, 2, 1, 0])

    Reference: arXiv 2012.14966, Lemma K.2.
    """
    matrix, kind = take_array("orthogonal", "q", q, 2)
    m, n = matrix.shape
    if m != n or np.abs(matrix.conj().T @ matrix - np.eye(n)).max() > _tolerance(kind):
        way_out = "orthogonalise it first, for example torch.linalg.qr(q).Q"
        raise ArgumentError(
            complaint("orthogonal", "q", f"array{matrix.shape}", "not an orthogonal matrix", way_out)
        )
    return _orthogonal_form(matrix, padded_size(n, n)).matrix(kind)


def universal(matrix: ArrayLike) -> ChainMatrix:
    """Write any matrix as a K-matrix of width max(2, 2n - 2) and expansion 1, where n is its longer side.

    ``U S V*``, the singular value decomposition, U and V as products of n - 1 reflections and S folded into
    a factor, the only one that is not orthogonal. It holds 8 n^2 log2(n) numbers, more than the n^2 of a
    dense matrix: this is the proof that K-matrices reach everything, and an oracle for small n.

    Args:
        matrix: ``(m, n)`` numbers.

    Raises:
        ArgumentError: if numbers are not finite.

    Example:
        >>> import torch, kmatrix as km
        >>> A = km.constructions.universal(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
        >>> A.structure.width, A.to_dense()[1].detach().numpy().round(12).tolist()
        (2, [3.0, 4.0])

    Reference: arXiv 2012.14966, Lemmas E.3 and K.3.
    """
    given, kind = take_array("universal", "matrix", matrix, 2)
    m, n = given.shape
    size = padded_size(m, n)
    u, s, vh = np.linalg.svd(np.pad(given, ((0, max(m, n) - m), (0, max(m, n) - n))))
    left = _orthogonal_form(u, size).scaled(right=np.pad(s, (0, size - s.size)))
    right = _orthogonal_form(vh.conj().T, size).adjoint()
    return KForm((m, n), right.halves + left.halves).matrix(kind)


def _tolerance(kind: Like) -> float:
    return math.sqrt(torch.finfo(kind.dtype).eps)


def _orthogonal_form(q: Array, size: int) -> KForm:
    n = q.shape[0]
    reflections, phases = _triangularise(q)
    forms = [_reflection(np.pad(u, (n - u.size, 0)), size) for u in reflections]
    halves = [half for form in reversed(forms) for half in form.halves]
    one = ButterflyFactors.identity(size, increasing=True)
    diagonal = np.pad(phases, (0, size - n), constant_values=1.0)
    return KForm.of((n, n), halves or [one]).scaled(right=diagonal)


def _triangularise(q: Array) -> tuple[list[Array], Array]:
    """Unit vectors of the reflections that make an orthogonal ``q`` diagonal, and that diagonal."""
    work = q.copy()
    vectors = []
    for k in range(q.shape[0] - 1):
        u = work[k:, k].copy()
        head = abs(u[0])
        # Adding the norm to the first entry along its own phase avoids cancellation.
        u[0] += np.linalg.norm(u) * (u[0] / head if head > 0 else 1.0)
        u /= np.linalg.norm(u)
        work[k:, k:] -= 2 * np.outer(u, u.conj() @ work[k:, k:])
        vectors.append(u)
    phases = work.diagonal().copy()
    return vectors, phases / np.abs(phases)


def _reflection(u: Array, size: int) -> KForm:
    first = list(_reflection_factors(np.pad(u, (0, size - u.size))))
    sign = np.ones(size)
    sign[0] = -1.0
    descent = ButterflyFactors(size, tuple(first))
    return KForm((u.size, u.size), (descent, descent.adjoint().scaled(right=sign)))


def _reflection_factors(u: Array) -> Iterator[Array]:
    """The unitary factors, of stride N/2, ..., 2, 1, that gather a unit vector into its first entry."""
    size = u.size
    while u.size > 1:
        halves = u.reshape(2, -1)
        r = np.sqrt((np.abs(halves) ** 2).sum(axis=0))
        empty = r == 0
        v0 = np.where(empty, 1.0, halves[0] / np.where(empty, 1.0, r))
        v1 = np.where(empty, 0.0, halves[1] / np.where(empty, 1.0, r))
        w = np.tile(np.eye(2, dtype=u.dtype)[None, :, :, None], (size // u.size, 1, 1, r.size))
        w[0] = np.array([[v0.conj(), v1.conj()], [v1, -v0]])
        yield w
        u = r
