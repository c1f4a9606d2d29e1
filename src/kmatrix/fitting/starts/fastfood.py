"""Fastfood matrices recognised from their entries: the permutation and the three diagonals of ``S H G P H B``.

The elementwise product of ``W`` and its inverse transpose does not see ``S`` and ``B``. Transformed by ``H`` on both
sides it has at ``(u, v)`` the sum of ``g_k / g_l`` over all ``k ^ l = u``, ``p(k) ^ p(l) = v``: where it vanishes no
two values of ``p`` may go, which leaves a tree search almost no choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix._errors import FitError, complaint
from kmatrix._permutations import Index
from kmatrix.structures import Fastfood, StructuredMatrix
from kmatrix.structures.fastfood import FastfoodMatrix

Array = npt.NDArray[np.float64]
_VISIBLE = 1e-6  # every pair adds at least 2 in size; sums of a few pairs hardly ever fall this low
_WORK = 1 << 32  # numbers looked at in one search for the permutation
_BEGINNINGS = 2  # beginnings of the permutation that are tried
_COINCIDENCE = 1e-6  # how exactly the logarithms of a beginning must add up
_ROUNDS = 4
_EXACT = 1e-6


class FastfoodParts(NamedTuple):
    """``W = S H G P H B`` with orthonormal ``H`` and ``(P x)[i] = x[p[i]]``."""

    s: Array
    g: Array
    p: Index
    b: Array

    def dense(self) -> Array:
        """The matrix."""
        n = len(self.p)
        h = _hadamard(n)
        dense: Array = self.s[:, None] * (h @ (self.g[:, None] * h[self.p])) * self.b / n
        return dense

    def matrix(self) -> StructuredMatrix:
        """The matrix as a member of ``Fastfood``."""
        n = len(self.p)
        numbers = torch.from_numpy(np.stack([self.b, self.g, self.s])[:, None])
        matrix = FastfoodMatrix.from_numbers(Fastfood(), (n, n), numbers)
        matrix.permutation.copy_(torch.from_numpy(self.p))
        return matrix


def recognise_fastfood(matrix: Tensor) -> FastfoodParts:
    """Find the diagonals and the permutation of a Fastfood matrix; exact for generic ones.

    Args:
        matrix: ``(n, n)`` float64, ``n`` a power of two of at least 8.

    Raises:
        FitError: if the matrix is not one, or its diagonals are too special to tell.

    Example:
        >>> from kmatrix.structures import Fastfood
        >>> W = Fastfood().random(32, 32, dtype=torch.float64).to_dense().detach()
        >>> float(abs(recognise_fastfood(W).dense() - W.numpy()).max()) < 1e-9
        True
    """
    n = len(matrix)
    if tuple(matrix.shape) != (n, n) or n < 8 or n & (n - 1) or matrix.is_complex():
        raise _no("not a real square matrix of a power-of-two size of at least 8")
    dense = matrix.numpy()
    try:
        shared = dense * np.linalg.inv(dense).T
    except np.linalg.LinAlgError:
        raise _no("singular") from None
    h = _hadamard(n)
    sums = h @ shared @ h
    # Rows and columns of ``shared`` sum to one, whatever the matrix; no more than half of the rest may be occupied.
    visible = np.abs(sums) > _VISIBLE
    if not np.isfinite(sums).all() or visible[1:, 1:].mean() > 0.6:
        raise _no("every pair of differences occurs")
    p = _permutation(sums, visible)
    for g in _middle(sums, p):
        parts = _outer(dense, g, p)
        if np.linalg.norm(parts.dense() - dense) <= _EXACT * np.linalg.norm(dense):
            return parts
    raise _no("no diagonals fit")


def _no(reason: str) -> FitError:
    return FitError(
        complaint("recognise_fastfood", "matrix", "...", reason, "use km.fit without a structure")
    )


def _hadamard(n: int) -> npt.NDArray[Any]:
    from scipy.linalg import hadamard

    return hadamard(n).astype(np.float64)


def _permutation(sums: Array, visible: npt.NDArray[np.bool_]) -> Index:
    """A permutation with ``p[0] = 0`` and ``visible[k ^ l, p[k] ^ p[l]]`` for all ``k, l``."""
    for known in _beginnings(sums) or [[0]]:
        p = _search(visible, known)
        if p is not None:
            return p
    raise _no("no permutation fits, or the search for it takes too long")


def _beginnings(sums: Array) -> list[list[int]]:
    """Values ``p[0], p[1], p[2]`` that are surely right together, for some translation of the permutation.

    Where three cells hold one pair each, the logarithms of ``g`` at the three places are points on a line, and
    distances between them add up. That they do so by chance is next to impossible.
    """
    sizes = np.abs(sums[1:4])
    distances = np.arccosh(np.maximum(sizes / 2, 1.0))
    first, second = (np.flatnonzero(distances[row] > 0.1) for row in (0, 1))
    third = first[:, None] ^ second
    a, b, c = distances[0, first][:, None], distances[1, second], distances[2, third]
    misses = np.minimum(np.abs(a + b - c), np.abs(np.abs(a - b) - c))
    signs = np.sign(sums[1, first])[:, None] * np.sign(sums[2, second]) * np.sign(sums[3, third])
    misses = np.where((signs > 0) & (c > 0.1), misses, np.inf)
    best = np.argsort(misses, axis=None)[:_BEGINNINGS]
    rows, columns = np.unravel_index(best[misses.flat[best] < _COINCIDENCE], misses.shape)
    return [[0, int(first[i]), int(second[j])] for i, j in zip(rows, columns, strict=True)]


def _search(visible: npt.NDArray[np.bool_], known: Sequence[int]) -> Index | None:
    """Depth first from the first values on; the next place filled is always one with the fewest values left."""
    n = len(visible)
    points = np.arange(n)
    p = np.full(n, -1)
    left = np.ones((n, n), dtype=bool)
    path: list[tuple[int, npt.NDArray[np.bool_], Iterator[int]]] = []
    for k, value in enumerate(known):
        p[k] = value
        left = left & visible[np.ix_(points ^ k, points ^ value)]
    for _ in range(_WORK // n**2):
        counts = np.where(p < 0, left.sum(1), n + 1)
        place = int(counts.argmin())
        if counts[place] > n:
            return p
        path.append((place, left, iter(np.flatnonzero(left[place]).tolist())))
        p[place] = value = next(path[-1][2], -1)
        while value < 0:
            path.pop()
            if not path:
                return None
            p[path[-1][0]] = value = next(path[-1][2], -1)
        place, left, _ = path[-1]
        left = left & visible[np.ix_(points ^ place, points ^ value)]
    return None


def _middle(sums: Array, p: Index) -> list[Array]:
    """The diagonal ``g`` up to scale, and its inverse, which gives the same sums."""
    n = len(p)
    k, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    u, v = k ^ j, p[k] ^ p[j]
    counts = np.zeros((n, n), dtype=np.int64)
    np.add.at(counts, (u, v), 1)
    alone = counts[u, v] == 2  # the pair and its reverse
    sums = sums[u, v]
    # |g_k / g_j| + |g_j / g_k| = 2 cosh(a_k - a_j) for the logarithms a: distances between points on a line.
    distance = np.arccosh(np.maximum(np.abs(sums) / 2, 1.0))
    start, end = np.unravel_index(np.where(alone, distance, -1.0).argmax(), distance.shape)
    place, sign = np.full(n, np.nan), np.ones(n)
    place[start], place[end], sign[end] = 0.0, distance[start, end], np.sign(sums[start, end])
    for _ in range(n):
        links = np.where(np.isnan(place)[:, None], (alone & ~np.isnan(place)).astype(int), 0).sum(1)
        node = int(links.argmax())
        if links[node] == 0:
            break
        known = np.flatnonzero(alone[node] & ~np.isnan(place))
        # From the farthest known point there are two places; the others tell which.
        far = known[distance[node, known].argmax()]
        two = place[far] + distance[node, far] * np.array([1.0, -1.0])
        misses = np.abs(np.abs(two[:, None] - place[known]) - distance[node, known]).sum(1)
        place[node] = two[misses.argmin()]
        sign[node] = sign[far] * np.sign(sums[node, far])
    if np.isnan(place).any():
        raise _no("too few differences of the permutation are unique")
    return [sign * np.exp(place - place.mean()), sign * np.exp(place.mean() - place)]


def _outer(dense: Array, g: Array, p: Index) -> FastfoodParts:
    """The outer diagonals for a given middle one, then each of the three by least squares in turn."""
    from scipy.linalg import solve

    n = len(p)
    h = _hadamard(n)
    middle = h @ (g[:, None] * h[p]) / n
    row = int(np.abs(middle).min(1).argmax())
    b = dense[row] / middle[row]
    s = np.ones(n)
    for _ in range(_ROUNDS):
        s = _row_scales(dense, middle * b)
        b = _row_scales(dense.T, (s[:, None] * middle).T)
        # W = sum_k g_k (s h_k) (h_p(k) b)^T / n, linear in g.
        left, right = s[:, None] * h, h[p] * b
        gram = (left.T @ left) * (right @ right.T) / n**2
        g = solve(gram, ((left.T @ dense) * right).sum(1) / n, assume_a="sym")
        middle = h @ (g[:, None] * h[p]) / n
    return FastfoodParts(s, g, p, b)


def _row_scales(target: Array, rows: Array) -> Array:
    """The multiples of the rows nearest to those of the target."""
    scales: Array = (target * rows).sum(1) / np.maximum((rows * rows).sum(1), 1e-300)
    return scales
