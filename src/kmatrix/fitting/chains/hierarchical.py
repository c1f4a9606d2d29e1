"""The hierarchical factorisation: a dense matrix as a tile-rank butterfly, factor by factor, by SVDs of tiles.

Errors of different factors are orthogonal, so the error of the product is known exactly while it is built, and
so is a lower bound of the best error that any member of the class could have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, FitError, complaint
from kmatrix.fitting.energy import fewest, tails
from kmatrix.ops import Pattern

Pairs = Sequence[tuple[int, int]]
EXACT = 1e-13
"""Discarded parts below this fraction of the norm are rounding, whatever the tolerance."""
_CHUNK = 1 << 24  # numbers held at once while tiles are decomposed


@dataclass(frozen=True)
class HierarchicalResult:
    """A chain near a dense matrix, and what is known about its error.

    Attributes:
        weights: the factors in order of application, float64 or complex128, of shape ``patterns[i]``.
        patterns: their supports.
        ranks: tile rank after each factor but the last.
        errors_per_level: Frobenius norm of what each of those truncations threw away.
        squared_error: ``||W - product||_F**2``, the sum of their squares.
        squared_norm: ``||W||_F**2``.
        bound: how far the error can be from the best in the class: ``error <= bound * optimum``.
        lower_bound: no member with these patterns has a smaller Frobenius error.
    """

    weights: tuple[Tensor, ...]
    patterns: tuple[Pattern, ...]
    ranks: tuple[int, ...]
    errors_per_level: tuple[float, ...]
    squared_error: float
    squared_norm: float
    bound: float
    lower_bound: float

    @property
    def num_params(self) -> int:
        """Numbers held by the factors."""
        return sum(p.numel for p in self.patterns)

    @property
    def relative_error(self) -> float:
        """``||W - product||_F / ||W||_F`` (0 for the zero matrix)."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_norm > 0 else 0.0


def hierarchical(
    matrix: Tensor,
    pairs: Pairs,
    *,
    tol: float = 0.0,
    ranks: Sequence[int] | None = None,
    max_params: int | None = None,
) -> HierarchicalResult:
    r"""Factorise ``W`` into a tile-rank butterfly with given radices, nearly as well as any such chain can.

    Let ``s_i = b_1 ... b_i``. Step ``i`` looks at the tiles (rows congruent to ``o`` modulo ``s_i``) x (block ``A``
    of ``c_1 ... c_i`` neighbouring columns), whose rows are already written in an orthonormal basis of few
    vectors per half-merged block: ``X = U S V^H``; ``V^H`` cut to the rank becomes factor ``i`` and ``X V`` goes on.

    *The error.* Rows of the product of the factors ``1..i`` that belong to one tile are orthonormal, as rows of
    ``V^H`` are and as blocks of the previous product that meet have disjoint columns. So what step ``i`` discards from
    a row, ``X (I - V V^H)`` times the old product, is orthogonal to everything that ``X V`` can still become, hence
    to what later steps discard: ``||W - product||^2`` is the sum of the discarded energies ``E_i^2``, exactly.

    *The bound.* The tiles at step ``i`` are orthogonal projections of the tiles of ``W``, so their trailing singular
    values are no larger, and a member of the class has tiles of the given rank: ``E_i <= optimum`` for each
    ``i``. Hence ``max E_i <= optimum <= error <= sqrt(L - 1) * optimum``.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        pairs: ``(b_i, c_i)`` in order of application, ``m = prod b_i``, ``n = prod c_i``.
        tol: relative Frobenius error to stay within; each level gets the smallest uniform rank that fits an equal
            share of what is left of it. At 0 the ranks are the numerical ones (1e-13).
        ranks: the ``len(pairs) - 1`` tile ranks, instead of ``tol``.
        max_params: give up as soon as the factors hold more numbers than this.

    Raises:
        ArgumentError: if the radices do not multiply to the shape, or the ranks do not fit them.
        FitError: if the chain gets longer than ``max_params``.

    Example:
        >>> k = torch.arange(8, dtype=torch.float64)
        >>> dft = torch.polar(torch.ones(8, 8, dtype=torch.float64), -2 * torch.pi / 8 * torch.outer(k, k))
        >>> found = hierarchical(dft[:, [0, 4, 2, 6, 1, 5, 3, 7]], [(2, 2)] * 3)
        >>> found.ranks, found.num_params, found.relative_error < 1e-14
        ((1, 1), 48, True)

    Reference:
        Le, Zheng, Riccietti, Gribonval, "Butterfly factorization with error guarantees" (2411.04506), for the
        tiles and for the bound of a one-directional order.
    """
    pairs = _check(matrix, pairs, tol, ranks)
    squared_norm = float(matrix.abs().square().sum())
    budget = max(tol, EXACT) ** 2 * squared_norm
    x = matrix.reshape(1, matrix.shape[0], matrix.shape[1], 1)
    weights: list[Tensor] = []
    errors: list[float] = []
    kept: list[int] = []
    for level, (b, c) in enumerate(pairs[:-1]):
        tiles = _tiles(x, b, c)
        values, rows = _row_spaces(tiles)
        lost = tails(values.square().sum((0, 1)))
        if ranks is None:
            left = max(budget - sum(e * e for e in errors), 0.0)
            rank = fewest(lost, max(left / (len(pairs) - 1 - level), EXACT**2 * squared_norm))
        else:
            rank = min(ranks[level], len(lost) - 1)
        errors.append(math.sqrt(float(lost[rank])))
        kept.append(rank)
        weights.append(_weight(rows[:, :, :rank], b, x.shape[-1]))
        if max_params is not None and sum(w.numel() for w in weights) > max_params:
            raise FitError(f"hierarchical: tile ranks {kept} take more than max_params={max_params} numbers")
        x = _project(tiles, rows[:, :, :rank])
    weights.append(_weight(_tiles(x, *pairs[-1]), pairs[-1][0], x.shape[-1]))
    return HierarchicalResult(
        weights=tuple(weights),
        patterns=tuple(Pattern(*w.shape) for w in weights),
        ranks=tuple(kept),
        errors_per_level=tuple(errors),
        squared_error=sum(e * e for e in errors),
        squared_norm=squared_norm,
        bound=math.sqrt(max(len(errors), 1)),
        lower_bound=max(errors, default=0.0),
    )


