"""Gradient learning: recovery of members, learnt permutations, and the ways in which it can be stopped."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

import kmatrix as km
from kmatrix import ArgumentError, DtypeError, FitError
from kmatrix.fitting.learning.gradient import Moment, learn
from kmatrix.structures import (
    ACDC,
    AFDF,
    BPBP,
    OBB,
    BPPermutation,
    Circulant,
    FixedBPBP,
    LowRank,
    OrthogonalButterfly,
    Permutation,
    Product,
    RealPart,
    Structure,
    Sum,
)


def member(structure: Structure, m: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return structure.random(m, n, dtype=dtype, generator=generator).to_dense().detach()


def distance(target: Tensor, matrix: km.StructuredMatrix) -> float:
    return float(
        torch.linalg.vector_norm(target - matrix.to_dense().detach()) / torch.linalg.vector_norm(target)
    )


@pytest.mark.parametrize(
    ("structure", "shape", "dtype"),
    [
        (km.Butterfly(), (12, 10), torch.float64),
        (km.Butterfly(), (8, 8), torch.complex128),
        (OBB(), (8, 8), torch.float64),
        (OrthogonalButterfly(), (12, 7), torch.float64),
        (ACDC(depth=1), (9, 9), torch.float64),
        (AFDF(depth=1), (6, 6), torch.complex128),
        (Sum((LowRank(rank=1), Circulant())), (7, 7), torch.float64),
        (Product((km.Butterfly(), LowRank(rank=2)), (8,)), (8, 5), torch.float64),
        (RealPart(AFDF(depth=1)), (6, 6), torch.float64),
    ],
    ids=str,
)
def test_members_are_learnt_without_a_closed_form(
    structure: Structure, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    target = member(structure, *shape, dtype)
    learnt = learn(target, structure, restarts=4, steps=120, closed_form=False, seed=1)
    assert learnt.relative_error < 1e-12
    assert learnt.matrix.structure == structure
    assert distance(target, learnt.matrix) == pytest.approx(learnt.relative_error, abs=1e-15)


@pytest.mark.parametrize("n", [8, 16])
def test_fourier_transforms_with_a_learnt_permutation(n: int) -> None:
    target = torch.from_numpy(scipy.fft.fft(np.eye(n), axis=0, norm="ortho"))
    learnt = learn(target, BPBP(depth=1), restarts=12, steps=120, rounds=5)
    assert learnt.relative_error < 1e-13
    assert learnt.matrix.structure == FixedBPBP(depth=1, kind="given")
    assert learnt.matrix.num_params == 4 * n - 4


def test_a_cosine_transform_as_the_real_part_of_a_learnt_one() -> None:
    target = torch.from_numpy(scipy.fft.dct(np.eye(8), axis=0, norm="ortho"))
    structure = RealPart(Product((BPBP(depth=1), BPPermutation(levels=1)), (8,)))
    learnt = learn(target, structure, restarts=12, steps=120, rounds=5)
    assert learnt.relative_error < 1e-12
    fixed = RealPart(Product((FixedBPBP(depth=1, kind="given"), Permutation()), (8,)))
    assert learnt.matrix.structure == fixed


def test_the_same_seed_gives_the_same_numbers() -> None:
    target = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, again, other = (learn(target, OBB(), restarts=2, steps=30, refine=30, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.matrix.to_dense(), again.matrix.to_dense())
    assert not torch.equal(first.matrix.to_dense(), other.matrix.to_dense())
    assert [m.rmse for m in first.history] == [m.rmse for m in again.history]


def test_starts_are_kept_as_they_are_and_never_made_worse() -> None:
    start = OBB().random(8, 8, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    before = start.to_dense().detach().clone()
    target = before.double() + 0.1 * torch.eye(8, dtype=torch.float64)
    learnt = learn(target, OBB(), restarts=0, refine=20, starts=[start])
    assert torch.equal(start.to_dense().detach(), before)
    assert learnt.relative_error < distance(target, start.double())
    assert learnt.matrix.dtype == torch.float64


def test_large_targets_are_learnt_through_a_sketch() -> None:
    structure = LowRank(rank=1)
    u, v = (
        torch.randn(k, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (800, 900)
    )
    target = torch.outer(u, v)
    learnt = learn(target, structure, restarts=1, steps=0, refine=60, closed_form=False)
    assert learnt.relative_error < 1e-10


def test_progress_is_told_and_recorded() -> None:
    told: list[Moment] = []
    learnt = learn(member(OBB(), 8, 8), OBB(), restarts=2, steps=40, progress=told.append)
    assert tuple(told) == learnt.history
    assert {m.phase for m in told} >= {"race", "refine"}
    assert all(a.seconds <= b.seconds and a.steps <= b.steps for a, b in pairwise(told))
    assert learnt.seconds_to(math.inf) <= learnt.seconds_to(1e-6) <= learnt.seconds
    assert learnt.seconds_to(0.0) == math.inf


def test_a_deadline_in_the_past_still_gives_a_member() -> None:
    learnt = learn(member(OBB(), 8, 8), OBB(), restarts=2, deadline=time.monotonic() - 1)
    assert learnt.interrupted
    assert learnt.matrix.structure == OBB()


@pytest.mark.parametrize("phase", ["race", "refine"])
def test_an_interruption_keeps_the_best_so_far(phase: str) -> None:
    def interrupt(moment: Moment) -> None:
        if moment.phase == phase and moment.steps >= 20:
            raise KeyboardInterrupt

    target = torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    learnt = learn(target, BPBP(depth=1), restarts=2, steps=60, progress=interrupt)
    assert learnt.interrupted
    assert learnt.matrix.structure == FixedBPBP(depth=1, kind="given")
    assert distance(target, learnt.matrix) == pytest.approx(learnt.relative_error)


def test_members_can_be_drawn_by_the_caller() -> None:
    def draw(dtype: torch.dtype, generator: torch.Generator) -> km.StructuredMatrix:
        matrix = BPBP(depth=1).empty(8, 8, dtype=dtype)
        matrix.reset_parameters(generator, init="orthogonal")
        return matrix

    target = torch.from_numpy(scipy.fft.fft(np.eye(8), axis=0, norm="ortho"))
    assert learn(target, BPBP(depth=1), restarts=12, steps=120, rounds=5, draw=draw).relative_error < 1e-13


def test_the_zero_matrix_is_learnt() -> None:
    learnt = learn(torch.zeros(4, 4, dtype=torch.float64), LowRank(rank=1), restarts=2, steps=50)
    assert float(learnt.matrix.to_dense().detach().abs().max()) < 1e-6


def test_bad_arguments_are_refused() -> None:
    square = torch.eye(4, dtype=torch.float64)
    with pytest.raises(ArgumentError, match="not a matrix"):
        learn(torch.ones(3), OBB())
    with pytest.raises(ArgumentError, match="NaN"):
        learn(square * math.nan, OBB())
    with pytest.raises(DtypeError, match="not floating"):
        learn(torch.eye(4, dtype=torch.int64), OBB())
    with pytest.raises(ArgumentError, match="restarts"):
        learn(square, OBB(), restarts=0)
    with pytest.raises(ArgumentError, match="square"):
        learn(torch.ones(3, 4), Permutation())
    with pytest.raises(DtypeError, match="real"):
        learn(square.to(torch.complex128), OBB())
    with pytest.raises(FitError, match="no numbers"):
        learn(square, Permutation())
