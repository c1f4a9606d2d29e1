"""The Gaudi mask, a boxcar on a circle with gradients for its width and its start, and the tables that give it in rows.

Of ``n`` positions on a circle, a box of width ``w`` and start ``l`` (shares of ``n``) has the frequencies

    M[f] = w sinc(f w) / sinc(f / n) exp(-f^2 / (2 sigma^2)) exp(i pi (f / n - f w - 2 f l)),   0 <= f <= n / 2,

and the mask is their inverse real transform. With ``C[f] = exp(i pi f / n - f^2 / (2 sigma^2)) / sinc(f / n)`` this is
``C[f] (1 - exp(-2 pi i f w)) exp(-2 pi i f l) / (2 pi i f)``: the difference of two shifted copies of one function.
At whole positions ``j``, starts ``L = l n`` and widths ``W = w n``

    mask(j) = G(j - L) - G(j - L - W),   d mask / d w = D(j - L - W),   d mask / d l = D(j - L - W) - D(j - L),

where ``D`` has the frequencies ``C`` and ``G``, a smooth staircase that climbs by 1 each ``n`` steps, is its integral.
So one table of each for every ``(n, sigma)`` holds all masks and gradients as windows of ``n`` numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint

WINDOWS = 3
"""Periods in a table: a step lies at most at ``L + W < 2 n``, and a window behind it takes one period more."""


def gaudi_mask(width: Tensor, start: Tensor, n: int, sigma: float = math.inf) -> Tensor:
    """Gaussian-Dirichlet masks of boxes on ``n`` cyclic positions, by their definition: an inverse transform for each.

    At whole ``width * n`` and ``start * n``, and without a Gaussian, a mask is 1 on the positions ``start * n``,
    ``start * n + 1``, ... (modulo ``n``) of the box and 0 elsewhere; in between it rings. The sum over all positions
    is ``width * n`` whatever ``sigma`` is. Differentiable in ``width``, also at 0, and in ``start``.

    Args:
        width: shares of ``n``, in ``[0, 1]``, of any shape ``(*,)``; real.
        start: where the boxes begin, shares of ``n``, of a shape that broadcasts with that of ``width``.
        n: how many positions.
        sigma: standard deviation of the Gaussian over frequencies: small ones blur the box; ``inf`` leaves it out.

    Returns:
        Masks of shape ``(*, n)``.

    Raises:
        ArgumentError: if ``n`` or ``sigma`` is not positive.
        DtypeError: if ``width`` is not of a floating type.

    Example:
        >>> import torch
        >>> from kmatrix.structures.gaudi import gaudi_mask
        >>> mask = gaudi_mask(torch.tensor(3 / 8), torch.tensor(6 / 8), n=8)
        >>> [round(x) for x in mask.tolist()]
        [1, 0, 0, 0, 0, 0, 1, 1]

    Reference: Lee and Kim, Differentiable learning of generalized structured matrices for efficient deep neural
    networks (arXiv 2310.18882), the Gaudi function.
    """
    n = check_size("gaudi_mask", "n", n)
    sigma = checked_sigma("gaudi_mask", sigma)
    if not width.is_floating_point():
        way_out = "pass shares of n, for example width / n"
        raise DtypeError(complaint("gaudi_mask", "width.dtype", width.dtype, "not a floating type", way_out))
    f = torch.arange(n // 2 + 1, dtype=width.dtype, device=width.device)
    w, start = width.unsqueeze(-1), start.unsqueeze(-1)
    size = w * torch.sinc(f * w) / torch.sinc(f / n) * torch.exp(-0.5 * (f / sigma) ** 2)
    angle = math.pi * f * (1 / n - w - 2 * start)
    # Not polar(size, angle), which has no derivative where the size is 0: empty boxes would stay empty.
    mask: Tensor = torch.fft.irfft(torch.complex(size * angle.cos(), size * angle.sin()), n, norm="forward")
    return mask


def checked_sigma(where: str, sigma: object) -> float:
    """The width of the Gaussian as a float, or raise if it is not a positive number."""
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not sigma > 0:
        way_out = "pass a number of frequencies such as 100, or math.inf for exact boxes"
        raise ArgumentError(complaint(where, "sigma", repr(sigma), "not a positive number", way_out))
    return float(sigma)


def tables(n: int, sigma: float, *, dtype: torch.dtype, device: torch.device | str | None = None) -> Tensor:
    """The staircase ``G`` and its slope ``D`` over three periods, ``(2, 3 n)``: what ``windows`` takes rows of.

    Without a Gaussian the staircase consists of whole numbers, so that masks are exact in every number type.

    Args:
        n: how many positions.
        sigma: standard deviation of the Gaussian over frequencies, ``inf`` for none.
        dtype: number type, real; computed in double precision.
        device: where the tables shall live.
    """
    f = torch.arange(n // 2 + 1, dtype=torch.float64)
    size = torch.exp(-0.5 * (f / sigma) ** 2) / torch.sinc(f / n)
    spectrum = torch.polar(size, math.pi * f / n)
    slope = torch.fft.irfft(spectrum, n, norm="forward")
    if sigma == math.inf:
        period = torch.zeros(n, dtype=torch.float64)
    else:
        integral = spectrum / (2j * math.pi * f.clamp(min=1))
        integral[0] = 0
        period = torch.fft.irfft(integral, n, norm="forward") + torch.arange(n, dtype=torch.float64) / n
    stairs = torch.cat([period + step for step in range(-WINDOWS + 1, 1)])
    return torch.stack([stairs, slope.repeat(WINDOWS)]).to(device, dtype)


def windows(table: Tensor) -> Tensor:
    """All windows of one period, as rows of a view: the function shifted by ``s`` steps is row ``2 n - s``."""
    return table.unfold(-1, table.shape[-1] // WINDOWS, 1)


def steps_of(width: Tensor, start: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Rows of ``windows`` for the steps at the beginning and at the end of boxes, rounded to whole positions."""
    first = whole_starts(start, n)
    last = (WINDOWS - 1) * n - first
    return last, last - whole_widths(width, n)


def whole_widths(width: Tensor, n: int) -> Tensor:
    """Widths rounded to whole numbers of positions; where training has diverged, nothing."""
    return (width.detach() * n).nan_to_num().round().clamp(0, n).to(torch.int64)


def whole_starts(start: Tensor, n: int) -> Tensor:
    """Starts rounded to whole positions, modulo ``n``."""
    return (start.detach() * n).nan_to_num().remainder(n).round().to(torch.int64) % n