def hierarchical_transposed(
    matrix: Tensor,
    pairs: Pairs,
    *,
    tol: float = 0.0,
    ranks: Sequence[int] | None = None,
    max_params: int | None = None,
) -> HierarchicalResult:
    """Factorise ``W`` into the transpose of a tile-rank butterfly, the class ``B*``: long strides first.

    The tiles are blocks of ``b_L ... b_i`` neighbouring rows and columns with one residue; ``W^T`` is factorised and
    the chain transposed.

    Args:
        matrix: ``(m, n)`` float64 or complex128.
        pairs: ``(b_i, c_i)`` in order of application, ``m = prod b_i``, ``n = prod c_i``.
        tol: as for ``hierarchical``.
        ranks: tile rank after each factor but the last, in order of application.
        max_params: as for ``hierarchical``.

    Raises:
        ArgumentError: as for ``hierarchical``.
        FitError: as for ``hierarchical``.

    Example:
        >>> w = torch.arange(16.0, dtype=torch.float64).reshape(4, 4)
        >>> hierarchical_transposed(w, [(2, 2)] * 2).patterns
        (Pattern(a=1, b=4, c=2, d=2), Pattern(a=2, b=2, c=4, d=1))
    """
    swapped = [(c, b) for b, c in reversed(pairs)]
    back = None if ranks is None else list(reversed(ranks))
    found = hierarchical(matrix.T, swapped, tol=tol, ranks=back, max_params=max_params)
    weights, patterns = transpose_chain(found.weights, found.patterns)
    return HierarchicalResult(
        weights=weights,
        patterns=patterns,
        ranks=found.ranks[::-1],
        errors_per_level=found.errors_per_level[::-1],
        squared_error=found.squared_error,
        squared_norm=found.squared_norm,
        bound=found.bound,
        lower_bound=found.lower_bound,
    )


def transpose_chain(
    weights: Sequence[Tensor], patterns: Sequence[Pattern]
) -> tuple[tuple[Tensor, ...], tuple[Pattern, ...]]:
    """The chain of the transposed matrix: factors in reverse order, each with rows and columns swapped.

    Args:
        weights: factors in order of application, of shape ``(a, b, c, d)`` (1 where tied).
        patterns: their supports.
    """
    flipped = tuple(w.transpose(1, 2) for w in reversed(weights))
    return flipped, tuple(Pattern(a, c, b, d) for a, b, c, d in reversed(patterns))


