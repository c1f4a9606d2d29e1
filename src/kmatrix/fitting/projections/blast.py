"""Fitting BLAST matrices, tiles ``U_i diag(s_ij) V_j``: alternating least squares from several starts.

The updates are those of preconditioned alternating descent with a full step, extrapolated between sweeps;
each needs Gram matrices of the size of the rank only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kmatrix.fitting.projections.truncation import truncate

Parts = tuple[Tensor, Tensor, Tensor]
"""``U (p, height, rank)``, ``s (p, q, rank)`` and ``V (q, rank, width)``."""
TRIAL_SHARE = 8
"""Every start gets one sweep in this many of the budget; the best of them gets the rest."""
PROXIMAL = 1e-10
"""Weight of the distance to the old numbers in a least squares update, relative: keeps singular ones solvable."""


def blast_factors(
    dense: Tensor, grid: tuple[int, int], rank: int, *, sweeps: int, generator: torch.Generator
) -> Parts:
    """The best of the local minima that the starts lead to.

    Args:
        dense: the target, float64 or complex128.
        grid: tiles per column and per row; the last ones are padded.
        rank: length of the couplings.
        sweeps: most updates of all parts from any one start.
        generator: randomness of the cold start and of the joint diagonalisation.
    """
    p, q = grid
    m, n = dense.shape
    height, width = -(-m // p), -(-n // q)
    padded = nn.functional.pad(dense, (0, q * width - n, 0, p * height - m))
    tiles = padded.reshape(p, height, q, width).transpose(1, 2).contiguous()
    # Products of three parts and their squares must neither overflow nor vanish.
    scale = float(tiles.abs().amax())
    if scale == 0:
        return tiles.new_zeros(p, height, rank), tiles.new_zeros(p, q, rank), tiles.new_zeros(q, rank, width)
    tiles = tiles / scale
    trial = max(1, sweeps // TRIAL_SHARE)
    ends = [_descend(tiles, start, trial) for start in _starts(tiles, rank, generator)]
    best = min(ends, key=lambda parts: _distance(tiles, parts))
    u, s, v = _descend(tiles, best, sweeps - trial)
    return u * scale ** (1 / 3), s * scale ** (1 / 3), v * scale ** (1 / 3)


def _starts(tiles: Tensor, rank: int, generator: torch.Generator) -> Iterator[Parts]:
    yield _from_low_rank(tiles, rank)
    if rank >= max(tiles.shape[:2]):
        yield _from_tiles(tiles, rank)
    if rank <= min(tiles.shape[2:]):
        parts = _joint_diagonalisation(tiles, rank, generator)
        # Far from exact members it returns noise, which may even overflow: then zero is the better start.
        if parts is not None and _distance(tiles, parts) < float(torch.linalg.vector_norm(tiles)):
            yield parts
    yield _cold(tiles, rank, generator)


def _from_low_rank(tiles: Tensor, rank: int) -> Parts:
    """The truncated SVD of the whole matrix: every coupling is one."""
    p, q, height, width = tiles.shape
    whole = tiles.transpose(1, 2).reshape(1, p * height, q * width)
    left, right = truncate(whole, rank)
    v = right[0].reshape(rank, q, width).transpose(0, 1)
    return left[0].reshape(p, height, rank), tiles.new_ones(p, q, rank), v.contiguous()


def _from_tiles(tiles: Tensor, rank: int) -> Parts:
    """Truncated SVDs of the tiles: the tiles with equal ``(i + j) mod b`` share no row or column, nor rank."""
    p, q, height, width = tiles.shape
    b = max(p, q)
    each = rank // b
    left, right = truncate(tiles.flatten(0, 1), each)
    left, right = left.reshape(p, q, height, each), right.reshape(p, q, each, width)
    parts = tiles.new_zeros(p, height, rank), tiles.new_zeros(p, q, rank), tiles.new_zeros(q, rank, width)
    for i in range(p):
        for j in range(q):
            own = slice((i + j) % b * each, ((i + j) % b + 1) * each)
            parts[0][i, :, own], parts[1][i, j, own], parts[2][j, own] = left[i, j], 1, right[i, j]
    return parts


def _joint_diagonalisation(tiles: Tensor, rank: int, generator: torch.Generator) -> Parts | None:
    """Exact for generic members of rank up to the sides of a tile.

    In bases of the row and column spaces of a block row and block column the tiles are ``C_ij = A_i D_ij B_j``,
    ``A`` and ``B`` square. Then ``C_i1^-1 C_ij C_1j^-1 C_11 = B_1^-1 (diagonal) B_1`` for every i and j, and the
    eigenvectors of a random combination are ``B_1^-1``. ``None`` if a tile has less than that rank.
    """
    p, q, height, width = tiles.shape
    rows = truncate(tiles.transpose(1, 2).reshape(p, height, q * width), rank)[0]
    columns = truncate(tiles.transpose(0, 1).reshape(q, p * height, width), rank)[1]
    rows, columns = torch.linalg.qr(rows).Q, torch.linalg.qr(columns.mH).Q
    core = rows.mH.unsqueeze(1) @ tiles @ columns
    floor = torch.finfo(torch.float64).tiny
    try:
        similar = torch.linalg.solve(core[:, :1], core) @ torch.linalg.solve(core[:1], core[:1, :1])
        norms = torch.linalg.vector_norm(similar, dim=(-2, -1), keepdim=True).clamp_min(floor)
        mix = torch.randn(p, q, 1, 1, dtype=tiles.dtype, generator=generator, device=generator.device)
        values, vectors = torch.linalg.eig((mix.to(tiles.device) * similar / norms).sum((0, 1)))
        if not tiles.is_complex():
            # Conjugate pairs, which exact members do not have, give the plane that they span.
            vectors = torch.where(values.imag < 0, vectors.imag, vectors.real)
        a = core[:, 0] @ vectors
        b = torch.linalg.solve(a[:1], core[0])
        couplings = torch.linalg.solve(b.mT.unsqueeze(0), torch.linalg.solve(a.unsqueeze(1), core).mT).mT
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    return rows @ a, couplings.diagonal(dim1=-2, dim2=-1).contiguous(), b @ columns.mH


def _cold(tiles: Tensor, rank: int, generator: torch.Generator) -> Parts:
    """Random numbers that give tiles of the right size."""
    p, q, height, width = tiles.shape
    scale = float(tiles.abs().square().mean() / rank) ** 0.25

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(shape, dtype=tiles.dtype, generator=generator, device=generator.device)
        return drawn.to(tiles.device)

    return scale * normal(p, height, rank), normal(p, q, rank), scale * normal(q, rank, width)


def _descend(tiles: Tensor, parts: Parts, sweeps: int) -> Parts:
    """Sweep until nothing improves; between sweeps continue in the direction of the last one while that helps."""
    rounding = torch.finfo(torch.float64).eps * float(torch.linalg.vector_norm(tiles))
    current = previous = _equalised(parts)
    error, reach = _distance(tiles, current), 1.0
    for _ in range(sweeps):
        ahead = (now + reach * (now - before) for now, before in zip(current, previous, strict=True))
        following = _sweep(tiles, *ahead)
        reached = _distance(tiles, following)
        if reached <= error:
            reach *= 1.1
        else:
            following, reach = _sweep(tiles, *current), max(0.3 * reach, 0.5)
            reached = _distance(tiles, following)
        if not reached < error * (1 - 1e-7):
            return following if reached < error else current
        previous, current, error = current, following, reached
        if error < 8 * rounding:
            break
    return current


def _equalised(parts: Parts) -> Parts:
    """The same matrix with the norm of every rank-one term spread evenly over its three parts."""
    u, s, v = parts
    axes: tuple[tuple[int, int], ...] = ((0, 1), (0, 1), (0, 2))
    norms = [torch.linalg.vector_norm(part, dim=dim) for part, dim in zip(parts, axes, strict=True)]
    mean = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    a, b, c = (torch.where(mean > 0, mean / norm.clamp_min(1e-300), 1.0) for norm in norms)
    return u * a, s * b, v * c.unsqueeze(-1)


def _distance(tiles: Tensor, parts: Parts) -> float:
    u, s, v = parts
    squares = [
        torch.linalg.vector_norm(row - (u_i * s_i.unsqueeze(1)) @ v).square()
        for row, u_i, s_i in zip(tiles, u, s, strict=True)
    ]
    return float(torch.stack(squares).sum().sqrt())


def _sweep(tiles: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Parts:
    u = _rows(tiles, u, s, v)
    turned = tiles.transpose(0, 1).mT
    v = _rows(turned, v.mT, s.transpose(0, 1), u.mT).mT
    return u, _couplings(tiles, u, s, v), v


def _rows(tiles: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Least squares for every ``U_i``, given the rest."""
    gram = v @ v.mH
    updated = []
    for row, u_i, s_i in zip(tiles, u, s, strict=True):
        normal = (gram * s_i.unsqueeze(-1) * s_i.conj().unsqueeze(-2)).sum(0)
        right_side = (row @ v.mH * s_i.conj().unsqueeze(1)).sum(0)
        updated.append(_solve(normal.mT, right_side.mT, u_i.mT).mT)
    return torch.stack(updated)


def _couplings(tiles: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Least squares for every ``s_ij``, given the rest."""
    gram = (v @ v.mH).mT
    updated = []
    for row, u_i, s_i in zip(tiles, u, s, strict=True):
        right_side = (u_i.conj() * (row @ v.mH)).sum(1)
        updated.append(_solve(u_i.mH @ u_i * gram, right_side.unsqueeze(-1), s_i.unsqueeze(-1)).squeeze(-1))
    return torch.stack(updated)


def _solve(normal: Tensor, right_side: Tensor, old: Tensor) -> Tensor:
    """Solve ``normal @ new = right_side``, a positive semidefinite system, staying at ``old`` where it is zero."""
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    weight = (PROXIMAL * diagonal.real.mean(-1) + 1e-300)[..., None, None]
    damped = normal + weight * torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    solution: Tensor = torch.linalg.solve(damped, right_side + weight * old)
    return solution
