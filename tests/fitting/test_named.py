"""Fitting a named structure: the right method for each, rules of one's own, and the public function on top."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.fitting import named
from kmatrix.fitting.certificate import relative_error
from kmatrix.fitting.named import fit_into, polished
from kmatrix.fitting.problem import Problem, Proposal, TimeUp
from kmatrix.structures import (
    BPBP,
    OBB,
    BlockDiagonal,
    Fastfood,
    FixedBPBP,
    LowRank,
    Monarch,
    RealPart,
    Scaled,
    Structure,
    StructuredMatrix,
    Transpose,
)

RNG = np.random.default_rng(1)


def fitted(structure: Structure, target: Tensor, tol: float = 1e-10) -> tuple[float, Proposal]:
    proposal = fit_into(structure, Problem(target, tol))
    assert proposal.matrix.shape == tuple(target.shape)
    gap = torch.linalg.vector_norm(proposal.matrix.to_dense().detach() - target)
    return float(gap / torch.linalg.vector_norm(target)), proposal


def member(structure: Structure, m: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return structure.random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(3)).to_dense().detach()


@pytest.mark.parametrize(
    ("structure", "shape", "note"),
    [
        (LowRank(rank=2), (9, 7), "nearest member, in closed form"),
        (Monarch(nblocks=4), (16, 12), "nearest member, in closed form"),
        (BlockDiagonal(nblocks=3), (9, 6), "nearest member, in closed form"),
        (km.Butterfly(), (24, 30), "hierarchical factorisation"),
        (km.Butterfly(ranks=2), (16, 16), "hierarchical factorisation"),
        (km.Kaleidoscope(), (32, 32), "peeling"),
        (OBB(), (16, 16), "peeling"),
        (Fastfood(), (64, 64), "recognised from its entries"),
        (Transpose(km.Butterfly()), (12, 8), "hierarchical factorisation"),
        (Scaled(km.Butterfly()), (12, 8), "hierarchical factorisation"),
        (FixedBPBP(depth=1), (16, 16), "rank-one tiles"),
    ],
    ids=str,
)
def test_members_are_found_without_learning(structure: Structure, shape: tuple[int, int], note: str) -> None:
    error, proposal = fitted(structure, member(structure, *shape))
    assert error < 1e-10
    assert proposal.note == note
    assert proposal.matrix.structure == structure


@pytest.mark.parametrize(
    ("structure", "note"),
    [
        (km.BLAST(2, 2), "a local solution, by alternating least squares"),
        (km.Kronecker((3, 3)), "a local solution, by alternating least squares"),
        (km.Kronecker((2, 4)), "nearest member, in closed form"),
        (km.Sum((km.Sparse(4), km.LowRank(1))), "a local solution, by alternating projections"),
        (Transpose(km.BLAST(2, 2)), "a local solution, by alternating least squares"),
    ],
    ids=str,
)
def test_local_solutions_are_called_that(structure: Structure, note: str) -> None:
    assert fitted(structure, torch.from_numpy(RNG.standard_normal((8, 8))))[1].note == note


@pytest.mark.parametrize(
    "structure",
    [
        km.Kaleidoscope(),
        OBB(),
        BPBP(),
        Fastfood(),
        km.ACDC(),
        RealPart(km.Kaleidoscope()),
        km.Product((km.Diagonal(), km.OrthogonalButterfly()), (16,)),
        km.Sum((OBB(), LowRank(1))),
    ],
    ids=str,
)
def test_a_zero_target_gets_the_zero_member(structure: Structure) -> None:
    found = km.fit(np.zeros((16, 16)), structure, batches=())
    assert found.relative_error == 0.0
    assert not found.matrix.to_dense().any()
    assert found.method == "all numbers zero"


def test_a_zero_target_where_zero_is_no_member() -> None:
    found = km.fit(np.zeros((4, 4)), km.OrthogonalButterfly(), batches=())
    assert found.relative_error == pytest.approx(2.0)  # the norm of any orthogonal matrix


def _slow_starts(calls: list[str], error: type[BaseException]) -> Iterator[tuple[StructuredMatrix, str]]:
    generator = torch.Generator().manual_seed(0)
    for name in ("first", "second"):
        calls.append(name)
        yield OBB().random(8, 8, dtype=torch.float64, generator=generator), name
    calls.append("third")
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeUp])
def test_starts_that_are_cut_short_leave_the_best_of_those_made(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(named, "starts", lambda structure, problem: _slow_starts(calls, error))
    target = member(OBB(), 8, 8) + OBB().random(8, 8, dtype=torch.float64).to_dense().detach() / 10
    target = target + next(_slow_starts([], error))[0].to_dense().detach() * 10
    _, proposal = fitted(OBB(), target)
    assert calls == ["first", "second", "third"]
    assert proposal.interrupted
    assert proposal.note == "first"


def test_ctrl_c_before_the_first_start_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(structure: Structure, problem: Problem) -> Iterator[tuple[StructuredMatrix, str]]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(named, "starts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_into(OBB(), Problem(torch.eye(8, dtype=torch.float64), 1e-10))


def test_no_start_is_made_once_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(named, "starts", lambda structure, problem: _slow_starts(calls, TimeUp))
    target = next(_slow_starts([], TimeUp))[0].to_dense().detach() + 0.01
    found = fit_into(OBB(), Problem(target, 1e-10, deadline=time.monotonic() - 1))
    assert calls == ["first"]
    assert found.interrupted and found.note == "first"


@pytest.mark.parametrize("conjugate", [False, True])
def test_transposes_of_complex_members(conjugate: bool) -> None:
    structure = Transpose(km.Butterfly(), conjugate)
    error, proposal = fitted(structure, member(structure, 8, 12, torch.complex128))
    assert error < 1e-14
    assert proposal.matrix.structure == structure


def test_a_matrix_outside_is_brought_nearer_than_its_best_start() -> None:
    target = torch.from_numpy(RNG.standard_normal((8, 8)))
    error, proposal = fitted(km.Butterfly(), target)
    from kmatrix.fitting.chains.nesting import nest

    start = nest(km.Butterfly(), target)
    assert start is not None
    before = torch.linalg.vector_norm(start.to_dense().detach() - target) / torch.linalg.vector_norm(target)
    assert error < float(before)
    assert "gradient steps from hierarchical factorisation and random starts" in proposal.note


def test_noise_around_a_member_is_the_error() -> None:
    clean = member(OBB(), 8, 8)
    noise = torch.from_numpy(RNG.standard_normal((8, 8)))
    noise *= 1e-4 * torch.linalg.vector_norm(clean) / torch.linalg.vector_norm(noise)
    error, _ = fitted(OBB(), clean + noise)
    assert error <= 1e-4


def test_learnt_permutations_come_back_fixed() -> None:
    fourier = torch.fft.fft(torch.eye(32, dtype=torch.complex128))
    error, proposal = fitted(BPBP(depth=1), fourier)
    assert error < 1e-14
    assert proposal.matrix.structure == FixedBPBP(depth=1, kind="given")


def test_a_real_target_in_a_complex_structure() -> None:
    circulant = torch.from_numpy(scipy.linalg.circulant(RNG.standard_normal(16)))
    error, proposal = fitted(RealPart(km.Kaleidoscope()), circulant)
    assert error < 1e-13
    assert proposal.matrix.dtype == torch.float64


def test_the_deadline_is_kept() -> None:
    target = torch.from_numpy(RNG.standard_normal((64, 64)))
    proposal = fit_into(OBB(width=2), Problem(target, 1e-10, deadline=time.monotonic()))
    assert proposal.matrix.structure == OBB(width=2)


@dataclass(frozen=True)
class Mine(LowRank):
    """A family with its own rule."""


@fit_into.register
def _(structure: Mine, problem: Problem) -> Proposal:
    return Proposal(LowRank(1).random(*problem.shape, dtype=problem.dense.dtype), "by my own rule")


def test_rules_of_ones_own() -> None:
    assert fitted(Mine(rank=1), torch.eye(4, dtype=torch.float64))[1].note == "by my own rule"


def test_the_public_function_takes_the_same_way() -> None:
    found = km.fit(member(km.Kaleidoscope(), 16, 16), km.Kaleidoscope(), tol=1e-10, batches=())
    assert found.relative_error < 1e-10
    assert found.method == "peeling"


def test_single_precision_members_are_found_to_single_precision() -> None:
    found = km.fit(member(km.Kaleidoscope(), 16, 16).float(), km.Kaleidoscope(), batches=())
    assert found.relative_error < 1e-6
    assert found.matrix.dtype == torch.float32


def test_a_learnt_butterfly_is_polished_by_exact_steps() -> None:
    target = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    problem = Problem(target, 1e-10)
    rough = km.Butterfly().random(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    better = polished(Proposal(rough, "drawn"), problem)
    assert better.note == "drawn, 3 sweeps of least squares"
    errors = [relative_error(target, m.to_dense().detach()) for m in (rough, better.matrix)]
    assert errors[1] < errors[0]
    other = Proposal(km.Toeplitz().random(12, 12, dtype=torch.float64), "drawn")
    assert polished(other, problem) is other
