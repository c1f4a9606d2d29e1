"""Which members of a family are worth trying for a shape: a ladder of sizes, as shares of dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kmatrix._errors import ArgumentError, DtypeError, KMatrixError, complaint
from kmatrix.structures import (
    BLAST,
    GBLR,
    BlockDiagonal,
    BlockLowRank,
    BlockTensorTrain,
    Butterfly,
    Kaleidoscope,
    LowRank,
    Monarch,
    Structure,
    Sum,
)
from kmatrix.structures.chain import ChainStructure

FINE = (0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2, 0.16, 0.12, 0.09, 0.06, 0.04, 0.025, 0.015)
COARSE = (0.55, 0.4, 0.28, 0.18, 0.1)
GRIDS = (2, 4, 8)
Family = Structure | type[Structure]
"""A structure as it is, or a class whose members of several sizes are tried."""


DEFAULT: tuple[Family, ...] = (LowRank, Monarch, BlockTensorTrain)
"""What is tried where nothing is named: two large products each, with exact or monotone methods to fit them."""


def members(families: Iterable[Family], m: int, n: int) -> list[Structure]:
    """The structures to try for a shape, those that differ, with fewer numbers than dense; largest first.

    Args:
        families: structures, and classes of structures whose sizes are chosen here.
        m: rows.
        n: columns.

    Raises:
        DtypeError: if one is neither a structure nor a class of structures.
        ArgumentError: if sizes of a class are not known here.

    Example:
        >>> import kmatrix as km
        >>> members([km.Monarch, km.LowRank(rank=9)], 60, 60)
        [Monarch(nblocks=4, order=2), LowRank(rank=9), Monarch(nblocks=8, order=2), Monarch(nblocks=16, order=2)]
    """
    found: dict[object, Structure] = {}
    for family in families:
        for structure in _members(family, m, n):
            try:
                structure.check(m, n)
                size = structure.num_params(m, n)
            except KMatrixError:
                continue  # no member of this shape
            if size < m * n:
                same = structure.layout(m, n) if isinstance(structure, ChainStructure) else structure
                found.setdefault(same, structure)
    return sorted(found.values(), key=lambda s: -s.num_params(m, n))


def ranks_between(families: Iterable[Family], m: int, n: int) -> list[LowRank]:
    """Ranks of whole or half vector registers up to the largest on the ladder if ``LowRank`` is a family, or none.

    The ladder is for the clock. Once it has found a rank to be faster than dense, the ranks below cost nothing more to
    know, as one decomposition gives them all, and a budget can be used up.

    Example:
        >>> import kmatrix as km
        >>> [s.rank for s in ranks_between([km.LowRank], 64, 64)]
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 20, 24]
    """
    if not any(family is LowRank for family in families):
        return []
    most = max(s.rank for s in _low_rank(m, n))
    return [LowRank(rank) for rank in range(1, most + 1) if rank % 8 == 0 or _round(rank) == rank]


def _members(family: object, m: int, n: int) -> Iterable[Structure]:
    if isinstance(family, Structure):
        return (family,)
    if not (isinstance(family, type) and issubclass(family, Structure)):
        way_out = "pass structures such as km.LowRank(64), or classes such as km.Monarch"
        raise DtypeError(complaint("compress_", "structures", repr(family), "not a structure", way_out))
    rule = RULES.get(family)
    if rule is None:
        way_out = f"pass members of it, such as {family.__name__}(...)"
        reason = "its sizes are not known here"
        raise ArgumentError(complaint("compress_", "structures", family.__name__, reason, way_out))
    return rule(m, n)


def _low_rank(m: int, n: int) -> Iterator[LowRank]:
    for rank in sorted({_round(share * m * n / (m + n)) for share in FINE}):
        yield LowRank(rank)


def _round(rank: float) -> int:
    """A rank of whole vector registers, where that is no great change."""
    step = 16 if rank >= 128 else 8 if rank >= 32 else 4 if rank >= 12 else 1
    return max(1, step * round(rank / step))


def _blocks(
    structure: Callable[[int], Structure], counts: Sequence[int]
) -> Callable[[int, int], Iterator[Structure]]:
    def rule(m: int, n: int) -> Iterator[Structure]:
        yield from (structure(q) for q in counts if q <= min(m, n))

    return rule


def _tiles(structure: Callable[[int, int], Structure]) -> Callable[[int, int], Iterator[Structure]]:
    def rule(m: int, n: int) -> Iterator[Structure]:
        for q in GRIDS:
            if q * q > min(m, n):
                continue
            one = structure(q, 1).num_params(m, n)
            for rank in sorted({_round(share * m * n / one) for share in COARSE}):
                if rank <= min(m, n) // q:
                    yield structure(q, rank)

    return rule


def _boxes(m: int, n: int) -> Iterator[Structure]:
    yield from (GBLR(budget=share) for share in COARSE)


def _block_and_low_rank(m: int, n: int) -> Iterator[Structure]:
    for q in (4, 8, 16):
        for share in (0.1, 0.2):
            yield Sum((BlockDiagonal(q), LowRank(_round(share * m * n / (m + n)))))


RULES: dict[type[Structure], Callable[[int, int], Iterator[Structure]]] = {
    LowRank: _low_rank,
    Monarch: _blocks(Monarch, (4, 8, 16)),
    BlockDiagonal: _blocks(BlockDiagonal, (2, 4, 8, 16)),
    BlockTensorTrain: _tiles(BlockTensorTrain),
    BlockLowRank: _tiles(BlockLowRank),
    BLAST: _tiles(BLAST),
    Butterfly: _blocks(lambda rank: Butterfly(ranks=rank), (1, 2, 4)),
    Kaleidoscope: _blocks(lambda width: Kaleidoscope(width=width), (1, 2)),
    GBLR: _boxes,
    Sum: _block_and_low_rank,
}
