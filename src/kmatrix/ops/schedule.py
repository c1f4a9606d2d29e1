"""How factors group into passes: which neighbours to multiply out, and in which form each pass runs.

A pass reads every vector once, so a few wide factors beat many narrow ones as soon as enough vectors share
the cost of multiplying them out. The rule below weighs the two with a handful of measured constants; it looks
at patterns, tying, batch size, number size and direction, never at values, and the same question always gets
the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from kmatrix.ops.definition import Pattern
from kmatrix.ops.merging import merge_factors as merge_factors
from kmatrix.ops.merging import mergeable as mergeable
from kmatrix.ops.merging import product_pattern as product_pattern
from kmatrix.ops.merging import split

FormName = Literal["gemm", "kron", "sum", "bmm"]
SLICE_BYTES = 2**19  # of vectors that go through all passes at once on one core, to stay in its cache
FEW_TERMS = 4  # up to this many terms an elementwise sum accumulates them one by one

# Nanoseconds, float32, one core of a 2020s server; only their ratios matter.
_CALL = 4_000.0  # one pass: views, checks, launch
_TERM = 2_500.0  # one more elementwise call
_MERGE = 25_000.0  # one product of weights
_FLOP = 0.008  # one multiply or add inside a large matrix product
_NAIVE_FLOP = 1.0  # the same in a product too small for BLAS
_STREAM = 0.15  # one number read, used and written in cache
_STRIDED = 0.9  # the same without vector instructions
_MOVE = 0.6  # one number moved by a transposition
_LOOP = 13.0  # entering an innermost loop
_SHORT = 12.0  # length at which a matrix product runs at half its speed


class Factor(NamedTuple):
    """What the schedule sees of a factor: its pattern, and where its weight has size 1."""

    pattern: Pattern
    tied_a: bool
    tied_d: bool

    @property
    def numel(self) -> int:
        """How many numbers the weight holds."""
        a, b, c, d = self.pattern
        return (1 if self.tied_a else a) * b * c * (1 if self.tied_d else d)


class Pass(NamedTuple):
    """Factors ``start .. stop-1`` multiplied out into one of the given pattern, and how that one is applied.

    ``gemm`` and ``kron`` are matrix products and ``sum`` is elementwise, all on row vectors; ``bmm`` is a
    batch of matrix products on column vectors.
    """

    start: int
    stop: int
    pattern: Pattern
    form: FormName


class Plan(NamedTuple):
    """The passes, and how many vectors to send through all of them at once."""

    passes: tuple[Pass, ...]
    length: int


Shapes = tuple[tuple[int, ...], ...]


def plan(
    patterns: tuple[Pattern, ...],
    shapes: Shapes,
    batch: int,
    *,
    itemsize: int = 4,
    backward: bool = False,
    slice_bytes: int = SLICE_BYTES,
) -> Plan:
    """The cheapest passes for a batch of vectors.

    Args:
        patterns: of the factors, in order of application.
        shapes: of the weights, with size 1 along axes where they are tied.
        batch: how many vectors are multiplied; only its order of magnitude matters.
        itemsize: bytes of one number.
        backward: for gradients, which apply each pass three times and undo the merging as well.
        slice_bytes: how much to send through all passes at once, counting the widest vectors.

    Returns:
        The passes, and how many vectors make up ``slice_bytes`` (at least 16).

    Example:
        >>> butterfly = tuple(Pattern(512 // 2**k, 2, 2, 2**k) for k in range(10))
        >>> [p.pattern for p in plan(butterfly, butterfly, batch=4096).passes]
        [Pattern(a=32, b=32, c=32, d=1), Pattern(a=1, b=32, c=32, d=32)]
    """
    return _plan(patterns, shapes, 1 << (batch - 1).bit_length(), itemsize, backward, slice_bytes)


@lru_cache(maxsize=512)
def _plan(
    patterns: tuple[Pattern, ...],
    shapes: Shapes,
    batch: int,
    itemsize: int,
    backward: bool,
    slice_bytes: int,
) -> Plan:
    widest = max(max(p.rows, p.cols) for p in patterns)
    length = max(slice_bytes // (widest * itemsize), 16)
    costs = _Costs(min(batch, length), max(batch / length, 1.0), itemsize / 4, backward)
    factors = tuple(Factor(p, s[0] == 1, s[3] == 1) for p, s in zip(patterns, shapes, strict=True))
    return Plan(_shortest_path(factors, costs), length)


def _shortest_path(factors: tuple[Factor, ...], costs: _Costs) -> tuple[Pass, ...]:
    """A node is (factors done, vectors held as rows or columns); an edge is a pass or a transposition."""
    unreached: tuple[float, tuple[Pass, ...]] = (float("inf"), ())
    rows = [(0.0, ()), *[unreached] * len(factors)]
    columns = [unreached] * (len(factors) + 1)
    for start, first in enumerate(factors):
        turn = costs.transposition(first.pattern.cols)
        rows[start] = min(rows[start], (columns[start][0] + turn, columns[start][1]))
        columns[start] = min(columns[start], (rows[start][0] + turn, rows[start][1]))
        for stop, factor, merging in _groups(factors, start):
            for form in _forms(factor):
                cost, path = rows[start]
                if form == "bmm" and (factor.pattern.d > 1 or columns[start][0] < cost):
                    cost, path = columns[start]
                cost += costs.merging(merging) + costs.application(form, factor)
                reached = columns if form == "bmm" else rows
                reached[stop] = min(reached[stop], (cost, (*path, Pass(start, stop, factor.pattern, form))))
    turn = costs.transposition(factors[-1].pattern.rows)
    return min(rows[-1], (columns[-1][0] + turn, columns[-1][1]))[1]


def _groups(factors: tuple[Factor, ...], start: int) -> Iterator[tuple[int, Factor, float]]:
    """Every run of factors that merges, from ``start`` on: where it stops, its product, the cost."""
    product, cost = factors[start], 0.0
    yield start + 1, product, cost
    for stop, (pattern, tied_a, tied_d) in enumerate(factors[start + 1 :], start + 2):
        digits = split(product.pattern, pattern)
        if digits is None:
            return
        merged = product_pattern(product.pattern, pattern)
        tied = (merged.a == 1 or (product.tied_a and tied_a), merged.d == 1 or (product.tied_d and tied_d))
        product = Factor(merged, *tied)
        lanes = (1 if product.tied_a else merged.a) * (1 if product.tied_d else merged.d)
        cost += _MERGE + product.numel * digits.rank * (2 * _STREAM + _LOOP / max(lanes, merged.c))
        yield stop, product, cost + _MOVE * product.numel


def _forms(factor: Factor) -> tuple[FormName, ...]:
    shared = factor.tied_a and factor.tied_d
    if shared and factor.pattern.d == 1:
        return ("gemm", "sum")
    return ("kron", "sum", "bmm") if shared else ("sum", "bmm")


class _Costs(NamedTuple):
    """What a plan costs, for so many slices of so many vectors."""

    vectors: int
    slices: float
    scale: float  # of everything that depends on the size of a number
    backward: bool

    def merging(self, cost: float) -> float:
        """Multiplying weights out, and for gradients pulling back through that."""
        return 4.5 * cost if self.backward else cost

    def application(self, form: FormName, factor: Factor) -> float:
        """Applying a factor, and for gradients its adjoint and the gradient of its weight."""
        repeats = (4.5 if form == "sum" else 3.0) if self.backward else 1.0
        return repeats * self.slices * (_CALL + self.scale * _COSTS[form](factor, self.vectors))

    def transposition(self, width: int) -> float:
        """Turning rows into columns or back."""
        if self.vectors == 1:
            return 0.0
        repeats = 3.0 if self.backward else 1.0
        return repeats * self.slices * (_CALL + self.scale * _MOVE * self.vectors * width)


def _gemm_cost(factor: Factor, batch: int) -> float:
    a, b, c, _ = factor.pattern
    return _matmul_cost(1, b, c, batch * a)


def _kron_cost(factor: Factor, batch: int) -> float:
    a, b, c, d = factor.pattern
    return _matmul_cost(batch * a, b, c, d)


def _sum_cost(factor: Factor, batch: int) -> float:
    c, d = factor.pattern[2:]
    each = _STRIDED if d == 1 else _STREAM + _LOOP / d
    if c <= FEW_TERMS:
        return c * (_TERM + batch * factor.pattern.rows * each)
    return 2 * (_TERM + batch * factor.pattern.numel * each)


def _bmm_cost(factor: Factor, batch: int) -> float:
    a, b, c, d = factor.pattern
    if factor.tied_d:
        return _matmul_cost(a, b, c, d * batch)
    moved = batch * ((d > 1) * factor.pattern.rows + (a > 1 and d > 1) * factor.pattern.cols)
    packing = (d > 1) * factor.numel * _MOVE
    return _matmul_cost(a * d, b, c, batch) + moved * (_STREAM + _LOOP / batch) + packing


_COSTS: dict[FormName, Callable[[Factor, int], float]] = {
    "gemm": _gemm_cost,
    "kron": _kron_cost,
    "sum": _sum_cost,
    "bmm": _bmm_cost,
}


def _matmul_cost(items: int, b: int, c: int, n: int) -> float:
    """``items`` products of a ``b x c`` matrix with ``n`` columns."""
    flops = 2.0 * items * b * c * n
    if b * c * n < 400:
        return flops * _NAIVE_FLOP
    return flops * _FLOP * (1 + _SHORT / min(b, c)) * (1 + _SHORT / n)
