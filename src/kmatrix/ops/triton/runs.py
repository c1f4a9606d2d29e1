"""Runs of factors whose product has one path from each input to each output, so that it is a product of numbers.

The factors of a butterfly are one: with strides that grow from factor to factor, the index between two of them has its
low digits from the output and its high ones from the input; with strides that shrink it is the other way round. Groups
and diagonals that all factors share are lanes, each with a product of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from kmatrix.ops.definition import Pattern, Patterns


class Run(NamedTuple):
    """Factors ``start .. stop-1``: which way their strides go, and the groups and diagonals they share."""

    start: int
    stop: int
    growing: bool
    a: int
    d: int


Path = tuple[tuple[int, ...], ...]
"""What ``path_constants`` says of each factor of a run."""


def as_run(patterns: Patterns, start: int, stop: int) -> Run | None:
    """The factors as a run, if they are one.

    Example:
        >>> as_run((Pattern(2, 2, 2, 3), Pattern(1, 2, 2, 6)), 0, 2)
        Run(start=0, stop=2, growing=True, a=1, d=3)
    """
    group = patterns[start:stop]
    a, d = min(p.a for p in group), min(p.d for p in group)
    for growing in (True, False):
        if all((p.a, p.d) == _shares(group, i, a, d, growing) for i, p in enumerate(group)):
            return Run(start, stop, growing, a, d)
    return None


def _shares(group: Sequence[Pattern], i: int, a: int, d: int, growing: bool) -> tuple[int, int]:
    """Groups and diagonals of factor ``i`` if this were a run."""
    outs, ins = prod(p.b for p in group[:i]), prod(p.c for p in group[i + 1 :])
    return (a * ins, d * outs) if growing else (a * outs, d * ins)


def runs_of(patterns: Patterns, start: int, stop: int) -> tuple[Run, ...] | None:
    """The factors as one run, or as two on the same lanes one after the other; None if they are neither."""
    whole = as_run(patterns, start, stop)
    if whole is not None:
        return (whole,)
    for middle in range(start + 1, stop):
        first, second = as_run(patterns, start, middle), as_run(patterns, middle, stop)
        if first is not None and second is not None and (first.a, first.d) == (second.a, second.d):
            return first, second
    return None


def path_constants(
    patterns: Patterns, shapes: Sequence[Sequence[int]], run: Run, places: Sequence[int]
) -> Path:
    """What the kernels need of each factor of a run.

    Where its numbers begin; ``b`` and ``c``; how many diagonals and groups it has in each lane; how many outputs and
    inputs there are before and after it; and the strides of its weight along ``a``, ``b``, ``c`` and ``d``.
    """
    group = patterns[run.start : run.stop]
    found = []
    for i, p in enumerate(group):
        held_a, _, _, held_d = shapes[run.start + i]
        counts = [prod(f.b for f in group[:i]), prod(f.c for f in group[:i])]
        counts += [prod(f.b for f in group[i + 1 :]), prod(f.c for f in group[i + 1 :])]
        strides = [0 if held_a == 1 else p.b * p.c * held_d, p.c * held_d, held_d, 0 if held_d == 1 else 1]
        found.append((places[run.start + i], p.b, p.c, p.d // run.d, p.a // run.a, *counts, *strides))
    return tuple(found)
