"""The six targets of the table, and what the theorems make of them.

All have a Frobenius norm of about ``sqrt(n)``. Five are the draws of the paper's code, by numpy from seed 0; the
target K is a random member of OBB with a standard normal diagonal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # loads its parts when they are asked for
import torch
from torch import Tensor

import kmatrix as km

NAMES = ("k", "low-rank", "sparse", "convolution", "fastfood", "random")


@dataclass(frozen=True)
class Target:
    """A dense target, and the K-matrix that a theorem gives for it, if there is one."""

    dense: Tensor
    exact: km.StructuredMatrix | None
    theorem: str


def target(name: str, n: int) -> Target:
    """One of the targets, in double precision; ``n`` is a power of two."""
    return _MAKERS[name](n)


def _k(n: int) -> Target:
    generator = torch.Generator().manual_seed(0)
    member = km.OBB().random(n, n, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        for name, numbers in member.named_parameters():
            if "diagonal" in name:
                numbers.normal_(generator=generator)
        return Target(member.to_dense(), member, "a member of OBB")


def _low_rank(n: int) -> Target:
    draw = np.random.RandomState(0)
    u, v = draw.randn(n, 1) / math.sqrt(n), draw.randn(n, 1).T
    exact = km.constructions.low_rank(u, v)
    return Target(torch.from_numpy(u @ v), exact, "Lemma I.4")


def _sparse(n: int) -> Target:
    draw = np.random.RandomState(0)
    places = scipy.sparse.random(n, n, density=1 / n, data_rvs=np.ones, random_state=draw).toarray()
    dense = draw.randn(n, n) * places
    return Target(torch.from_numpy(dense), km.constructions.sparse(dense), "Theorem 3")


def _convolution(n: int) -> Target:
    column = np.random.RandomState(0).randn(n) / math.sqrt(n)
    exact = km.constructions.circulant(column)
    return Target(torch.from_numpy(scipy.linalg.circulant(column)), exact, "Lemma J.5")


def _fastfood(n: int) -> Target:
    draw = np.random.RandomState(0)
    draw.randn(n)  # the paper's code has drawn the convolution from the same generator before
    s, g, b = (draw.randn(n) for _ in range(3))
    order, h = draw.permutation(n), scipy.linalg.hadamard(n)
    dense = s[:, None] * (h @ (g[:, None] * (h * b)[order])) / n
    return Target(torch.from_numpy(dense), km.constructions.fastfood(s / n, g, order, b), "Lemma J.7")


def _random(n: int) -> Target:
    return Target(torch.from_numpy(np.random.RandomState(0).randn(n, n) / math.sqrt(n)), None, "")


_MAKERS = dict(zip(NAMES, (_k, _low_rank, _sparse, _convolution, _fastfood, _random), strict=True))
