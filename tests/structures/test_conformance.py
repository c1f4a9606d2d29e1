"""Every family through the conformance suite: square, rectangular and prime shapes, and one by one."""

from __future__ import annotations

import inspect

import torch

from kmatrix import structures
from kmatrix.structures import (
    ACDC,
    AFDF,
    BLAST,
    BPBP,
    GBLR,
    OBB,
    BlockCirculant,
    BlockDiagonal,
    BlockLowRank,
    BlockTensorTrain,
    BPPermutation,
    Butterfly,
    Chain,
    Circulant,
    Dense,
    Diagonal,
    Factor,
    Fastfood,
    FixedBPBP,
    Grouped,
    GroupShuffle,
    Hankel,
    Kaleidoscope,
    Kronecker,
    LowRank,
    Monarch,
    OrthogonalButterfly,
    Permutation,
    Permute,
    Product,
    RealPart,
    Scaled,
    Sparse,
    Structure,
    StructuredMatrix,
    Sum,
    Toeplitz,
    Transpose,
    deformable_butterfly,
)
from kmatrix.testing import StructureConformance


class ChainConformance(StructureConformance):
    counted_by_torch = True


class RealNumbers(StructureConformance):
    def trainable_numbers(self, matrix: StructuredMatrix) -> float:
        return sum(stored.numel() for stored in matrix.parameters())


class TestDense(ChainConformance):
    examples = ((Dense(), 7, 13), (Dense(), 1, 1))


class TestLowRank(ChainConformance):
    examples = ((LowRank(rank=3), 11, 12), (LowRank(rank=5), 3, 4))


class TestBlockDiagonal(ChainConformance):
    examples = ((BlockDiagonal(nblocks=3), 13, 7), (BlockDiagonal(nblocks=4), 8, 12))


class TestDiagonal(ChainConformance):
    examples = ((Diagonal(), 5, 9), (Diagonal(), 9, 5), (Diagonal(), 11, 11))


class TestMonarch(ChainConformance):
    examples = (
        (Monarch(nblocks=3), 13, 17),
        (Monarch(), 16, 16),
        (Monarch(), 1, 1),
        (Monarch(order=3), 8, 12),
    )


class TestBlockTensorTrain(ChainConformance):
    examples = ((BlockTensorTrain(nblocks=(4, 2), rank=2), 8, 16), (BlockTensorTrain(), 13, 10))


class TestBlockLowRank(ChainConformance):
    examples = ((BlockLowRank(nblocks=(2, 3), rank=2), 14, 15), (BlockLowRank(nblocks=3), 17, 7))


class TestBLAST(ChainConformance):
    examples = ((BLAST(nblocks=(2, 3), rank=3), 11, 13), (BLAST(nblocks=2, rank=3), 8, 8))


class TestGBLR(ChainConformance):
    examples = (
        (GBLR(nblocks=5, budget=0.6), 7, 9),
        (GBLR(), 13, 5),
        (GBLR(budget=2.0), 1, 1),
        (GBLR(nblocks=30, budget=0.1, left=3), 11, 17),
    )


class TestGroupShuffle(ChainConformance):
    examples = (
        (GroupShuffle(nblocks=(2, 3), hidden=12, shuffles=("stride", "given", "stride")), 7, 13),
        (GroupShuffle(nblocks=4), 16, 8),
    )


class TestButterfly(ChainConformance):
    examples = (
        (Butterfly(), 12, 20),
        (Butterfly(), 7, 5),
        (Butterfly(), 1, 1),
        (Butterfly(), 17, 2),
        (Butterfly(radices=((2, 3), (4, 2)), ranks=2), 8, 6),
    )


class TestKaleidoscope(ChainConformance):
    examples = (
        (Kaleidoscope(), 8, 7),
        (Kaleidoscope(width=2, expansion=2), 3, 4),
        (Kaleidoscope(), 1, 1),
    )


class TestOrthogonalButterfly(ChainConformance):
    dtypes = (torch.float64,)
    examples = (
        (OrthogonalButterfly(), 12, 12),
        (OrthogonalButterfly(), 5, 6),
        (OrthogonalButterfly(), 7, 4),
        (OrthogonalButterfly(), 1, 1),
        (OrthogonalButterfly(radices=(4, 2)), 8, 8),
    )


class TestUnitaryButterfly(ChainConformance):
    dtypes = (torch.complex128,)
    examples = (
        (OrthogonalButterfly(unitary=True), 12, 10),
        (OrthogonalButterfly(unitary=True), 4, 4),
    )


class TestOBB(ChainConformance):
    dtypes = (torch.float64,)
    examples = ((OBB(), 8, 8), (OBB(width=2), 6, 5), (OBB(), 1, 7), (OBB(), 1, 1))


class TestUnitaryOBB(ChainConformance):
    dtypes = (torch.complex128,)
    examples = ((OBB(unitary=True), 6, 6), (OBB(width=2, unitary=True), 2, 4))


class TestChain(ChainConformance):
    examples = (
        (
            Chain((Permute(12, "stride", 3), Factor(3, 2, 4, 1, "a"), Factor(1, 3, 2, 3, "d"), Permute(9))),
            8,
            11,
        ),
        (deformable_butterfly(12, [(2, 3, 1), (5, 4, 2)]), 10, 12),
    )


