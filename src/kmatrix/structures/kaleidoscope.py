"""Kaleidoscope matrices (BB*)^w_e: the corner of a product of butterflies and their transposes."""

from __future__ import annotations

from dataclasses import dataclass

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.chain import ChainStructure, Factor, Layout


def power_of_two(n: int) -> int:
    """The smallest power of two of at least ``n``."""
    return 1 << (n - 1).bit_length()


def butterfly_factors(n: int, *, increasing: bool) -> tuple[Factor, ...]:
    """Radix-2 factors of a butterfly of size ``n = 2**k``, strides growing (class B) or shrinking (B*)."""
    factors = tuple(Factor(n // (2 << i), 2, 2, 1 << i) for i in range(n.bit_length() - 1))
    return factors if increasing else factors[::-1]


@dataclass(frozen=True)
class Kaleidoscope(ChainStructure):
    """K-matrices ``S M_1 M_2* ... M_{2w-1} M_{2w}* S^T``: the top-left corner of ``w`` butterfly pairs.

    The butterflies have size ``e N`` with ``N`` the power of two that holds both sides; sides that are not
    powers of two are padded, which the counts show. Every matrix with a small, shallow arithmetic circuit is
    a member of small width.

    Args:
        width: how many pairs BB*.
        expansion: size of the butterflies as a multiple of ``N``, a power of two.

    Raises:
        ArgumentError: if the width or expansion is not positive, or the expansion not a power of two.

    Example:
        >>> import kmatrix as km
        >>> km.Kaleidoscope(width=1).num_params(256, 256)  # 4 n log2(n)
        8192

    Reference: arXiv 2012.14966, definition 2.4; parameter count, observation E.2.
    """

    width: int = 1
    expansion: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("Kaleidoscope", "width", self.width)
        expansion = check_size("Kaleidoscope", "expansion", self.expansion)
        if expansion & (expansion - 1):
            reason = "butterflies have a power-of-two size"
            raise ArgumentError(complaint("Kaleidoscope", "expansion", expansion, reason, "use 1, 2, 4, ..."))

    def layout(self, m: int, n: int) -> Layout:
        # A 1 x 1 matrix still needs one number, so the smallest butterfly has two points.
        size = max(2, self.expansion * power_of_two(max(m, n)))
        pair = butterfly_factors(size, increasing=False) + butterfly_factors(size, increasing=True)
        return Layout(pair * self.width)
