"""Projections: members come back, nothing gets closer than an exact minimiser, bad input is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, FitError
from kmatrix.fitting.projections.nearest import project, project_blast, project_chain, project_sum
from kmatrix.structures import (
    BLAST,
    BlockDiagonal,
    BlockLowRank,
    BlockTensorTrain,
    Butterfly,
    Chain,
    Dense,
    Diagonal,
    Factor,
    GroupShuffle,
    Kaleidoscope,
    Kronecker,
    LowRank,
    Monarch,
    Permute,
    Product,
    Sparse,
    Structure,
    StructuredMatrix,
    Sum,
    Transpose,
    deformable_butterfly,
)

f64 = torch.float64
DTYPES = (f64, torch.complex128)
EXACT: list[tuple[Structure, int, int]] = [
    (Dense(), 7, 13),
    (Diagonal(), 5, 9),
    (Diagonal(), 9, 5),
    (BlockDiagonal(3), 13, 7),
    (LowRank(3), 16, 12),
    (LowRank(2), 9, 40),
    (LowRank(5), 3, 4),
    (BlockTensorTrain((4, 2), 2), 24, 16),
    (BlockTensorTrain(), 13, 30),
    (BlockLowRank((2, 3), 2), 13, 17),
    (Monarch(), 25, 25),
    (Monarch(4), 24, 12),
    (Monarch(4), 30, 30),
    (Monarch(3), 13, 17),
    (GroupShuffle(3), 11, 20),
    (GroupShuffle((2, 3), 18, ("stride", "stride", "stride")), 7, 13),
    (deformable_butterfly(12, [(2, 3, 1), (5, 4, 2)]), 10, 12),
    (Butterfly(((3, 4), (5, 3))), 14, 12),
    (Kronecker((3, 4), 2), 15, 24),
    (Kronecker((12, 8)), 24, 16),
    (Sparse(20), 13, 7),
    (Transpose(BlockLowRank(2, 1)), 8, 6),
    (Transpose(LowRank(2), conjugate=True), 8, 6),
]
LOCAL: list[tuple[Structure, int, int]] = [
    (Kronecker((6, 5), 2), 13, 11),
    (Kronecker(rank=3), 13, 7),
    (BLAST(4, 6), 32, 32),
    (BLAST((2, 3), 4), 13, 17),
    (Sum((LowRank(2), Sparse(12))), 24, 20),
    (Sum((Diagonal(), LowRank(1))), 12, 15),
]


def generic(structure: Structure, m: int, n: int, dtype: torch.dtype) -> StructuredMatrix:
    """A member with random numbers everywhere."""
    A = structure.random(m, n, dtype=dtype)
    with torch.no_grad():
        for stored in A.parameters():
            stored.normal_()
    return A


def dense(A: StructuredMatrix) -> Tensor:
    return A.to_dense().detach()


def distance(A: StructuredMatrix, W: Tensor) -> float:
    return float(torch.linalg.vector_norm(dense(A) - W))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("structure", "m", "n"), EXACT + LOCAL, ids=str)
def test_members_come_back(structure: Structure, m: int, n: int, dtype: torch.dtype) -> None:
    W = dense(generic(structure, m, n, dtype))
    P = project(structure, W)
    assert P.structure == structure and P.shape == (m, n) and P.dtype == dtype
    assert distance(P, W) <= 1e-13 * float(W.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("structure", "m", "n"), EXACT, ids=str)
def test_projecting_twice_changes_nothing(structure: Structure, m: int, n: int, dtype: torch.dtype) -> None:
    P = project(structure, torch.randn(m, n, dtype=dtype))
    assert distance(project(structure, dense(P)), dense(P)) <= 1e-13 * float(dense(P).norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("structure", "m", "n"), [*EXACT, LOCAL[-1]], ids=str)
def test_no_number_can_be_moved_for_the_better(
    structure: Structure, m: int, n: int, dtype: torch.dtype
) -> None:
    W = torch.randn(m, n, dtype=dtype)
    P = project(structure, W)
    (P.to_dense() - W).abs().square().sum().backward()
    slopes = [float(p.grad.abs().max()) for p in P.parameters() if p.grad is not None]
    # Exact minimisers to rounding; alternation stops at a gain of 1e-7, the square of the slope that is left.
    assert max(slopes) <= (1e-3 if (structure, m, n) in LOCAL else 1e-12) * float(W.norm())


@pytest.mark.parametrize(
    ("structure", "m", "n"),
    [
        (LowRank(2), 6, 5),
        (BlockTensorTrain((2, 3), 1), 6, 9),
        (Monarch(3), 9, 9),
        (Monarch(3), 7, 8),
        (GroupShuffle((2, 3), 6, ("stride", "stride", "stride")), 5, 7),
        (Kronecker((2, 3)), 6, 6),
    ],
    ids=str,
)
def test_never_beaten_by_gradient_learning(structure: Structure, m: int, n: int) -> None:
    W = torch.randn(m, n, dtype=f64)
    best = distance(project(structure, W), W)
    for _ in range(3):
        A = generic(structure, m, n, f64)
        optimiser = torch.optim.LBFGS(A.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss(A: StructuredMatrix = A, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = (A.to_dense() - W).square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[arg-type]
        assert distance(A, W) >= best * (1 - 1e-12)


def tail(tile: Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(tile)[rank:].square().sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_error_is_what_the_tiles_discard(dtype: torch.dtype) -> None:
    W = torch.randn(22, 15, dtype=dtype)
    contiguous = [W[i : i + 8, j : j + 4] for i in (0, 8, 16) for j in (0, 4, 8, 12)]
    strided = [W[o::3, j : j + 4] for o in range(3) for j in (0, 4, 8, 12)]
    for structure, tiles in ((BlockLowRank((3, 4), 2), contiguous), (BlockTensorTrain((3, 4), 2), strided)):
        expected = sum(tail(tile, 2) for tile in tiles) ** 0.5
        assert distance(project(structure, W), W) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("m", "n", "nblocks"), [(30, 30, 4), (13, 17, 3), (20, 50, 5)])
def test_monarch_tiles_have_the_rank_of_their_wires(m: int, n: int, nblocks: int) -> None:
    W = torch.randn(m, n, dtype=f64)
    height, width = -(-m // nblocks), -(-n // nblocks)
    inner = min(height, width)
    wires = torch.arange(nblocks * inner)
    squares = [
        tail(
            W[o::nblocks, k * width : (k + 1) * width],
            int(((wires // inner == k) & (wires % nblocks == o)).sum()),
        )
        for o in range(nblocks)
        for k in range(nblocks)
    ]
    assert distance(project(Monarch(nblocks), W), W) == pytest.approx(sum(squares) ** 0.5, rel=1e-12)


def test_group_shuffle_with_given_permutations() -> None:
    structure = GroupShuffle((2, 3), 12, ("given", "given", "given"))
    permutations = [torch.randperm(size) for size in (9, 12, 10)]
    start = generic(structure, 10, 9, f64)
    start.set_permutations(permutations)  # type: ignore[operator]
    W = dense(start)
    P = project_chain(W, structure, permutations)
    assert distance(P, W) <= 1e-13 * float(W.norm())
    assert distance(project(structure, W), W) > 0.1 * float(W.norm())


def test_permutations_must_fit() -> None:
    with pytest.raises(ArgumentError, match="permutations"):
        project_chain(torch.randn(6, 6), GroupShuffle(2), [torch.arange(5)])


def test_one_tied_factor_is_averaged_over_the_entries_that_exist() -> None:
    W = torch.arange(9.0, dtype=f64).reshape(3, 3)
    P = project(Chain((Factor(2, 2, 2, 1, "a"),)), W)
    corner = torch.tensor([[(0 + 8) / 2, 1], [3, 4]], dtype=f64)
    torch.testing.assert_close(dense(P), torch.block_diag(corner, corner)[:3, :3])
    D = project(Chain((Factor(1, 1, 1, 3, "d"),)), W)
    torch.testing.assert_close(dense(D), 4 * torch.eye(3, dtype=f64))


def test_a_factor_between_permutations_is_projected_in_its_order() -> None:
    structure = Chain((Permute(6, "reverse"), Factor(3, 2, 2, 1), Permute(6, "stride", 2)))
    W = dense(generic(structure, 6, 6, f64))
    assert distance(project(structure, W), W) == 0


def test_kronecker_error_is_what_the_rearranged_matrix_discards() -> None:
    W = torch.randn(15, 24, dtype=f64)
    tall = W.reshape(3, 5, 4, 6).transpose(1, 2).reshape(12, 30)
    assert distance(project(Kronecker((3, 4), 2), W), W) == pytest.approx(tail(tall, 2) ** 0.5, rel=1e-12)


def test_padded_kronecker_beats_padding_with_zeros() -> None:
    W = torch.randn(13, 11, dtype=f64)
    padded = torch.nn.functional.pad(W, (0, 4, 0, 5))
    zeros = project(Kronecker((6, 5), 2), padded)
    assert distance(project(Kronecker((6, 5), 2), W), W) < float((dense(zeros)[:13, :11] - W).norm())


@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_keeps_the_largest_entries(dtype: torch.dtype) -> None:
    W = torch.randn(9, 14, dtype=dtype)
    kept = W.abs() >= W.abs().flatten().sort(descending=True).values[29]
    torch.testing.assert_close(dense(project(Sparse(30), W)), torch.where(kept, W, 0), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blast_is_never_worse_than_what_it_contains(dtype: torch.dtype) -> None:
    W = torch.randn(24, 36, dtype=dtype)
    error = distance(project(BLAST((2, 3), 6), W), W)
    assert error < distance(project(LowRank(6), W), W)
    assert error < distance(project(BlockLowRank((2, 3), 2), W), W)


@pytest.mark.parametrize("structure", [LowRank(8), BlockLowRank(4, 2)])
def test_blast_recovers_what_it_contains(structure: Structure) -> None:
    W = dense(generic(structure, 32, 48, f64))
    assert distance(project(BLAST(4, 8), W), W) <= 1e-13 * float(W.norm())


def test_blast_of_more_rank_than_a_tile_has() -> None:
    W = torch.randn(10, 11, dtype=f64)
    errors = [distance(project(BLAST(2, rank), W), W) for rank in (2, 5, 8)]
    assert errors == sorted(errors, reverse=True)
    assert distance(project(BLAST(2, 14), W), W) <= 1e-12


def test_blast_of_zero_is_zero() -> None:
    assert torch.count_nonzero(dense(project(BLAST(2, 3), torch.zeros(6, 6)))) == 0


def test_blast_starts_that_cannot_be_diagonalised_are_skipped() -> None:
    W = torch.block_diag(torch.randn(4, 4), torch.randn(4, 4)).double()
    assert distance(project(BLAST(2, 4), W), W) < distance(project(LowRank(4), W), W)


def test_blast_is_reproducible() -> None:
    W = torch.randn(12, 12, dtype=f64)
    torch.testing.assert_close(dense(project(BLAST(3, 2), W)), dense(project(BLAST(3, 2), W)), rtol=0, atol=0)
    other = project_blast(W, BLAST(3, 2), sweeps=3, generator=torch.Generator().manual_seed(5))
    assert distance(other, W) < float(W.norm())


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_never_worse_than_their_terms(dtype: torch.dtype) -> None:
    W = torch.randn(16, 18, dtype=dtype)
    terms = (LowRank(2), Sparse(30))
    assert distance(project(Sum(terms), W), W) < min(distance(project(term, W), W) for term in terms)


def test_sum_of_one_term_is_its_projection() -> None:
    W = torch.randn(8, 8, dtype=f64)
    torch.testing.assert_close(dense(project_sum(W, Sum((LowRank(2),)))), dense(project(LowRank(2), W)))


@pytest.mark.parametrize("scale", [1e-180, 1e180])
@pytest.mark.parametrize(
    "structure", [LowRank(2), Monarch(3), Kronecker((6, 5), 2), BLAST(3, 4), Sum((Sparse(9), LowRank(1)))]
)
def test_scale_does_not_matter(structure: Structure, scale: float) -> None:
    W = torch.randn(13, 11, dtype=f64)
    scaled, expected = project(structure, scale * W), project(structure, W)
    torch.testing.assert_close(dense(scaled) / scale, dense(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64])
def test_the_result_has_the_type_of_the_target(dtype: torch.dtype) -> None:
    W = torch.randn(16, 16).to(dtype)
    P = project(Monarch(4), W)
    assert P.dtype == dtype
    wide = W.to(torch.complex128 if dtype.is_complex else f64)
    best = distance(project(Monarch(4), wide), wide)
    assert best <= distance(P.to(f64), wide) <= best * (1 + 16 * torch.finfo(dtype).eps)


def test_the_target_keeps_its_graph_and_numbers() -> None:
    W = torch.randn(8, 8, requires_grad=True)
    copy = W.detach().clone()
    P = project(Dense(), W)
    with torch.no_grad():
        for p in P.parameters():
            p.zero_()
    torch.testing.assert_close(W.detach(), copy, rtol=0, atol=0)
    assert not any(p.grad_fn for p in P.parameters())


@pytest.mark.parametrize(
    "structure", [Kaleidoscope(), Butterfly(), Product((Dense(), Dense()), (4,)), Monarch(order=3)]
)
def test_families_without_closed_form_are_named(structure: Structure) -> None:
    with pytest.raises(FitError, match=f"(?s){type(structure).__name__}.*no closed form.*km.fit"):
        project(structure, torch.randn(8, 8))


def test_sums_with_a_term_without_closed_form_are_refused() -> None:
    with pytest.raises(FitError, match="Kaleidoscope"):
        project(Sum((LowRank(1), Kaleidoscope())), torch.randn(8, 8))


@pytest.mark.parametrize(
    "structure", [LowRank(2), Kronecker((2, 2)), Sparse(3), BLAST(2, 2), Sum((LowRank(1),))]
)
def test_bad_targets_are_refused(structure: Structure) -> None:
    bad = torch.eye(4)
    bad[1, 2] = float("nan")
    for target, error in (
        (bad, ArgumentError),
        (torch.zeros(4), ArgumentError),
        (torch.zeros(0, 3), ArgumentError),
    ):
        with pytest.raises(error, match="project onto"):
            project(structure, target)
    with pytest.raises(DtypeError, match="not floating"):
        project(structure, torch.eye(4, dtype=torch.int64))


def test_shapes_the_structure_lacks_are_refused() -> None:
    with pytest.raises(ArgumentError, match="has 4 entries"):
        project(Sparse(5), torch.eye(2))