def balance_chain(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Scale the factors so that all have the same gain and the product stays as it is, up to rounding.

    The gain of a factor is ``||F||_F / sqrt(rows)``, the growth of a random vector. A chain with a zero factor is
    returned as it is.

    Args:
        weights: factors in order of application, untied, of shape ``(a, b, c, d)``.
    """
    gains = [float(torch.linalg.vector_norm(w)) / math.sqrt(w.numel() / w.shape[2]) for w in weights]
    if not all(0.0 < g < math.inf for g in gains):
        return tuple(weights)
    common = math.exp(sum(map(math.log, gains)) / len(gains))
    return tuple(w * (common / g) for w, g in zip(weights, gains, strict=True))


def _check(matrix: Tensor, pairs: Pairs, tol: float, ranks: Sequence[int] | None) -> list[tuple[int, int]]:
    """Complain about what does not fit together; return the pairs as a list."""
    where = "hierarchical"
    if matrix.dtype not in (torch.float64, torch.complex128):
        raise DtypeError(
            complaint(where, "matrix.dtype", matrix.dtype, "too narrow", "use .double() or .cdouble()")
        )
    pairs = [(int(b), int(c)) for b, c in pairs]
    product = (math.prod(b for b, _ in pairs), math.prod(c for _, c in pairs))
    if not pairs or min(min(p) for p in pairs) < 1 or product != tuple(matrix.shape):
        reason = f"rows times columns of the pairs must be {tuple(matrix.shape)}, not {product}"
        raise ArgumentError(
            complaint(where, "pairs", pairs, reason, "pass radices that multiply to the shape")
        )
    if not 0 <= tol < math.inf:
        raise ArgumentError(
            complaint(where, "tol", tol, "must be a finite number >= 0", "pass tol=0 for exact")
        )
    if ranks is not None and (len(ranks) != len(pairs) - 1 or min(ranks, default=1) < 1):
        reason = "one rank of at least 1 is needed between neighbouring factors"
        raise ArgumentError(complaint(where, "ranks", list(ranks), reason, f"pass {len(pairs) - 1} ranks"))
    if not bool(torch.isfinite(torch.view_as_real(matrix) if matrix.is_complex() else matrix).all()):
        raise ArgumentError(complaint(where, "matrix", "...", "holds NaN or infinity", "clean it first"))
    return pairs


def _tiles(x: Tensor, b: int, c: int) -> Tensor:
    """Regroup ``(s, p'*b, A'*c, rho)`` to the tiles ``(b*s, A', p', c*rho)`` of the next level."""
    s, p, blocks, rho = x.shape
    grid = x.reshape(s, p // b, b, blocks // c, c, rho).permute(2, 0, 3, 1, 4, 5)
    return grid.reshape(b * s, blocks // c, p // b, c * rho)


def _row_spaces(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors (as rows) of every tile.

    A QR of the tall tiles first keeps the SVDs small without squaring the condition, as a Gram matrix would.
    """
    count, blocks, tall, wide = tiles.shape
    step = max(1, _CHUNK // (blocks * tall * wide))
    values, rows = [], []
    for start in range(0, count, step):
        part = tiles[start : start + step]
        square = torch.linalg.qr(part, mode="r").R if tall > wide else part
        _, s, vh = torch.linalg.svd(square, full_matrices=False)
        values.append(s)
        rows.append(vh)
    return torch.cat(values), torch.cat(rows)


def _weight(rows: Tensor, b: int, rho: int) -> Tensor:
    """Orthonormal rows ``(b*s, A', rho', c*rho)`` as the weight ``(A', rho'*b, c*rho, s)`` of a factor."""
    classes, blocks, rank, wide = rows.shape
    grid = rows.reshape(b, classes // b, blocks, rank, wide).permute(2, 3, 0, 4, 1)
    return grid.reshape(blocks, rank * b, wide, classes // b).contiguous()


def _project(tiles: Tensor, rows: Tensor) -> Tensor:
    """Coordinates of the tiles' rows in the kept basis: ``(b*s, p', A', rho')``, the next ``x``."""
    return torch.matmul(tiles, rows.mH).transpose(1, 2)
