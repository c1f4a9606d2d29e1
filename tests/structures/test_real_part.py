"""Real parts of complex matrices."""

from __future__ import annotations

import pytest
import torch

from kmatrix._errors import DtypeError
from kmatrix.structures import AFDF, Butterfly, Circulant, FixedBPBP, RealPart, Structure
from kmatrix.structures.real_part import RealPartMatrix

EXAMPLES: list[tuple[Structure, int, int]] = [
    (RealPart(Butterfly()), 8, 6),
    (RealPart(FixedBPBP()), 8, 8),
    (RealPart(AFDF()), 5, 7),
    (RealPart(Butterfly()), 1, 1),
]


@pytest.mark.parametrize(("structure", "m", "n"), EXAMPLES)
def test_is_the_real_part(structure: Structure, m: int, n: int) -> None:
    A = structure.random(m, n, dtype=torch.float64)
    assert isinstance(A, RealPartMatrix)
    dense = A.of.to_dense().detach().real
    x, y = torch.randn(2, n, dtype=torch.float64), torch.randn(2, m, dtype=torch.float64)
    torch.testing.assert_close(A(x).detach(), x @ dense.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(A.T(y).detach(), y @ dense, rtol=0, atol=1e-13)
    z = torch.complex(x, torch.randn(2, n, dtype=torch.float64))
    torch.testing.assert_close(A(z).detach(), z @ dense.mT.to(z.dtype), rtol=0, atol=1e-13)


def test_each_complex_number_counts_as_two() -> None:
    s = RealPart(Butterfly())
    A = s.random(8, 8)
    assert s.num_params(8, 8) == sum(p.numel() for p in A.parameters()) == 2 * 48
    assert s.flops(8, 8) == 4 * Butterfly().flops(8, 8)


def test_shares_the_numbers_of_the_complex_matrix() -> None:
    inner = Circulant().random(5, 5, dtype=torch.complex64)
    A = RealPartMatrix(inner)
    assert A.dtype == torch.float32 and A.structure == RealPart(Circulant())
    A.reset_parameters(torch.Generator().manual_seed(3))
    torch.testing.assert_close(A.to_dense(), inner.to_dense().real)


def test_misuse_is_explained() -> None:
    with pytest.raises(DtypeError, match="use float32 or float64"):
        RealPart(Butterfly()).random(4, 4, dtype=torch.bfloat16)
    with pytest.raises(DtypeError, match="not real"):
        RealPart(Butterfly()).random(4, 4, dtype=torch.complex64)
    with pytest.raises(DtypeError, match="real already"):
        RealPartMatrix(Butterfly().random(4, 4))
