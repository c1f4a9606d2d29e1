"""Multiplying adjacent factors out into one wider factor, and pulling gradients back through that.

Two factors merge when ``a`` of one divides ``a`` of the other, the same holds for ``d``, and what is left of
the index between them is a whole number of digits: then the product is full on the support of one factor
again. Neighbours in butterflies (either direction), Monarch matrices, low-rank and Kronecker products all
merge this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops.definition import Pattern


class Split(NamedTuple):
    """Digits of the index between factor ``p`` (applied first) and factor ``q`` (second).

    The index reads ``(a, pa or qa, rank, pd or qd, d)``: ``a`` and ``d`` belong to both factors, ``pa =
    p.a/a`` and ``pd = p.d/d`` to the first alone, ``qa`` and ``qd`` to the second alone (of each pair at
    least one is 1), and ``rank`` to neither: the product sums over it.
    """

    a: int
    pa: int
    qa: int
    rank: int
    pd: int
    qd: int
    d: int


@lru_cache(maxsize=1024)
def split(p: Pattern, q: Pattern) -> Split | None:
    """How ``p`` followed by ``q`` splits into digits, or None if the product is not a single factor."""
    if p.rows != q.cols or not (p.numel and q.numel):
        return None
    a, d = min(p.a, q.a), min(p.d, q.d)
    pa, qa, pd, qd = p.a // a, q.a // a, p.d // d, q.d // d
    if p.a % a or q.a % a or p.d % d or q.d % d or p.b % (qa * qd):
        return None
    return Split(a, pa, qa, p.b // (qa * qd), pd, qd, d)


def mergeable(p: Pattern, q: Pattern) -> bool:
    """Whether a factor of pattern ``p`` followed by one of pattern ``q`` is a factor of a single pattern.

    Example:
        >>> mergeable(Pattern(4, 2, 2, 1), Pattern(2, 2, 2, 2))
        True
        >>> mergeable(Pattern(2, 3, 3, 1), Pattern(3, 2, 2, 1))
        False
    """
    return split(p, q) is not None


def product_pattern(p: Pattern, q: Pattern) -> Pattern:
    """The pattern of ``p`` followed by ``q``.

    Raises:
        ArgumentError: if the two do not merge.

    Example:
        >>> product_pattern(Pattern(4, 2, 2, 1), Pattern(2, 2, 2, 2))
        Pattern(a=2, b=4, c=4, d=1)
    """
    s = _require_split(p, q)
    return Pattern(s.a, s.qa * q.b * s.qd, s.pa * p.c * s.pd, s.d)


def merge_factors(first: Tensor, p: Pattern, second: Tensor, q: Pattern) -> tuple[Tensor, Pattern]:
    """Multiply two adjacent factors out into one.

    ``M[A,(qa,B,qd),(pa,C,pd),D] = sum_R second[(A,qa),B,(pa,R,pd),(qd,D)] *
    first[(A,pa),(qa,R,qd),C,(pd,D)]``, where the index between the factors reads ``(A, pa or qa, R, pd or qd,
    D)``. The product stays tied along an axis where both factors are tied.

    Args:
        first: weight of the factor applied first, of the shape of its pattern ``p`` up to tying.
        p: pattern of ``first``.
        second: weight of the factor applied second.
        q: pattern of ``second``.

    Returns:
        The weight and the pattern of the product; differentiable.

    Raises:
        ArgumentError: if the two do not merge.

    Example:
        >>> p, q = Pattern(2, 2, 2, 1), Pattern(1, 2, 2, 2)
        >>> merge_factors(torch.ones(p), p, torch.ones(q), q)[1]
        Pattern(a=1, b=4, c=4, d=1)

    Reference:
        Le, Zheng, Riccietti and Gribonval, Butterfly factorization with error guarantees (2024), section 3,
        for pairs with ``a_q | a_p`` and ``d_p | d_q``; the other three cases follow by the same argument.
    """
    pattern = product_pattern(p, q)
    product = _product(first[..., None, None], p, second[..., None, None], q)
    return product[..., 0, 0], pattern


def merge_group(weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> Tensor:
    """Multiply out a run of factors, each of which merges with the product so far; not contiguous.

    The groups and diagonals common to all factors are independent lanes. They are put last, where the
    arithmetic is elementwise along them, which is several times faster than leaving short axes innermost.
    """
    if len(weights) == 1:
        return weights[0]
    *_, product = _running_products(*_to_lanes(weights, patterns))
    return product[0, :, :, 0].permute(2, 0, 1, 3)


def merge_group_gradients(
    grad: Tensor, weights: Sequence[Tensor], patterns: Sequence[Pattern]
) -> list[Tensor]:
    """Gradients of the weights that ``merge_group`` multiplied out, from the gradient of their product."""
    if len(weights) == 1:
        return [grad]
    lanes, narrow = _to_lanes(weights, patterns)
    products = _running_products(lanes, narrow)
    running = _running_patterns(narrow)
    grad = grad.permute(1, 2, 0, 3)[None, :, :, None].contiguous()
    gradients: list[Tensor] = []
    for i in range(len(weights) - 1, 0, -1):
        grad, grad_second = _product_gradients(grad, products[i - 1], running[i - 1], lanes[i], narrow[i])
        gradients.append(grad_second)
    gradients.append(grad)
    return [_from_lanes(g, w) for g, w in zip(reversed(gradients), weights, strict=True)]


def _require_split(p: Pattern, q: Pattern) -> Split:
    s = split(p, q)
    if s is None:
        reason = f"its product with the factor {tuple(p)} applied before it is not a single factor"
        raise ArgumentError(
            complaint("merge_factors", "q", tuple(q), reason, "ask mergeable(p, q) before merging")
        )
    return s


def _to_lanes(weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> tuple[list[Tensor], list[Pattern]]:
    """Weights with the common groups and diagonals as two last axes, and the patterns of the rest."""
    a, d = min([p.a for p in patterns]), min([p.d for p in patterns])
    narrow = [Pattern(p.a // a, p.b, p.c, p.d // d) for p in patterns]
    lanes = []
    for w in weights:
        wa, wd = min(w.shape[0], a), min(w.shape[3], d)
        grid = w.reshape(wa, w.shape[0] // wa, w.shape[1], w.shape[2], w.shape[3] // wd, wd)
        lanes.append(grid.permute(1, 2, 3, 4, 0, 5).contiguous())
    return lanes, narrow


def _from_lanes(weight: Tensor, like: Tensor) -> Tensor:
    return weight.permute(4, 0, 1, 2, 3, 5).reshape(like.shape)


def _running_patterns(patterns: Sequence[Pattern]) -> list[Pattern]:
    running = [patterns[0]]
    for q in patterns[1:]:
        running.append(product_pattern(running[-1], q))
    return running


def _running_products(weights: Sequence[Tensor], patterns: Sequence[Pattern]) -> list[Tensor]:
    products = [weights[0]]
    for p, w, q in zip(_running_patterns(patterns), weights[1:], patterns[1:], strict=False):
        products.append(_product(products[-1], p, w, q))
    return products


class _Pullback(NamedTuple):
    """Gradient of one operand: an einsum with the other, then a sum over axes, then a reordering."""

    equation: str
    summed: tuple[int, ...]
    order: tuple[int, ...]

    def __call__(self, grad: Tensor, other: Tensor) -> Tensor:
        pulled = torch.einsum(self.equation, grad, other.conj())
        return (pulled.sum(self.summed) if self.summed else pulled).permute(self.order)


class _Recipe(NamedTuple):
    """One product of weights that are viewed with their digits as axes, axes of size 1 left out."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    digits: tuple[int, ...]
    product: tuple[int, ...]
    equation: str
    pull_first: _Pullback
    pull_second: _Pullback


