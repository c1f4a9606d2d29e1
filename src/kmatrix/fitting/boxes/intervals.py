"""Cyclic intervals of an axis: which one is worth its price, and the ordinary slices that it consists of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Gains = npt.NDArray[np.float64]


def best_interval(gains: Gains) -> tuple[int, int, float]:
    """Start, width and sum of the cyclic interval with the largest sum; width 0 where none is positive.

    An interval that wraps is what an ordinary one, that of the smallest sum, leaves.

    Example:
        >>> best_interval(np.array([2.0, -9.0, 1.0, -4.0, 3.0]))
        (4, 2, 5.0)
    """
    n = len(gains)
    sums = np.concatenate(([0.0], np.cumsum(gains)))
    inner = sums[1:] - np.minimum.accumulate(sums[:-1])
    outer = sums[1:] - np.maximum.accumulate(sums[:-1])
    last, gap_last = int(inner.argmax()), int(outer.argmin())
    best, wrapped = float(inner[last]), float(sums[-1] - outer[gap_last])
    if max(best, wrapped) <= 0:
        return 0, 0, 0.0
    if best >= wrapped:
        first = int(sums[: last + 1].argmin())
        return first, last + 1 - first, best
    gap_first = int(sums[: gap_last + 1].argmax())
    return (gap_last + 1) % n, n - (gap_last + 1 - gap_first), wrapped


def spans(start: int, width: int, n: int) -> list[slice]:
    """A cyclic interval as one or two slices of an axis of length ``n``; none if it is empty.

    Example:
        >>> spans(3, 4, 5)
        [slice(3, 5, None), slice(0, 2, None)]
    """
    if width == 0:
        return []
    stop = start + width
    return [slice(start, stop)] if stop <= n else [slice(start, n), slice(0, stop - n)]


def inside(start: int, width: int, n: int) -> npt.NDArray[np.bool_]:
    """Which places of an axis of length ``n`` lie in a cyclic interval."""
    places: npt.NDArray[np.bool_] = (np.arange(n) - start) % n < width
    return places
