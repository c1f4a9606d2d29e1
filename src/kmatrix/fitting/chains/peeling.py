"""Peeling: a dense member of BB* taken apart into its factors, from its entries alone and without any search.

A member of BB* is ``W = [[D1, D2], [D3, D4]] diag(K1, K2) [[E1, E2], [E3, E4]]`` with diagonal blocks and two members
``K1, K2`` of half the size. Around each place ``(p, q)`` of the four quadrants this reads ``M_pq = X_p diag(K1_pq,
K2_pq) Y_q`` with 2 x 2 matrices, so all ``M_pq adj(M_p'q) M_p'q' adj(M_pq')`` share the eigenvectors ``X_p``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_SWEEPS = 3
_SCALAR = 1e-12  # traceless parts below this share of the whole are rounding: every basis diagonalises


class Peeled(NamedTuple):
    """A product ``M1 D M2*`` on ``n = 2**k`` points: weights ``(n / 2d, 2, 2, d)`` in order of application.

    Attributes:
        shrinking: the factors of ``M2*``, strides ``n/2 ... 1``.
        diagonal: the ``n`` numbers of ``D``, not negative.
        growing: the factors of ``M1``, strides ``1 ... n/2``.
    """

    shrinking: tuple[Tensor, ...]
    diagonal: Tensor
    growing: tuple[Tensor, ...]

    @property
    def weights(self) -> list[Tensor]:
        """All factors, with the diagonal shared between its two neighbours."""
        root = self.diagonal.sqrt().to(self.growing[0].dtype).reshape(-1, 2)
        last = self.shrinking[-1] * root[:, :, None, None]
        first = self.growing[0] * root[:, None, :, None]
        return [*self.shrinking[:-1], last, first, *self.growing[1:]]


def peel(matrix: Tensor) -> Peeled:
    """Factors of a member of BB* whose product is near the matrix: exact for generic members, else a rough start.

    The factors are unique up to scaling and swapping, so an orthogonal member M1 or M2 comes out with orthogonal
    blocks. A real matrix gives complex factors where it has no real ones (circulant matrices).

    Args:
        matrix: ``(n, n)`` float64 or complex128, ``n`` a power of two of at least 2.

    Example:
        >>> from kmatrix.structures import ChainMatrix, Kaleidoscope
        >>> W = Kaleidoscope().random(16, 16, dtype=torch.float64).to_dense().detach()
        >>> A = ChainMatrix.from_weights(Kaleidoscope(), (16, 16), peel(W).weights)
        >>> float((A.to_dense().detach() - W).abs().max() / W.abs().max()) < 1e-10
        True
    """
    left: list[Tensor] = []
    right: list[Tensor] = []
    inner, scale = matrix[None], torch.ones(1, dtype=matrix.dtype.to_real())
    while inner.shape[-1] > 2:
        # Products of four entries are taken: keep them in range, whatever the levels before have done.
        largest = inner.abs().amax((1, 2))
        largest = torch.where(largest > 0, largest, 1.0)
        x, y, inner = _peel_once(inner / largest[:, None, None])
        scale = (scale * largest).repeat_interleave(2)
        left.append(x)
        right.append(y)
    u, s, vh = torch.linalg.svd(inner)
    s = s * scale[:, None]
    left.append(u[..., None])
    right.append(vh[..., None])
    dtype = u.dtype
    shrinking = tuple(w.to(dtype).contiguous() for w in right)
    return Peeled(shrinking, s.flatten(), tuple(w.to(dtype).contiguous() for w in reversed(left)))


def _peel_once(inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The outermost factors ``(g, 2, 2, n/2)`` of every matrix ``(g, n, n)``, and the ``(2g, n/2, n/2)`` left."""
    groups, n, _ = inner.shape
    half = n // 2
    tiles = inner.reshape(groups, 2, half, 2, half).permute(0, 2, 4, 1, 3)
    x = _eigenvectors(tiles)
    tiles = tiles.to(x.dtype)
    # Row i of adj(X_0) M_0q is a multiple of row i of Y_q; only the best place is looked at for this first guess.
    best = _regular(tiles).argmax(1)
    y = _unit(_adjugate(x)[:, None] @ tiles[torch.arange(groups), best], -1)
    for _ in range(_SWEEPS):
        columns = tiles @ _adjugate(y)[:, None]
        x = torch.stack([_common(columns[..., i]) for i in (0, 1)], -1)
        rows = _adjugate(x)[:, :, None] @ tiles
        y = torch.stack([_common(rows[..., i, :].transpose(1, 2)) for i in (0, 1)], -2)
    left = _coordinates(tiles, x, y)
    return x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1), left.reshape(2 * groups, half, half)