@lru_cache(maxsize=1024)
def _recipe(p: Pattern, q: Pattern, first: tuple[int, ...], second: tuple[int, ...]) -> _Recipe:
    """How to multiply weights of the given shapes; a weight has size 1 along the axes where it is tied."""
    s = _require_split(p, q)
    pa, pd = ((1, 1) if first[0] == 1 else (s.a, s.pa)), ((1, 1) if first[3] == 1 else (s.pd, s.d))
    qa, qd = ((1, 1) if second[0] == 1 else (s.a, s.qa)), ((1, 1) if second[3] == 1 else (s.qd, s.d))
    x = dict(zip("apqrucsdxy", (*pa, s.qa, s.rank, s.qd, p.c, *pd, *first[4:]), strict=True))
    y = dict(zip("aqbprsudxy", (*qa, q.b, s.pa, s.rank, s.pd, *qd, *second[4:]), strict=True))
    z = {axis: max(x.get(axis, 1), y.get(axis, 1)) for axis in "aqbupcsdxy"}
    shape = (z["a"], s.qa * q.b * s.qd, s.pa * p.c * s.pd, z["d"], z["x"], z["y"])
    x, y, z = ({axis: size for axis, size in sizes.items() if size > 1} for sizes in (x, y, z))
    xs, ys, zs = "".join(x), "".join(y), "".join(z)
    pullbacks = _pullback(zs, xs, ys), _pullback(zs, ys, xs)
    return _Recipe(
        tuple(x.values()), tuple(y.values()), tuple(z.values()), shape, f"{xs},{ys}->{zs}", *pullbacks
    )


def _pullback(product: str, axes: str, other: str) -> _Pullback:
    if "r" in axes:  # a true matrix product: one einsum does it
        return _Pullback(f"{product},{other}->{axes}", (), tuple(range(len(axes))))
    # elementwise, then a plain sum: half the time of einsum's batches of tiny matrix products
    summed = tuple(i for i, axis in enumerate(product) if axis not in axes)
    rest = [axis for axis in product if axis in axes]
    return _Pullback(f"{product},{other}->{product}", summed, tuple(rest.index(axis) for axis in axes))


def _product(first: Tensor, p: Pattern, second: Tensor, q: Pattern) -> Tensor:
    recipe = _recipe(p, q, first.shape, second.shape)
    left, right = first.reshape(recipe.first), second.reshape(recipe.second)
    return torch.einsum(recipe.equation, left, right).reshape(recipe.product)


def _product_gradients(
    grad: Tensor, first: Tensor, p: Pattern, second: Tensor, q: Pattern
) -> tuple[Tensor, Tensor]:
    recipe = _recipe(p, q, first.shape, second.shape)
    left, right = first.reshape(recipe.first), second.reshape(recipe.second)
    grad = grad.reshape(recipe.digits)
    return recipe.pull_first(grad, right).reshape(first.shape), recipe.pull_second(grad, left).reshape(
        second.shape
    )
