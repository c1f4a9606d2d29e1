"""What can be said for certain of an arrangement that was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..common import Row
from .kaleidoscope import network
from .variation import total_variation

TURNS = ("as it was", "upside down", "mirrored", "half a turn")
SAME = 1e-6
"""Relative difference below which two values of an objective are the same."""
_AT_ONCE = 100


@dataclass(frozen=True)
class Objective:
    """What a learner minimised, of arrangements of the original images.

    Attributes:
        images: originals of those that it learned from, bytes ``(count, channels, side, side)``.
        torus: whether it is the sum of absolute differences on the torus; if not, it is the paper's total variation
            with open edges.
    """

    images: Tensor
    torus: bool

    def __call__(self, order: Tensor) -> float:
        """Mean over the images; ``order`` says for each position which pixel of the original stands there."""
        total = 0.0
        for some in torch.split(self.images, _AT_ONCE):
            seen = some.flatten(2)[..., order].reshape(some.shape)
            mean = absolute(seen) / 255 if self.torus else float(total_variation(seen.double() / 255))
            total += mean * len(some)
        return total / len(self.images)

    @cached_property
    def truth(self) -> float:
        """Of the images as they were; the least over flips, which the paper's total variation tells apart."""
        side = self.images.shape[-1]
        grid = torch.arange(side * side).reshape(side, side)
        flips: list[tuple[int, ...]] = [()] if self.torus else [(), (0,), (1,), (0, 1)]
        return min(self(grid.flip(axes).flatten()) for axes in flips)


@dataclass(frozen=True)
class Certificate:
    """Of an arrangement that was found, against the truth.

    Attributes:
        hard: whether each pixel occurs once, and one kaleidoscope of zeros and ones gives it exactly.
        exact: whether it is the true arrangement up to flips and transposition.
        wrapped: whether it is up to these and a turn of the torus, all of which leave total variation as it is.
        symmetry: which one, if so.
        right: share of the pixels that stand where they should, under the best symmetry.
        neighbours: share of the true pairs of neighbours (on the torus) that are neighbours.
        variation: the paper's total variation of the arranged images, mean.
        truth: that of the images as they were.
        scrambled: that of the images as they were given.
        random: that of random arrangements, mean.
        objective: what the learner minimised, on the images that it learned from.
        objective_truth: that of the images as they were, or flipped if that is less.
    """

    hard: bool
    exact: bool
    wrapped: bool
    symmetry: str
    right: float
    neighbours: float
    variation: float
    truth: float
    scrambled: float
    random: float
    objective: float
    objective_truth: float

    @property
    def limit(self) -> str:
        """What stood in the way.

        ``"nothing"``; ``"search"``: it ended above the truth; ``"cut"``: a turn that leaves the objective as it is;
        ``"loss"``: it is less than the truth's.
        """
        if self.exact:
            return "nothing"
        if self.objective > self.objective_truth * (1 + SAME):
            return "search"
        same = self.objective > self.objective_truth * (1 - SAME)
        return "cut" if self.wrapped and same else "loss"

    def row(self) -> Row:
        """As JSON values."""
        return asdict(self) | {"limit": self.limit}