def _eigenvectors(tiles: Tensor) -> Tensor:
    """The ``X_p`` ``(g, 2, 2)`` of the row ``p`` whose tiles are farthest from singular."""
    groups, half = tiles.shape[:2]
    best = _regular(tiles).argmax(1)
    own = tiles[torch.arange(groups), best][:, None]
    across = own @ _adjugate(tiles)
    loops = across @ _adjugate(across).roll(1, 2)
    size = torch.linalg.vector_norm(loops, dim=(1, 2, 3, 4))
    identity = torch.eye(2, dtype=tiles.dtype)
    traces = loops.diagonal(dim1=-2, dim2=-1).mean(-1)
    traceless = (loops - traces[..., None, None] * identity).reshape(groups, half * half, 4)
    _, s, vh = torch.linalg.svd(traceless, full_matrices=False)
    shared = vh[:, 0].conj().reshape(groups, 2, 2).conj()
    plain = s[:, 0] <= _SCALAR * size
    shared = torch.where(
        plain[:, None, None], torch.diag(torch.tensor([1.0, -1.0], dtype=tiles.dtype)), shared
    )
    # Eigenvalues of a traceless matrix are plus and minus the root of minus its determinant.
    square = -torch.linalg.det(shared)
    if not square.is_complex() and bool((square < 0).any()):
        square, shared = square.to(torch.complex128), shared.to(torch.complex128)
    root = square.sqrt()
    vectors = []
    for value in (root, -root):
        # Columns of A + value solve (A - value) v = 0, as A^2 = value^2; the longer one is the more exact.
        images = shared + value[:, None, None] * torch.eye(2, dtype=shared.dtype)
        longest = torch.linalg.vector_norm(images, dim=1).argmax(1)
        vectors.append(images[torch.arange(groups), :, longest])
    return _unit(torch.stack(vectors, -1), -2)


def _regular(tiles: Tensor) -> Tensor:
    """How far the tiles of each row are from singular, all in all: ``(g, n/2)``."""
    sizes: Tensor = torch.linalg.det(tiles).abs().sum(2)
    return sizes


def _adjugate(blocks: Tensor) -> Tensor:
    """``adj(A) = det(A) inv(A)`` of 2 x 2 matrices: no division, so singular ones simply weigh nothing."""
    (a, b), (c, d) = ([blocks[..., i, j] for j in (0, 1)] for i in (0, 1))
    return torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)


def _unit(vectors: Tensor, dim: int) -> Tensor:
    lengths = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(lengths > 0, lengths, 1.0)


def _common(vectors: Tensor) -> Tensor:
    """The direction that ``vectors (..., k, 2)`` have in common, up to scale: ``(..., 2)``."""
    vh: Tensor = torch.linalg.svd(vectors, full_matrices=False)[2]
    return vh[..., 0, :]


def _coordinates(tiles: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The diagonals ``(g, 2, n/2, n/2)`` nearest to the tiles: ``M_pq = sum_i k_i x_i y_i``, least squares."""
    one, two = (x[:, :, None, :, i, None] * y[:, None, :, i, None, :] for i in (0, 1))
    overlap = (one.conj() * two).sum((-2, -1))
    rest = two - overlap[..., None, None] * one
    size = rest.abs().square().sum((-2, -1))
    second = (rest.conj() * tiles).sum((-2, -1)) / torch.where(size > 0, size, 1.0)
    first = (one.conj() * tiles).sum((-2, -1)) - overlap * second
    return torch.stack([first, second], 1)
