"""Radices read off chains, and factorised matrices put back into their own order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kmatrix as km
from kmatrix.fitting.chains.hierarchical import hierarchical
from kmatrix.fitting.chains.members import as_pairs, chain_matrix
from kmatrix.fitting.problem import Declined
from kmatrix.structures.butterfly import tile_chain


@pytest.mark.parametrize(("pairs", "ranks"), [(((2, 2), (3, 5), (4, 2)), (2, 3)), (((6, 4),), ())])
def test_radices_are_read_off_a_chain(pairs: tuple[tuple[int, int], ...], ranks: tuple[int, ...]) -> None:
    assert as_pairs(tile_chain(pairs, ranks)) == (pairs, ranks)


def test_a_chain_that_does_not_nest_has_no_radices() -> None:
    with pytest.raises(Declined, match="does not nest"):
        as_pairs((km.Factor(1, 6, 4, 1), km.Factor(3, 2, 2, 1)))


@pytest.mark.parametrize("natural", [True, False])
def test_a_chain_is_put_back_into_the_order_of_the_target(natural: bool) -> None:
    n = 24
    rng = np.random.default_rng(0)
    rows, columns = (np.arange(n) if natural else rng.permutation(n) for _ in range(2))
    dense = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = hierarchical(dense[torch.from_numpy(rows)][:, torch.from_numpy(columns)], [(4, 4), (6, 6)])
    matrix = chain_matrix(found, rows, columns)
    assert isinstance(matrix.structure, km.Butterfly if natural else km.Chain)
    torch.testing.assert_close(matrix.to_dense().detach(), dense, rtol=0, atol=1e-13)