def certify(found: Tensor, images: Tensor, given: Tensor, objective: Objective, seed: int) -> Certificate:
    """Check an arrangement.

    Args:
        found: for each position, which pixel of the original image stands there now.
        images: originals, bytes ``(count, channels, side, side)``.
        given: for each position, which pixel stood there in the scrambled images.
        objective: what the learner minimised.
        seed: of the random arrangements.
    """
    side = images.shape[-1]
    twins = classes(images)
    best, symmetry, right = nearest_symmetry(twins[found].reshape(side, side), twins.reshape(side, side))
    still = nearest_symmetry(twins[found].reshape(side, side), twins.reshape(side, side), turn=False)
    some = images[:: max(1, len(images) // 1_000)].flatten(2).float() / 255
    draw = torch.Generator().manual_seed(seed)

    def seen(order: Tensor) -> Tensor:
        return some[..., order].reshape(*some.shape[:2], side, side)

    truth = torch.arange(side * side)
    shuffles = [torch.randperm(side * side, generator=draw) for _ in range(5)]
    randoms = [float(total_variation(seen(o))) for o in shuffles]
    return Certificate(
        hard=is_permutation(found, side),
        exact=still[0],
        wrapped=best,
        symmetry=still[1] if still[0] else symmetry if best else "",
        right=right,
        neighbours=neighbours_kept(found, side),
        variation=float(total_variation(seen(found))),
        truth=float(total_variation(seen(truth))),
        scrambled=float(total_variation(seen(given))),
        random=sum(randoms) / len(randoms),
        objective=objective(found),
        objective_truth=objective.truth,
    )


def absolute(images: Tensor) -> float:
    """Sum of absolute differences of neighbours on the torus, mean over images of bytes; exact before the division."""
    signed = images.to(torch.int16)
    both = sum((signed.roll(-1, axis) - signed).abs().sum() for axis in (-2, -1))
    return float(both) / len(images)


def turned(images: Tensor) -> Row:
    """How far the paper's total variation, with open edges, falls when true images are turned on the torus.

    Below one the least total variation is not the truth: opposite edges are alike, and what is saved is the place where
    the images are cut.
    """
    some = images[:: max(1, len(images) // 500)].float() / 255
    truth = float(total_variation(some))
    found: Row = {}
    for name, axis in (("rows", -2), ("columns", -1)):
        values = [float(total_variation(some.roll(by, axis))) / truth for by in range(some.shape[-1])]
        least = min(values)
        found[name] = {"least": least, "by": values.index(least)}
    return {"turned": found}


def classes(images: Tensor) -> Tensor:
    """A number for each pixel, the same for pixels that are equal in every image: nothing tells those apart."""
    pixels = images.flatten(2).permute(2, 0, 1).flatten(1).contiguous().numpy()
    known: dict[bytes, int] = {}
    return torch.tensor([known.setdefault(pixel.tobytes(), len(known)) for pixel in pixels])


def is_permutation(found: Tensor, side: int) -> bool:
    """Whether each pixel occurs once, and the kaleidoscope of zeros and ones moves them so, to the last bit."""
    if not torch.equal(found.sort().values, torch.arange(side * side)):
        return False
    matrix = network(found)
    binary = all(bool(((w == 0) | (w == 1)).all()) for w in matrix.weights)
    x = torch.arange(side * side, dtype=torch.float64)
    with torch.no_grad():
        return binary and torch.equal(matrix @ x, x[found])


def nearest_symmetry(found: Tensor, truth: Tensor, *, turn: bool = True) -> tuple[bool, str, float]:
    """The symmetry of the square (and torus) under which most pixels agree: whether all do, its name, their share."""
    side = len(truth)
    best, name = -1.0, ""
    for transposed in (False, True):
        for flips, title in enumerate(TURNS):
            axes = [axis for axis in (0, 1) if flips >> axis & 1]
            moved = (truth.T if transposed else truth).flip(axes)
            for down in range(side if turn else 1):
                lower = moved.roll(down, 0)
                # All turns sideways at once: (side, side, side).
                shifted = torch.stack([lower.roll(k, 1) for k in range(side if turn else 1)])
                shares = (shifted == found).double().mean((1, 2))
                across = int(shares.argmax())
                if float(shares[across]) > best:
                    best = float(shares[across])
                    by = f", turned by ({down}, {across})" if down or across else ""
                    name = title + (", transposed" if transposed else "") + by
    return best == 1.0, name, best


def neighbours_kept(found: Tensor, side: int) -> float:
    """Share of the pairs of neighbours on the torus that are neighbours in an arrangement."""

    def pairs(order: Tensor) -> Any:
        grid = order.reshape(side, side)
        ends = [torch.stack([grid, grid.roll(-1, axis)]).flatten(1) for axis in (0, 1)]
        both = torch.cat(ends, 1).sort(0).values
        numbers: Tensor = both[0] * side * side + both[1]
        return torch.unique(numbers)

    truth = pairs(torch.arange(side * side))
    return float(torch.isin(truth, pairs(found)).double().mean())
