"""Small orthogonal blocks: special orthogonal or unitary, and Haar-distributed when drawn."""

from __future__ import annotations

import pytest
import torch

from kmatrix.structures._rotations import _haar, _logarithms, angles_per_block, haar_angles, rotations

CASES = [(2, False), (3, False), (4, False), (5, False), (1, True), (2, True), (3, True)]


@pytest.mark.parametrize(("radix", "is_complex"), CASES)
def test_blocks_are_orthogonal_for_any_angles(radix: int, is_complex: bool) -> None:
    angles = 5 * torch.randn(4, 3, angles_per_block(radix, is_complex), dtype=torch.float64)
    blocks = rotations(angles, radix, is_complex).permute(0, 3, 1, 2)
    identity = torch.eye(radix, dtype=blocks.dtype).expand_as(blocks)
    torch.testing.assert_close(blocks @ blocks.mH, identity, rtol=0, atol=1e-13)
    if not is_complex:
        torch.testing.assert_close(torch.linalg.det(blocks), torch.ones(4, 3, dtype=torch.float64))


@pytest.mark.parametrize(("radix", "is_complex"), CASES)
def test_draws_have_the_moments_of_the_haar_measure(radix: int, is_complex: bool) -> None:
    count = 20_000 if radix <= 3 else 4_000
    angles = torch.empty(count, 1, angles_per_block(radix, is_complex), dtype=torch.float64)
    haar_angles(angles, radix, is_complex, torch.Generator().manual_seed(0))
    blocks = rotations(angles, radix, is_complex)[..., 0]
    traces = blocks.diagonal(dim1=1, dim2=2).sum(-1)
    # The defining representation is irreducible (of SO(2): splits in two), so its character has mean 0, square 1 (2).
    square = 2.0 if (radix, is_complex) == (2, False) else 1.0
    assert traces.mean().abs() < 5 * (square / count) ** 0.5
    assert (traces.abs().square().mean() - square).abs() < 5 * (2 * square**2 / count) ** 0.5
    # Left multiplication by a fixed rotation changes nothing: every entry has mean square 1/r.
    spread = blocks.abs().square().mean(0)
    assert (spread - 1 / radix).abs().max() < 5 / count**0.5


@pytest.mark.parametrize(("radix", "is_complex"), [(3, False), (6, False), (7, False), (3, True), (4, True)])
def test_exponential_undoes_the_logarithm(radix: int, is_complex: bool) -> None:
    like = torch.empty(5, 2, 1)
    blocks = _haar(like, radix, is_complex, torch.Generator().manual_seed(0))
    again = rotations(_logarithms(blocks, is_complex), radix, is_complex).permute(0, 3, 1, 2)
    torch.testing.assert_close(again, blocks, rtol=0, atol=1e-11)
