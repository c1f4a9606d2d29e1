"""How sizes are cut into blocks: grids, and factors near a root."""

from __future__ import annotations

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import prime_factors

Grid = int | tuple[int, int]


def check_grid(where: str, name: str, grid: object) -> None:
    """Raise unless ``grid`` is one block count, or a pair of them."""
    counts = grid if isinstance(grid, tuple) else (grid,)
    if isinstance(grid, tuple) and len(grid) != 2:
        way_out = "pass one number, or (row blocks, column blocks)"
        raise ArgumentError(complaint(where, name, grid, "not a pair", way_out))
    for count in counts:
        check_size(where, name, count)


def as_pair(grid: Grid) -> tuple[int, int]:
    """The row and column block counts of a grid."""
    return grid if isinstance(grid, tuple) else (grid, grid)


def ceil_div(n: int, k: int) -> int:
    """The quotient ``n / k`` rounded up."""
    return -(-n // k)


def balanced_factors(n: int, parts: int) -> tuple[int, ...]:
    """Ascending factors of the smallest size of at least ``n`` that splits into ``parts`` of similar size.

    Similar means that none is over twice the root ``n**(1/parts)``; ``n`` itself is split whenever it can be.
    """
    # The next power of two always qualifies, so the search ends before 2n.
    limit, size = 2.0 * n ** (1.0 / parts), n
    while True:
        factors = [1] * parts
        for prime in reversed(prime_factors(size)):
            factors.sort()
            factors[0] *= prime
        if max(factors) <= limit:
            return tuple(sorted(factors))
        size += 1
