"""Toeplitz-like matrices: the conformance tests, their definition, their displacement rank."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

import kmatrix as km
from kmatrix.cli.recipe import recipes
from kmatrix.testing import StructureConformance

ToeplitzLike: Any = importlib.import_module(f"{recipes().__name__}.common.toeplitz_like").ToeplitzLike


class TestToeplitzLike(StructureConformance):
    examples = (
        (ToeplitzLike(2), 6, 6),
        (ToeplitzLike(1), 7, 7),
        (ToeplitzLike(3), 1, 1),
        (ToeplitzLike(2), 15, 6),
        (ToeplitzLike(2), 3, 8),
    )
    dtypes = (torch.float64,)
    half = False
    test_file_round_trip = None


@pytest.mark.parametrize(("m", "n"), [(9, 9), (15, 6), (3, 8)])
def test_is_what_its_definition_says(m: int, n: int) -> None:
    A = ToeplitzLike(3).random(m, n, dtype=torch.float64)
    blocks = []
    for stack in A.numbers.detach().transpose(0, 1).numpy():
        block = np.zeros((n, n))
        for g, h in zip(*stack, strict=True):
            skew = scipy.linalg.circulant(h)
            skew[np.triu_indices(n, 1)] *= -1
            block += scipy.linalg.circulant(g) @ skew
        blocks.append(block)
    expected = np.concatenate(blocks)[:m]
    np.testing.assert_allclose(A.to_dense().detach().numpy(), expected, rtol=0, atol=1e-14)


def test_displacement_rank_is_small() -> None:
    n, rank = 12, 2
    A = ToeplitzLike(rank).random(n, n, dtype=torch.float64).to_dense().detach().numpy()
    up, down = scipy.linalg.circulant(np.eye(n)[1]), scipy.linalg.circulant(np.eye(n)[1])
    down[0, -1] = -1
    assert np.linalg.matrix_rank(up @ A - A @ down) == rank
    assert np.linalg.matrix_rank(A) == n


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, km.ArgumentError), (1.5, km.DtypeError), (True, km.DtypeError)]
)
def test_refuses_ranks_and_sizes(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"ToeplitzLike: rank=.*: not .*; use 1, 2"):
        ToeplitzLike(wrong)
    with pytest.raises(error, match=r"ToeplitzLike: n=.*: not .*; use 1, 2"):
        ToeplitzLike(1).random(4, wrong)


def test_refuses_what_real_transforms_cannot_hold() -> None:
    with pytest.raises(km.DtypeError, match="use float32 or float64"):
        ToeplitzLike(1).random(3, 3, dtype=torch.complex64)
