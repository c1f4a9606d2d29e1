"""Orthogonal starts of butterflies: every 2 x 2 block a random rotation or reflection, or a unitary matrix.

A product of twenty factors of normal numbers is badly conditioned, above all when one block is repeated in each factor;
with orthogonal blocks all singular values are one. Both papers' released code has such a start for its networks.
"""

from __future__ import annotations

import math

import torch
from torch import nn

import kmatrix as km


def bpbp(n: int, *, is_complex: bool) -> km.StructuredMatrix:
    """BPBP with fixed bit reversals, orthogonal; or the real part of a unitary one."""
    matrix = km.FixedBPBP().empty(n, n, dtype=torch.complex64 if is_complex else torch.float32)
    matrix.reset_parameters(init="orthogonal")
    return km.structures.RealPartMatrix(matrix) if is_complex else matrix


def kaleidoscope(n: int) -> km.StructuredMatrix:
    """One BB*, orthogonal."""
    matrix = km.Kaleidoscope().random(n, n, dtype=torch.float32)
    assert isinstance(matrix, km.ChainMatrix)
    with torch.no_grad():
        for factor in matrix.factors:
            assert isinstance(factor, torch.Tensor)
            a, _, _, d = factor.shape
            angle = torch.rand(a, d) * (2 * math.pi)
            sign = torch.randint(2, (a, d)) * 2.0 - 1.0
            c, s = torch.cos(angle), torch.sin(angle)
            factor.copy_(torch.stack([torch.stack([sign * c, -sign * s], 1), torch.stack([s, c], 1)], 1))
    return matrix


def linear(matrix: km.StructuredMatrix) -> km.nn.Linear:
    """A layer of a matrix, with a bias of zeros."""
    return km.nn.Linear.from_matrix(matrix, nn.Parameter(torch.zeros(matrix.shape[0])))
