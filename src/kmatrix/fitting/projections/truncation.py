"""Best approximations of low rank for many matrices at once: truncated singular value decompositions.

Few leading triplets come from the Gram matrix, several times faster than a full decomposition; the result is
kept only where it is certain to be as good, and computed in full elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST_SHARE = 4
"""The Gram route is taken for ranks up to the smaller side divided by this; beyond it saves little."""
CLEAR = 1e-4
"""Discarded energy, as a share of all, above which the rounding of the Gram route cannot be seen in the error."""
CERTAIN = 1e-10
"""Largest share of the discarded energy that a certificate may leave open."""


def truncate(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximations of rank at most ``rank`` in the Frobenius norm, as balanced factors.

    The leading eigenvectors of the Gram matrix, after half a step of the power method, are kept where a
    certificate says that no other subspace is better (``_doubtful``): to ten digits of the error, or to
    rounding. The other matrices of the batch are decomposed in full.

    Args:
        matrices: ``(batch, m, n)``, float64 or complex128.
        rank: how many singular triplets to keep.

    Returns:
        ``left (batch, m, rank)`` and ``right (batch, rank, n)`` with ``left @ right`` the approximations.
        Each holds the square roots of the singular values; triplets over ``min(m, n)`` are zero.
    """
    smaller = min(matrices.shape[-2:])
    kept = min(rank, smaller)
    if kept * LARGEST_SHARE > smaller:
        left, right = _in_full(matrices, kept)
    else:
        left, right = _by_gram(matrices, kept)
    pad = rank - kept
    return torch.nn.functional.pad(left, (0, pad)), torch.nn.functional.pad(right, (0, 0, 0, pad))


def _in_full(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    return _balanced(u, s, vh, rank)


def _balanced(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    root = s[..., :rank].sqrt().to(u.dtype)
    return u[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * vh[..., :rank, :]


def _by_gram(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    if matrices.shape[-2] > matrices.shape[-1]:
        left, right = _by_gram(matrices.mH, rank)
        return right.mH, left.mH
    # Squares of the entries must neither overflow nor vanish.
    scale = matrices.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(matrices.dtype).tiny)
    scaled = matrices / scale
    try:
        leading = _leading_eigenvectors(scaled @ scaled.mH, rank)
    except np.linalg.LinAlgError:
        return _in_full(matrices, rank)
    # One more half step of the power method squares the angle to the leading subspace.
    basis = torch.linalg.qr(scaled.mH @ leading).Q
    u, s, wh = torch.linalg.svd(scaled @ basis, full_matrices=False)
    doubtful = _doubtful(scaled, u, s, wh @ basis.mH)
    left, right = _balanced(u, s, wh @ basis.mH, rank)
    left, right = left * scale.sqrt(), right * scale.sqrt()
    if bool(doubtful.any()):
        left[doubtful], right[doubtful] = _in_full(matrices[doubtful], rank)
    return left, right


def _leading_eigenvectors(gram: Tensor, rank: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues of Hermitian matrices ``(batch, p, p)``."""
    from scipy.linalg import lapack

    size = gram.shape[-1]
    name = "zheevr" if gram.is_complex() else "dsyevr"
    # The checks of scipy.linalg.eigh would cost as much as the work for small matrices.
    evr, evr_lwork = getattr(lapack, name), getattr(lapack, name + "_lwork")
    lengths = ("lwork", "lrwork", "liwork") if gram.is_complex() else ("lwork", "liwork")
    options = {name: int(length.real) for name, length in zip(lengths, evr_lwork(size), strict=False)}
    vectors = np.empty((*gram.shape[:-1], rank), dtype=gram.numpy().dtype)
    for k, g in enumerate(gram.numpy()):
        # Read in Fortran order, without a copy, the matrix is its conjugate, and so are the eigenvectors.
        _, found, count, _, info = evr(g.T, range="I", il=size - rank + 1, iu=size, **options)
        if info or count != rank:
            raise np.linalg.LinAlgError(f"{name} returned info={info}")
        np.conj(found[:, :rank], out=vectors[k])
    return torch.from_numpy(vectors)


def _doubtful(matrices: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Which approximations ``u diag(s) vh = A V V^H`` may be worse than the best ones by more than rounding.

    An approximation is certain in one of three cases, with ``R = A - A V V^H`` what it discards:

    - LAPACK's eigenvalues are exact to rounding times the largest, so the energy kept is the best up to about
      ``eps ||A||^2``, which is nothing next to ``||R||^2 >= CLEAR ||A||^2``;
    - ``R`` is rounding itself;
    - in the basis ``(V, rest)``, ``A^H A`` has diagonal blocks of eigenvalues at least ``s_k^2`` and at most
      ``||R||^2``, coupled by ``s u^H R``. Whatever the subspace, it keeps at most
      ``||s u^H R||_F^2 / (s_k^2 - ||R||^2)`` more.
    """
    energy = torch.linalg.vector_norm(matrices, dim=(-2, -1)).square()
    unclear: Tensor = energy - s.square().sum(-1) < CLEAR * energy
    if not bool(unclear.any()):
        return unclear
    u, s, vh, energy = u[unclear], s[unclear], vh[unclear], energy[unclear]
    rest = matrices[unclear] - (u * s.unsqueeze(-2).to(u.dtype)) @ vh
    discarded = torch.linalg.vector_norm(rest, dim=(-2, -1)).square()
    coupling = torch.linalg.vector_norm(s.unsqueeze(-1) * (u.mH @ rest), dim=(-2, -1)).square()
    rounding = 32 * torch.finfo(matrices.dtype).eps
    certain = discarded <= rounding**2 * energy
    certain |= coupling <= CERTAIN * discarded * (s[..., -1].square() - discarded)
    unclear[unclear.clone()] = ~certain
    return unclear