class TestKronecker(ChainConformance):
    examples = (
        (Kronecker(left=(3, 4), rank=2), 9, 8),
        (Kronecker(), 12, 20),
        (Kronecker(rank=3), 13, 7),
        (Kronecker(), 1, 1),
    )


class TestSparse(StructureConformance):
    examples = ((Sparse(nnz=20), 13, 7), (Sparse(nnz=1), 5, 9), (Sparse(nnz=1), 1, 1))


class TestToeplitz(StructureConformance):
    examples = ((Toeplitz(), 7, 5), (Toeplitz(), 16, 16), (Toeplitz(), 1, 9), (Toeplitz(), 1, 1))


class TestHankel(StructureConformance):
    examples = ((Hankel(), 4, 11), (Hankel(), 9, 2), (Hankel(), 1, 1))


class TestCirculant(StructureConformance):
    examples = ((Circulant(), 12, 12), (Circulant(), 13, 13), (Circulant(), 1, 1))


class TestBlockCirculant(StructureConformance):
    examples = (
        (BlockCirculant(block=3), 7, 11),
        (BlockCirculant(block=4), 8, 12),
        (BlockCirculant(block=1), 3, 4),
        (BlockCirculant(block=20), 5, 6),
    )


class TestFastfood(StructureConformance):
    examples = ((Fastfood(), 13, 5), (Fastfood(), 8, 8), (Fastfood(), 1, 1))


class TestACDC(StructureConformance):
    examples = ((ACDC(depth=2), 9, 5), (ACDC(), 7, 7), (ACDC(), 1, 1))


class TestAFDF(StructureConformance):
    dtypes = (torch.complex128,)
    examples = ((AFDF(depth=2), 7, 5), (AFDF(), 4, 8), (AFDF(), 1, 1))


class TestPermutation(StructureConformance):
    counted_by_torch = True
    examples = (
        (Permutation(), 7, 7),
        (Permutation("stride", 3), 12, 12),
        (Permutation("bit_reversal"), 8, 8),
        (Permutation("reverse"), 5, 5),
        (Permutation(), 1, 1),
    )


class TestBPPermutation(RealNumbers):
    examples = (
        (BPPermutation(), 8, 8),
        (BPPermutation(tied=True), 16, 16),
        (BPPermutation(levels=1), 8, 8),
        (BPPermutation(), 2, 2),
        (BPPermutation(), 1, 1),
    )


class TestBPBP(StructureConformance):
    examples = ((BPBP(depth=1), 5, 7), (BPBP(tied_logits=True), 4, 3), (BPBP(), 1, 1))

    def trainable_numbers(self, matrix: StructuredMatrix) -> float:
        pairs = 2 if matrix.dtype.is_complex else 1
        named = matrix.named_parameters()
        return sum(stored.numel() / (1 if name.endswith("logits") else pairs) for name, stored in named)


class TestFixedBPBP(ChainConformance):
    examples = ((FixedBPBP(), 8, 8), (FixedBPBP(depth=1, expansion=2, kind="reverse"), 5, 3))


class TestRealPart(RealNumbers):
    dtypes = (torch.float64,)
    half = False
    examples = (
        (RealPart(Butterfly()), 8, 6),
        (RealPart(AFDF()), 5, 7),
        (RealPart(Butterfly()), 1, 1),
        (RealPart(Sum((Dense(), Circulant()))), 4, 4),
    )


class TestGrouped(StructureConformance):
    examples = ((Grouped(LowRank(rank=2), 3), 6, 9), (Grouped(Toeplitz(), 1), 1, 1))


class TestSum(StructureConformance):
    examples = (
        (Sum((LowRank(rank=2), Sparse(nnz=9))), 7, 6),
        (Sum((Butterfly(), Scaled(Toeplitz(), -0.5), Transpose(Dense()))), 5, 4),
        (Sum((Dense(),)), 1, 1),
    )


class TestProduct(ChainConformance):
    examples = (
        (Product((Butterfly(), Permutation(), Diagonal()), inner=(6, 6)), 5, 9),
        (Product((Monarch(nblocks=2), Transpose(Product((Dense(), LowRank(1)), (3,)))), inner=(8,)), 6, 7),
        (Product((Dense(),), inner=()), 1, 1),
    )


class TestScaled(StructureConformance):
    examples = ((Scaled(Butterfly(), 0.1), 6, 8), (Scaled(Circulant(), -3.0), 5, 5))


class TestScaledByComplexNumbers(StructureConformance):
    dtypes = (torch.complex128,)
    examples = ((Scaled(Butterfly(), 0.5 - 2j), 6, 8),)


class TestTranspose(ChainConformance):
    examples = (
        (Transpose(Butterfly()), 12, 10),
        (Transpose(Monarch(nblocks=2), conjugate=True), 7, 4),
        (Transpose(Transpose(Kronecker()), conjugate=True), 6, 4),
    )


def test_every_family_is_here() -> None:
    exported = {value for value in vars(structures).values() if is_family(value)}
    suites = [value for value in globals().values() if isinstance(value, type)]
    here = {
        type(structure)
        for suite in suites
        if issubclass(suite, StructureConformance)
        for structure, _, _ in suite.examples
    }
    elsewhere = {structures.Gaudi}  # gaudi/test_conformance.py
    assert here | elsewhere == exported and not here & elsewhere


def is_family(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Structure) and not inspect.isabstract(value)
