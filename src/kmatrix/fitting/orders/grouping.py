"""Grouping: which rows span, on every block of columns, a line or a plane together.

An *element* is a set of rows known by a basis of its row space on each block; the tensor of bases has the shape
``(elements, blocks, dim, width)``. Merging partitions the elements into sets of one size whose joint row
spaces have dimension 1 or 2 on every block. Detection works on random sketches; whoever keeps a merge verifies it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SKETCH = 8
"""Dimension of the random sketches: room for two planes and rounding."""
_BLOCKS = 4  # blocks looked at when groups are detected
_ATTEMPTS = 4  # rows tried before it is believed that there are no planes


@dataclass(frozen=True)
class Merge:
    """A partition of elements into groups of equal size.

    Attributes:
        groups: ``(number of groups, group size)`` element numbers, groups by smallest member.
        rank: dimension of the joint row spaces, 1 or 2.
    """

    groups: Tensor
    rank: int


def merge(bases: Tensor, delta: float, generator: torch.Generator) -> Merge | None:
    """Find the largest uniform groups of elements with joint row spaces of the least dimension, or ``None``.

    Lines first merge with equal lines; when lines do not merge, three or more of them may lie in one plane; planes
    merge with equal planes. Elements of smaller dimension than the others are fitted into the groups in the end.

    Args:
        bases: ``(elements, blocks, dim, width)``, ``dim`` 1 or 2; rows carry their energy.
        delta: relative distance up to which two directions are one.
        generator: source of the sketches.
    """
    dim, width = bases.shape[2:]
    sketched = sketch(bases, delta, generator)
    if dim >= width or len(bases) < 2:
        return None
    classes = _equal_spaces(sketched, delta, generator)
    found = pack(classes, sketched, dim, delta)
    if found is None and dim == 1 and width > 2:
        classes = _planes(sketched[:, :, 0], delta, generator)
        found = pack(classes, sketched, 2, delta)
    return found


def compress(bases: Tensor, rank: int) -> tuple[Tensor, float]:
    """The best rows of dimension ``rank`` on each block, ``S V^H``, and the energy that they miss.

    Args:
        bases: ``(elements, blocks, k, width)``.
        rank: rows to keep.
    """
    if bases.shape[2] <= rank:
        return bases, 0.0
    tall = bases.mH
    small = torch.linalg.qr(tall, mode="r").R.mH if tall.shape[-2] > tall.shape[-1] else bases
    u, s, _ = torch.linalg.svd(small, full_matrices=False)
    return u[..., :rank].mH @ bases, float(s[..., rank:].square().sum())


def sketch(bases: Tensor, delta: float, generator: torch.Generator) -> Tensor:
    """A few blocks of the bases, their columns mixed down to ``SKETCH`` coordinates; rounding becomes zero."""
    blocks, width = bases.shape[1], bases.shape[3]
    if blocks > _BLOCKS:
        bases = bases[:, torch.randperm(blocks, generator=generator)[:_BLOCKS]]
    mixed = bases if width <= SKETCH else bases @ random(bases, (width, SKETCH), generator)
    size = lengths(mixed).unsqueeze(-1)
    return torch.where(size > delta * size.amax(), mixed, 0.0)


def lengths(vectors: Tensor) -> Tensor:
    """Euclidean norms over the last dimension (torch's own reduction is slow on short complex vectors)."""
    if vectors.is_complex():
        return torch.view_as_real(vectors.resolve_conj()).square().sum((-1, -2)).sqrt()
    return vectors.square().sum(-1).sqrt()


def near(delta: float) -> float:
    """Distance within which a direction lies in a plane that was itself estimated from a few."""
    return min(10 * delta, 0.1)


def random(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gaussian numbers of the same field as ``like``."""
    return torch.randn(shape, dtype=like.dtype, generator=generator)


def _equal_spaces(sketched: Tensor, delta: float, generator: torch.Generator) -> list[Tensor]:
    """Classes of elements whose row spaces have full dimension and coincide on every block."""
    _, blocks, dim, _ = sketched.shape
    _, s, vh = torch.linalg.svd(sketched, full_matrices=False)
    full = (s[..., -1] > delta * s[..., :1].amax(1)).all(1).nonzero()[:, 0]
    if len(full) < 2:
        return []
    projectors = torch.einsum("etdi,etdj->etij", vh[full].conj(), vh[full]).reshape(len(full), -1)
    features = torch.view_as_real(projectors).flatten(1) if projectors.is_complex() else projectors
    threshold = blocks * dim * (1 - delta * delta)
    probe = torch.randperm(len(full), generator=generator)[:12]
    if float(((features[probe] @ features.T > threshold).sum(1) > 1).double().mean()) < 0.3:
        return []
    first = (features @ features.T > threshold).int().argmax(1)
    leaders = (first == torch.arange(len(first))).nonzero()[:, 0]
    return [full[first == leader] for leader in leaders]


def _planes(vectors: Tensor, delta: float, generator: torch.Generator) -> list[Tensor]:
    """Sets of at least three vectors ``(elements, blocks, width)`` that lie in one plane on every block.

    Seen along a member ``a``, the others of its set are multiples of one vector on each block: invariant under that
    factor are the squared cosines with fixed directions, and equal ones are neighbours when sorted.
    """
    size = lengths(vectors).unsqueeze(-1)
    units = vectors / torch.where(size > 0, size, 1.0)
    probes = random(vectors, (vectors.shape[-1], 2), generator)
    pending = torch.randperm(len(vectors), generator=generator)
    pending = pending[(size[pending, :, 0] > 0).any(1)]
    classes: list[Tensor] = []
    tried = 0
    while len(pending) > 2 and (classes or tried < _ATTEMPTS):
        tried += 1
        members = plane_through(units[pending], probes, delta)
        if members is not None:
            classes.append(pending[members].sort().values)
            pending = pending[~members]
        else:
            pending = pending[1:]
    return classes


def plane_through(units: Tensor, probes: Tensor, delta: float) -> Tensor | None:
    """Mask of the vectors in the plane of the first one and of two others, or ``None`` if there is no such plane."""
    seen = _without(units, units[0])
    sines = lengths(seen)
    clear = (sines > max(1e-4, near(delta))).all(1).nonzero()[:, 0]
    if len(clear) < 2:
        return None
    marks = (seen[clear] @ probes).abs().square() / sines[clear].square().unsqueeze(-1)
    marks = marks.flatten(1)
    by_mark = marks[:, 0].argsort()
    pairs = [(by_mark[:-k], by_mark[k:]) for k in range(1, min(4, len(clear)))]
    left, right = (torch.cat(side) for side in zip(*pairs, strict=True))
    apart = (marks[left] - marks[right]).abs().amax(1)
    left, right = clear[left], clear[right]
    between = lengths(_without(units[left], units[right]))
    apart = torch.where((between > near(delta)).any(1), apart, torch.inf)
    one, other = int(left[apart.argmin()]), int(right[apart.argmin()])
    members = (lengths(_without(seen, seen[one] / sines[one].unsqueeze(-1))) <= near(delta)).all(1)
    return members if float(apart.amin()) < torch.inf and bool(members[other]) else None


def _without(vectors: Tensor, unit: Tensor) -> Tensor:
    """Take the component along ``unit`` out of every vector, block by block."""
    return vectors - (vectors * unit.conj()).sum(-1, keepdim=True) * unit


def pack(classes: list[Tensor], sketched: Tensor, rank: int, delta: float) -> Merge | None:
    """Cut classes into groups of one size, as large as possible, and place the remaining elements.

    Any part of a class is as good as the class. What is left over, parts too small and elements of no class, is
    put together as long as the joint dimension stays within ``rank``.
    """
    count = len(sketched)
    if 2 * sum(map(len, classes)) < count:
        return None
    largest = max(map(len, classes))
    for size in (b for b in range(largest, 1, -1) if count % b == 0):
        groups = _pack_into(size, classes, sketched, rank, delta)
        if groups is not None:
            table = torch.stack([g.sort().values for g in groups])
            return Merge(table[table[:, 0].argsort()], rank)
    return None


def _pack_into(
    size: int, classes: list[Tensor], sketched: Tensor, rank: int, delta: float
) -> list[Tensor] | None:
    """Groups of exactly ``size`` elements, or ``None`` if the leftovers do not fit together."""
    parts = [c[start : start + size] for c in classes for start in range(0, len(c), size)]
    whole = [part for part in parts if len(part) == size]
    open_groups = [part for part in parts if len(part) < size]
    placed = torch.zeros(len(sketched), dtype=torch.bool)
    for group in (*whole, *open_groups):
        placed[group] = True
    energy = sketched.abs().square().sum((1, 2, 3))
    loose = [i for i in energy.argsort(descending=True, stable=True).tolist() if not placed[i]]
    if len(loose) + len(open_groups) > max(64, size):
        return None
    groups = [g.tolist() for g in open_groups]
    while loose or any(len(g) < size for g in groups):
        unfinished = next((g for g in groups if len(g) < size), None)
        if unfinished is None:
            groups.append(unfinished := [loose.pop(0)])
        if not _fill(unfinished, loose, size, sketched, (rank, delta)):
            return None
    return [*whole, *(torch.tensor(g) for g in groups)]


def _fill(group: list[int], loose: list[int], size: int, sketched: Tensor, limit: tuple[int, float]) -> bool:
    """Move loose elements into the group until it is full.

    Those first that do not raise its dimension; elements that are zero tell nothing and come last.
    """
    rank, delta = limit
    for allowed, zeros in [*((a, False) for a in range(1, rank + 1)), (rank, True)]:
        for item in list(loose):
            if len(group) == size:
                return True
            if not zeros and not bool(sketched[item].any()):
                continue
            if _dimension([*group, item], sketched, delta) <= allowed:
                group.append(item)
                loose.remove(item)
    return len(group) == size


def _dimension(items: list[int], sketched: Tensor, delta: float) -> int:
    """Largest dimension, over the blocks, of the joint row space of some elements."""
    joint = sketched[items].transpose(0, 1).flatten(1, 2)
    s = torch.linalg.svdvals(joint)
    return int((s > near(delta) * s.amax()).sum(1).max())
