"""A structure of your own in thirty lines: it multiplies, transposes, trains, fits, and inherits every test.

python examples/own_structure.py
"""

import sys
from dataclasses import dataclass

import pytest
import torch

import kmatrix as km
from kmatrix.structures.chain import ChainStructure, Factor, Layout
from kmatrix.testing import StructureConformance


@dataclass(frozen=True)
class TwoLevel(ChainStructure):
    """Mix neighbours within groups, then the same place of all groups: a separable mixer with free weights.

    Args:
        group: size of the groups; divides both sides.
    """

    group: int

    def layout(self, m: int, n: int) -> Layout:
        """The whole definition: which factors a member of shape m x n has, in order of application."""
        g = self.group
        if m % g or n % g:
            raise km.ArgumentError(
                f"TwoLevel: (m, n)={(m, n)}: not divisible by group={g}; choose a common divisor"
            )
        within = Factor(n // g, g, g, 1)  # n/g groups, each g x g
        across = Factor(1, m // g, n // g, g)  # one m/g x n/g grid for each place in a group
        return Layout((within, across))


class TestTwoLevel(StructureConformance):
    """All that a structure is held to; pytest collects it."""

    examples = ((TwoLevel(3), 6, 9), (TwoLevel(2), 4, 4))
    counted_by_torch = True


if __name__ == "__main__":
    structure = TwoLevel(group=8)
    A = structure.random(64, 96)
    x = torch.randn(96)
    print(f"{A.num_params:,} numbers of {64 * 96:,}, {A.flops:,} operations")
    assert torch.allclose(A.T @ (A @ x), A.to_dense().T @ (A.to_dense() @ x), atol=1e-4)

    # Two untied factors have a closed form, so fitting already works.
    planted = structure.random(64, 96, dtype=torch.float64).to_dense().detach()
    f = km.fit(planted, structure, batches=())
    print(f"a planted member comes back with relative error {f.relative_error:.1e}: {f.method}")
    assert f.relative_error < 1e-12

    # The quick half of the conformance suite; `pytest own_structure.py` runs all of it.
    quick = "not compile and not export and not derivatives and not gradients"
    sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", quick]))
