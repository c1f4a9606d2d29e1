"""Small orthogonal and unitary blocks: from real angles to matrices, and angles of Haar-distributed draws.

Radix 2 has closed forms; other radices are exponentials of skew (skew-Hermitian) matrices, which reach all
of SO(r) and U(r).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kmatrix._checks import HALF_DTYPES


def angles_per_block(radix: int, is_complex: bool) -> int:
    """Real numbers of a block: the dimension of SO(r) or U(r)."""
    return radix * radix if is_complex else radix * (radix - 1) // 2


def rotations(angles: Tensor, radix: int, is_complex: bool) -> Tensor:
    """Blocks of a factor.

    Args:
        angles: ``(a, d, angles_per_block)``, real.
        radix: side of the blocks.
        is_complex: unitary instead of orthogonal blocks.

    Returns:
        Weights ``(a, radix, radix, d)``.
    """
    if radix == 2:
        cells = _unitary_cells(angles) if is_complex else _rotation_cells(angles)
        rows = [torch.stack(row, 1) for row in cells]
        return torch.stack(rows, 1)
    if radix == 1 and not is_complex:
        a, d, _ = angles.shape
        return angles.new_ones(a, 1, 1, d)
    # torch has no matrix exponential in half precision.
    half = angles.dtype in HALF_DTYPES
    blocks = torch.linalg.matrix_exp(_skew(angles.float() if half else angles, radix, is_complex))
    weights: Tensor = (blocks.to(angles.dtype) if half else blocks).permute(0, 2, 3, 1)
    return weights


def _rotation_cells(angles: Tensor) -> list[list[Tensor]]:
    theta = angles.squeeze(-1)
    c, s = torch.cos(theta), torch.sin(theta)
    return [[c, -s], [s, c]]


def _unitary_cells(angles: Tensor) -> list[list[Tensor]]:
    """``e(alpha) [[e(psi) c, e(chi) s], [-e(-chi) s, e(-psi) c]]``, ``e(t) = exp(i t)``, ``c, s`` of ``phi``."""
    phi, alpha, psi, chi = angles.unbind(-1)
    c, s = torch.cos(phi), torch.sin(phi)
    return [
        [_polar(c, alpha + psi), _polar(s, alpha + chi)],
        [_polar(-s, alpha - chi), _polar(c, alpha - psi)],
    ]


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.complex(radius * torch.cos(angle), radius * torch.sin(angle))


def _skew(angles: Tensor, radix: int, is_complex: bool) -> Tensor:
    """Skew (skew-Hermitian) matrices ``(..., r, r)`` whose independent entries are the angles."""
    rows, cols = torch.tril_indices(radix, radix, -1, device=angles.device)
    count = len(rows)
    place = torch.zeros(radix, radix, dtype=torch.int64, device=angles.device)
    place[rows, cols] = torch.arange(count, device=angles.device)
    place = place + place.T
    below = torch.ones(radix, radix, dtype=angles.dtype, device=angles.device).tril(-1)
    # Radix 1 has no entry off its diagonal to gather.
    real = (
        angles[..., :count][..., place] * (below - below.T) if count else torch.zeros_like(angles[..., None])
    )
    if not is_complex:
        return real
    symmetric = torch.zeros(radix, radix, dtype=torch.int64, device=angles.device)
    symmetric[rows, cols] = torch.arange(count, 2 * count, device=angles.device)
    symmetric = (
        symmetric + symmetric.T + torch.diag(torch.arange(2 * count, radix * radix, device=angles.device))
    )
    return torch.complex(real, angles[..., symmetric])


def haar_angles(out: Tensor, radix: int, is_complex: bool, generator: torch.Generator | None) -> None:
    """Fill ``out (a, d, angles_per_block)`` so that the blocks are independent Haar-distributed draws."""
    with torch.no_grad():
        if radix == 2 and is_complex:
            out.uniform_(0.0, 2 * math.pi, generator=generator)
            # |c|^2 of a Haar unitary is uniform.
            out[..., 0].uniform_(0.0, 1.0, generator=generator).sqrt_().asin_()
        elif radix == 2:
            out.uniform_(0.0, 2 * math.pi, generator=generator)
        elif out.numel():
            out.copy_(_logarithms(_haar(out, radix, is_complex, generator), is_complex))


def _haar(like: Tensor, radix: int, is_complex: bool, generator: torch.Generator | None) -> Tensor:
    """Haar draws from SO(r) or U(r), one per block, in double precision."""
    dtype = torch.complex128 if is_complex else torch.float64
    device = generator.device if generator else torch.device("cpu")
    gauss = torch.randn(*like.shape[:2], radix, radix, dtype=dtype, device=device, generator=generator).cpu()
    q: Tensor
    q, r = torch.linalg.qr(gauss)
    # The phases of R's diagonal make the draw uniform instead of an accident of the QR algorithm.
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    q = q * (diagonal / diagonal.abs()).unsqueeze(-2)
    if not is_complex:
        q[..., 0] *= torch.linalg.det(q).unsqueeze(-1)
    return q


def _logarithms(blocks: Tensor, is_complex: bool) -> Tensor:
    """The angles whose exponentials are the given special orthogonal or unitary blocks."""
    radix = blocks.shape[-1]
    values, vectors = torch.linalg.eig(blocks)
    # Eigenvectors of a normal matrix with distinct eigenvalues are orthonormal: the inverse is the adjoint.
    log: Tensor = (vectors * (1j * values.angle()).unsqueeze(-2)) @ vectors.mH
    real, imaginary = log.real, log.imag
    rows, cols = torch.tril_indices(radix, radix, -1)
    if not is_complex:
        return real[..., rows, cols]
    return torch.cat(
        [real[..., rows, cols], imaginary[..., rows, cols], imaginary.diagonal(dim1=-2, dim2=-1)], -1
    )
