"""BP and BPBP: products of tied butterflies and permutations, and the transforms they contain exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from kmatrix import _permutations
from kmatrix._errors import ArgumentError
from kmatrix.structures import (
    BPBP,
    BPBPMatrix,
    BPPermutation,
    BPPermutationMatrix,
    FixedBPBP,
    FixedBPBPMatrix,
    Structure,
    product,
)
from kmatrix.structures.real_part import RealPartMatrix

EXAMPLES: list[tuple[Structure, int, int]] = [
    (BPBP(), 8, 8),
    (BPBP(depth=1), 5, 7),
    (BPBP(depth=2, expansion=2, tied_logits=True), 4, 3),
    (BPBP(), 1, 1),
    (FixedBPBP(), 8, 8),
    (FixedBPBP(depth=1, expansion=2, kind="reverse"), 5, 3),
    (FixedBPBP(kind="given"), 1, 1),
]
SURE = 1000.0


def draw(structure: BPBP, m: int, n: int, dtype: torch.dtype = torch.float64) -> BPBPMatrix:
    matrix = structure.random(m, n, dtype=dtype)
    assert isinstance(matrix, BPBPMatrix)
    return matrix


def fourier_twiddles(n: int) -> list[Tensor]:
    """Tied blocks ``[[I, O], [I, -O]]`` of the FFT, smallest block first."""
    weights = []
    for k in (2 << i for i in range(int(math.log2(n)))):
        omega = torch.exp(-2j * math.pi * torch.arange(k // 2, dtype=torch.float64) / k)
        ones = torch.ones_like(omega)
        weights.append(torch.stack([torch.stack([ones, omega]), torch.stack([ones, -omega])])[None])
    return weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("m", "n"), [(8, 8), (5, 7), (1, 1), (3, 9)])
def test_is_the_corner_of_the_product_of_its_parts(m: int, n: int, dtype: torch.dtype) -> None:
    A = draw(BPBP(depth=2, expansion=2), m, n, dtype)
    (p1, p2), (b1, b2) = A.permutations, A.butterflies
    dense = (b2.to_dense() @ p2.to_dense() @ b1.to_dense() @ p1.to_dense())[:m, :n].detach()
    x, y = torch.randn(2, 3, n, dtype=dtype), torch.randn(2, 3, m, dtype=dtype)
    torch.testing.assert_close(A(x).detach(), x @ dense.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(A.rforward(y).detach(), y @ dense, rtol=0, atol=1e-12)


def test_blocks_inside_a_factor_repeat() -> None:
    (butterfly,) = draw(BPBP(depth=1), 16, 16).butterflies
    for level, factor in enumerate(butterfly.layout.factors):
        assert factor.weight_shape == (1, 2, 2, 1 << level) and factor.a == 8 >> level


@pytest.mark.parametrize("n", [2, 8, 64])
def test_the_fourier_transform_is_a_member_of_depth_one(n: int) -> None:
    A = FixedBPBPMatrix.from_weights(FixedBPBP(depth=1), (n, n), fourier_twiddles(n))
    expected = torch.as_tensor(scipy.fft.fft(np.eye(n)))
    torch.testing.assert_close(A.to_dense().detach(), expected, rtol=0, atol=1e-12)


def test_the_cosine_transform_is_a_real_part_with_one_more_permutation() -> None:
    n = 32
    twiddles = fourier_twiddles(n)
    phase = torch.exp(-0.5j * math.pi * torch.arange(n, dtype=torch.float64) / n)
    twiddles[-1] = twiddles[-1] * phase.reshape(1, 2, 1, n // 2)
    fourier = FixedBPBPMatrix.from_weights(FixedBPBP(depth=1), (n, n), twiddles)
    order = BPPermutation(levels=1).empty(n, n, dtype=torch.complex128)
    assert isinstance(order, BPPermutationMatrix)
    with torch.no_grad():
        order.logits.copy_(torch.tensor([[SURE, -SURE, SURE]]))
    A = RealPartMatrix(product(fourier, order))
    expected = torch.as_tensor(scipy.fft.dct(np.eye(n), axis=0)) / 2
    torch.testing.assert_close(A.to_dense().detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_harden_is_the_same_matrix_with_sharp_permutations(dtype: torch.dtype, tied: bool) -> None:
    A = draw(BPBP(depth=3, expansion=2, tied_logits=tied), 11, 6, dtype)
    with torch.no_grad():
        for p in A.permutations:
            p.logits.mul_(SURE / p.logits.abs())
    hard = A.harden()
    assert A.sharpness == 1
    assert hard.structure == FixedBPBP(depth=3, expansion=2, kind="given")
    assert hard.num_params == 3 * (4 * 32 - 4)
    torch.testing.assert_close(hard.to_dense(), A.to_dense())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_normal_twiddles_keep_the_mean_square(dtype: torch.dtype) -> None:
    (butterfly,) = draw(BPBP(depth=1), 1024, 1024, dtype).butterflies
    squares = torch.cat([w.detach().abs().square().flatten() for w in butterfly.weights[5:]])
    assert 0.45 < squares.mean() < 0.55


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_orthogonal_start(dtype: torch.dtype) -> None:
    A = draw(BPBP(depth=2), 16, 16, dtype)
    A.reset_parameters(torch.Generator().manual_seed(0), init="orthogonal")
    dense = A.harden().to_dense().detach()
    torch.testing.assert_close(dense.mH @ dense, torch.eye(16, dtype=dtype), rtol=0, atol=1e-13)
    blocks = A.butterflies[1].weights[3].detach()[0].movedim(-1, 0)
    if dtype == torch.float64:
        assert set(torch.linalg.det(blocks).round().tolist()) == {-1.0, 1.0}
    with pytest.raises(ArgumentError, match="use 'normal' or 'orthogonal'"):
        A.reset_parameters(init="identity")  # type: ignore[arg-type]


def test_fixed_permutations_stay_when_numbers_are_redrawn() -> None:
    A = FixedBPBP(depth=1).random(8, 8, dtype=torch.float64)
    assert torch.equal(A.permutation(0), torch.as_tensor(_permutations.bit_reversal(8)))
    before = A.to_dense()
    A.reset_parameters(init="orthogonal")
    assert torch.equal(A.permutation(0), torch.as_tensor(_permutations.bit_reversal(8)))
    assert not torch.equal(A.to_dense(), before)


def test_counts() -> None:
    n = 1024
    assert FixedBPBP(depth=2).num_params(n, n) == 2 * (4 * n - 4)
    assert BPBP(depth=2).num_params(n, n) == 2 * (4 * n - 4) + 2 * 27
    assert BPBP(depth=1, tied_logits=True).num_params(n, n) == 4 * n - 4 + 3
    # Padding and expansion count.
    assert FixedBPBP(depth=1, expansion=2).num_params(700, 3) == 4 * 2048 - 4
    assert BPBP(depth=2).flops(16, 16) == 2 * (4 * 4 * 16 + 6 * 16 * 3)


def test_misuse_is_explained() -> None:
    with pytest.raises(ArgumentError, match="depth=0"):
        BPBP(depth=0)
    with pytest.raises(
        ArgumentError, match=r"expansion=3: butterflies have a power-of-two size; use 1, 2, 4"
    ):
        FixedBPBP(expansion=3)
    with pytest.raises(ArgumentError, match="unknown"):
        FixedBPBP(kind="learned")  # type: ignore[arg-type]
