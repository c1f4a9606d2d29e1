"""Constructions as starts: every theorem gives back its own matrices, within the structure that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.fitting.problem import Problem
from kmatrix.fitting.starts.by_structure import starts
from kmatrix.structures import BPBP, OBB, Diagonal, Fastfood, FixedBPBP, LowRank, Product, RealPart, Structure

RNG = np.random.default_rng(0)


def errors(structure: Structure, target: Tensor) -> dict[str, float]:
    """Relative error of every start by the name of its construction; all must be members."""
    found = {}
    for matrix, how in starts(structure, Problem(target, 1e-10)):
        assert matrix.shape == tuple(target.shape)
        if not isinstance(structure, BPBP | RealPart):
            assert matrix.structure == structure
        gap = torch.linalg.vector_norm(matrix.to_dense().detach() - target)
        found[how] = float(gap / torch.linalg.vector_norm(target))
    return found


def sparse(n: int, count: int) -> Tensor:
    flat = torch.zeros(n * n, dtype=torch.float64)
    flat[torch.from_numpy(RNG.choice(n * n, count, replace=False))] = torch.from_numpy(
        RNG.standard_normal(count)
    )
    return flat.view(n, n)


def member(structure: Structure, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return structure.random(n, n, dtype=dtype, generator=torch.Generator().manual_seed(n)).to_dense().detach()


def test_kaleidoscope_peeling() -> None:
    assert errors(km.Kaleidoscope(), member(km.Kaleidoscope(), 16))["peeling"] < 1e-11
    assert errors(km.Kaleidoscope(2, 2), member(km.Kaleidoscope(), 16))["peeling"] < 1e-11


def test_kaleidoscope_butterflies() -> None:
    butterfly = member(km.Butterfly(), 16)
    assert errors(km.Kaleidoscope(), butterfly)["a hierarchical factorisation"] < 1e-13
    assert errors(km.Kaleidoscope(), butterfly.T)["a transposed hierarchical factorisation"] < 1e-13


def test_kaleidoscope_permutations() -> None:
    scaled = torch.diag(torch.arange(1.0, 13.0, dtype=torch.float64))[torch.from_numpy(RNG.permutation(12))]
    assert errors(km.Kaleidoscope(), scaled)["one entry in each row and column"] < 1e-15


@pytest.mark.parametrize(("width", "expansion", "rank"), [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 4, 6)])
def test_kaleidoscope_low_rank(width: int, expansion: int, rank: int) -> None:
    target = torch.from_numpy(RNG.standard_normal((13, rank)) @ RNG.standard_normal((rank, 9)))
    assert errors(km.Kaleidoscope(width, expansion), target)[f"singular vectors, rank {rank}"] < 1e-13


@pytest.mark.parametrize(("width", "expansion", "terms"), [(4, 1, 1), (4, 2, 2), (4, 4, 4)])
def test_kaleidoscope_sparse(width: int, expansion: int, terms: int) -> None:
    assert errors(km.Kaleidoscope(width, expansion), sparse(16, 16 * terms))["the largest entries"] < 1e-14


def test_kaleidoscope_fourier_transform_in_natural_order() -> None:
    fourier = torch.fft.fft(torch.eye(16, dtype=torch.complex128))
    found = errors(km.Kaleidoscope(width=2), fourier)
    assert found["a hierarchical factorisation, bit-reversed columns"] < 1e-14


def test_kaleidoscope_fastfood() -> None:
    assert errors(km.Kaleidoscope(width=2), member(Fastfood(), 32))["a Fastfood matrix"] < 1e-12


def test_kaleidoscope_real_targets_get_real_starts() -> None:
    target = torch.from_numpy(scipy.linalg.circulant(RNG.standard_normal(16)))
    assert "peeling" not in errors(km.Kaleidoscope(), target)
    assert errors(RealPart(km.Kaleidoscope()), target)["peeling"] < 1e-13


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (8, 7)])
def test_kaleidoscope_any_shape(shape: tuple[int, int]) -> None:
    assert errors(km.Kaleidoscope(4, 4), torch.from_numpy(RNG.standard_normal(shape)))


@pytest.mark.parametrize("n", [2, 4, 32])
@pytest.mark.parametrize("width", [1, 2])
def test_obb_peeling(n: int, width: int) -> None:
    drawn = OBB().random(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    with torch.no_grad():
        drawn.stored_diagonals.copy_(torch.from_numpy(RNG.standard_normal((1, n))))
    assert errors(OBB(width), drawn.to_dense().detach())["peeling"] < 1e-12


def test_obb_rank_one() -> None:
    target = torch.from_numpy(np.outer(RNG.standard_normal(16), RNG.standard_normal(11)))
    assert errors(OBB(), target)["the leading singular vectors"] < 1e-14


@pytest.mark.parametrize("width", [4, 5])
def test_obb_sparse(width: int) -> None:
    assert errors(OBB(width), sparse(16, 16))["the largest entries"] < 1e-14


def test_obb_between_diagonals_holds_fastfood() -> None:
    structure = Product((Diagonal(), OBB(width=2), Diagonal()), (32, 32))
    assert errors(structure, member(Fastfood(), 32))["a Fastfood matrix"] < 1e-12


def test_obb_of_other_radices_and_unitary_blocks_have_no_starts() -> None:
    assert errors(OBB(), torch.eye(12, dtype=torch.float64)) == {}
    assert errors(OBB(unitary=True), torch.eye(8, dtype=torch.complex128)) == {}


def test_fourier_transforms_are_found_under_bit_reversal() -> None:
    fourier = torch.fft.fft(torch.eye(16, dtype=torch.complex128))
    assert errors(BPBP(depth=1), fourier)["rank-one tiles under bit reversal"] < 1e-14
    assert errors(FixedBPBP(depth=1), fourier)["rank-one tiles"] < 1e-14


def test_convolutions_are_found_between_bit_reversals() -> None:
    target = torch.from_numpy(scipy.linalg.circulant(RNG.standard_normal(16)))
    for structure in (RealPart(BPBP(depth=2)), RealPart(FixedBPBP(depth=2))):
        assert errors(structure, target)["the nearest circulant matrix"] < 1e-14


def test_families_without_a_rule_have_no_starts() -> None:
    assert errors(LowRank(rank=1), torch.eye(4, dtype=torch.float64)) != {}  # a chain that nests
    assert errors(km.Sum((LowRank(rank=1),)), torch.eye(4, dtype=torch.float64)) == {}
