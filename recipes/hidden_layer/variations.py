"""Variations of MNIST: rotations, backgrounds of photographs, backgrounds of correlated noise.

Built from the published description of the original sets (Larochelle et al. 2007, "An empirical evaluation of deep
architectures on problems with many factors of variation"). Images are float32 between 0 and 1; every random choice
comes from the generator that is passed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 28
_CHUNK = 4096  # images that are turned at once


def rotated(images: Tensor, angles: Tensor) -> Tensor:
    """Images ``(k, h, w)``, each turned counter-clockwise by its angle in radians, with zeros from outside."""
    turned = []
    for part, angle in zip(torch.split(images, _CHUNK), torch.split(angles, _CHUNK), strict=True):
        c, s, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
        # A grid says where each output pixel is taken from; y points down, so this turns the content to the left.
        inverse = torch.stack([c, -s, zero, s, c, zero], 1).reshape(-1, 2, 3)
        grid = F.affine_grid(inverse, [len(part), 1, *part.shape[1:]], align_corners=False)
        turned.append(F.grid_sample(part.unsqueeze(1), grid, align_corners=False).squeeze(1))
    return torch.cat(turned)


def correlated_noise(count: int, weight: float, bandwidth: float, generator: torch.Generator) -> Tensor:
    """Backgrounds ``(count, 28, 28)``, uniform in each pixel, near pixels correlated.

    Normal numbers of covariance ``(1 - weight) I + weight K`` with ``K = exp(-|p - q|^2 / bandwidth^2)`` for the
    positions p and q, each put through the normal distribution function. ``weight`` 0 is white noise.
    """
    position = torch.arange(SIDE, dtype=torch.float64)
    kernel = torch.exp(-((position[:, None] - position) ** 2) / bandwidth**2)
    values, vectors = torch.linalg.eigh(kernel)
    # K is the Kronecker product of two such kernels, so its root is applied along each axis in turn.
    root = ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float()
    white, smooth = torch.randn(2, count, SIDE, SIDE, generator=generator)
    noise = math.sqrt(1 - weight) * white + math.sqrt(weight) * (root @ smooth @ root)
    uniform: Tensor = torch.special.ndtr(noise)
    return uniform


def patches(photographs: Tensor, count: int, least_spread: float, generator: torch.Generator) -> Tensor:
    """``count`` random 28 x 28 patches of grey photographs ``(k, h, w)``, stretched to the range 0 to 1.

    Patches whose standard deviation is below ``least_spread`` have too little texture and are drawn again.
    """
    k, h, w = photographs.shape
    windows = photographs.unfold(1, SIDE, 1).unfold(2, SIDE, 1)
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        which, top, left = (
            torch.randint(size, (_CHUNK,), generator=generator) for size in (k, h - SIDE + 1, w - SIDE + 1)
        )
        drawn = windows[which, top, left]
        found.append(drawn[drawn.std((1, 2)) >= least_spread])
    chosen = torch.cat(found)[:count]
    low, high = chosen.amin((1, 2), keepdim=True), chosen.amax((1, 2), keepdim=True)
    return (chosen - low) / (high - low)


def over(digits: Tensor, background: Tensor) -> Tensor:
    """White digits on a background: the grey of a digit is its opacity."""
    return digits + (1 - digits) * background
