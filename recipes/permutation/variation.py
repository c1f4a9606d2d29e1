"""Total variation: of images, as the paper has it, and as a sum of distances, as it is learned from.

With absolute differences (not the Euclidean norm of the two), total variation is a sum over neighbouring positions
of the mean distance between what stands there. So all that it needs to know of the images is a table of distances:
between two rows, two columns, or two pixels. Neighbours at opposite edges count, as on a torus: without them the
least total variation often has the images cut through the middle, where the cut saves most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def total_variation(images: Tensor, *, wrap: bool = False) -> Tensor:
    """Mean over images of ``sum_ij ||(x[i+1,j] - x[i,j], x[i,j+1] - x[i,j])||`` for ``(..., channels, n, n)``.

    Args:
        images: all leading dimensions but the last four stay.
        wrap: whether the first row and column follow the last; if not, differences beyond the edge are zero.
    """
    down, right = images.roll(-1, -2) - images, images.roll(-1, -1) - images
    if not wrap:
        keep = torch.ones(images.shape[-1], dtype=images.dtype, device=images.device)
        keep[-1] = 0
        down, right = down * keep[:, None], right * keep
    # The root has no gradient at zero: flat places stay out of it.
    square = down.square() + right.square()
    flat = square == 0
    norm = torch.where(flat, 0.0, torch.where(flat, 1.0, square).sqrt())
    return norm.sum((-3, -2, -1)).mean(-1)


def line_distances(images: Tensor, axis: int) -> Tensor:
    """Mean over images of the sum of absolute differences between two rows (axis 0) or columns (axis 1)."""
    lines = images.movedim(2 + axis, 0).flatten(2).flatten(1)
    return _distances(lines)


def pixel_distances(images: Tensor) -> Tensor:
    """Mean over images of the absolute difference between two pixels, summed over channels."""
    return _distances(images.flatten(2).movedim(2, 0).flatten(1))


def _distances(things: Tensor) -> Tensor:
    """Sums of absolute differences, scaled so that the table's mean is one."""
    found = torch.zeros(len(things), len(things))
    # In pieces, whose sums of bytes stay below 2**24, so that they are exact in float32.
    for piece in torch.split(things, 16_384, dim=1):
        found += torch.cdist(piece.float(), piece.float(), p=1)
    return found / found.mean().clamp_min(1e-12)


@dataclass(frozen=True)
class Places:
    """Positions to fill: ``(n,)`` in a ring, or ``(n, n)`` on a torus."""

    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return int(torch.tensor(self.sizes).prod())

    def spread(self, there: Tensor, width: float) -> Tensor:
        """Sum over the neighbours of each position, of ``there`` of shape ``(chains, positions, m)``.

        With a width, neighbours are weighted by a Gaussian of that width instead, and weigh as much in all.
        """
        grid = there.reshape(len(there), *self.sizes, -1)
        if width <= 0:
            axes = range(1, 1 + len(self.sizes))
            return sum((grid.roll(s, a) for a in axes for s in (1, -1)), torch.zeros_like(grid)).flatten(
                1, len(self.sizes)
            )
        total, near = grid, 1.0
        for axis, size in enumerate(self.sizes, 1):
            far = torch.arange(size, dtype=there.dtype, device=there.device)
            ring = torch.exp(-0.5 * (torch.minimum(far, size - far) / width) ** 2)
            near *= float(ring.sum())
            weight = torch.stack([ring.roll(k) for k in range(size)])
            total = torch.tensordot(weight, total, dims=([1], [axis])).movedim(0, axis)
        return ((total - grid) * (2 * len(self.sizes) / max(near - 1, 1e-9))).flatten(1, len(self.sizes))

    def value(self, distances: Tensor, order: Tensor) -> Tensor:
        """Total variation of arrangements ``(chains, positions)``, with a table of distances for each."""
        chain = torch.arange(len(order), device=order.device).reshape(-1, *(1 for _ in self.sizes))
        grid = order.reshape(-1, *self.sizes)
        found = [distances[chain, grid, grid.roll(-1, a)] for a in range(1, 1 + len(self.sizes))]
        return torch.stack(found).flatten(2).sum((0, 2))

    def wirings(self, count: int, draw: torch.Generator) -> Tensor:
        """Which position each input of a network is, ``(count, positions)``: random turns, half of them folded."""
        grid = torch.arange(len(self)).reshape(self.sizes)
        found = []
        for _ in range(count):
            wired = grid
            for axis, size in enumerate(self.sizes):
                wired = wired.roll(int(torch.randint(size, (), generator=draw)), axis)
                if torch.rand((), generator=draw) < 0.5:
                    wired = wired.index_select(axis, folded(size))
            found.append(wired.flatten())
        return torch.stack(found)


def folded(size: int) -> Tensor:
    """A ring folded in the middle, 0, -1, 1, -2, ...: neighbours in it are mirror images."""
    steps = torch.arange(size)
    return torch.where(steps % 2 == 0, steps // 2, size - 1 - steps // 2)


def cut(gaps: Tensor) -> int:
    """Which line of a ring should be first; ``gaps[k]`` is the distance between lines ``k - 1`` and ``k``.

    The middle of the longest run of equal lines (a blank margin); if there is none, where the distance stands out most
    against those on both sides of it.
    """
    count = len(gaps)
    equal = (gaps == 0).tolist()
    if any(equal) and not all(equal):
        runs = []
        for start in range(count):
            length = 1
            while not equal[start] and length < count and equal[(start + length) % count]:
                length += 1
            runs.append((length, start))
        length, start = max(runs, key=lambda run: (run[0], -run[1]))
        return (start + length // 2) % count
    around = (gaps.roll(1) + gaps.roll(-1)) / 2
    return int((gaps / around.clamp_min(1e-12)).argmax())
