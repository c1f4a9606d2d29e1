"""Sums of Kronecker products, as one chain of two tied factors."""

from __future__ import annotations

from dataclasses import dataclass

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures._grids import balanced_factors, ceil_div
from kmatrix.structures.chain import ChainStructure, Factor, Layout


@dataclass(frozen=True)
class Kronecker(ChainStructure):
    """Sums of Kronecker products ``A_1 (x) B_1 + ... + A_r (x) B_r`` with factors of one shape.

    ``A`` is ``m1 x n1`` and ``B`` is ``ceil(m / m1) x ceil(n / n1)``. Sizes that ``left`` does not divide are
    padded. The products are applied in the order that takes fewer operations.

    Args:
        left: shape ``(m1, n1)`` of the left factors; near the square roots of the shape if not given.
        rank: how many products are summed.

    Raises:
        ArgumentError: if a number is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.Kronecker(left=(3, 4), rank=2).num_params(15, 24)  # rank * (m1 * n1 + m2 * n2)
        84

    Reference: Van Loan and Pitsianis, "Approximation with Kronecker products", 1993.
    """

    left: tuple[int, int] | None = None
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("Kronecker", "rank", self.rank)
        if self.left is None:
            return
        if len(self.left) != 2:
            raise ArgumentError(complaint("Kronecker", "left", self.left, "not a pair", "pass (m1, n1)"))
        for size in self.left:
            check_size("Kronecker", "left", size)

    def shapes(self, m: int, n: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes ``(m1, n1)`` and ``(m2, n2)`` of the left and right factors."""
        m1, n1 = self.left or (balanced_factors(m, 2)[0], balanced_factors(n, 2)[0])
        return (m1, n1), (ceil_div(m, m1), ceil_div(n, n1))

    def right_first(self, m: int, n: int) -> bool:
        """Whether ``B`` is applied before ``A``."""
        (m1, n1), (m2, n2) = self.shapes(m, n)
        return n1 * m2 * (n2 + m1) <= m1 * n2 * (n1 + m2)

    def layout(self, m: int, n: int) -> Layout:
        (m1, n1), (m2, n2) = self.shapes(m, n)
        r = self.rank
        # Between the factors the vector is indexed (j1, s, i2) or (i1, s, j2), s being the product.
        if self.right_first(m, n):
            return Layout((Factor(n1, r * m2, n2, 1, "a"), Factor(1, m1, n1 * r, m2, "d")))
        return Layout((Factor(1, m1 * r, n1, n2, "d"), Factor(m1, m2, r * n2, 1, "a")))
