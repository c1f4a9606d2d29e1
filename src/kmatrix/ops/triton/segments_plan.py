"""What the kernels for boxes need to know of places: an order of the boxes, and which tiles they touch.

All of it is computed where ``places`` lies and kept as long as ``places`` lives, so that a product waits for nothing.
Boxes are looked at once, before the first product with them; whatever ``places`` holds, no number outside of the packed
ones is ever read, because starts and widths are brought into their bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from kmatrix.ops.segments_definition import check_places

PROGRAMS = 132  # that a GPU should have to do, at least: one for each processor of an H100 or H200
SMALL_MEMORY = 150_000  # bytes that a processor has to share, up to which there are fewer buffers
LARGE_MEMORY = 200_000  # from which on matrix instructions leave registers for tiles of 256 vectors
_WIDE = 128
_CLASSES = (
    1,
    2,
    3,
    4,
    6,
    8,
)  # of boxes of like widths that are tried; each stands by itself, in order of starts


class Tile(NamedTuple):
    """Vectors of one program, and (rows, columns) of the masked factor that it multiplies with at a time.

    Rows are boxes, or their real and imaginary parts; columns are positions, likewise.
    """

    vectors: int
    onto: tuple[int, int]
    back: tuple[int, int]
    warps: int

    @property
    def outer(self) -> tuple[int, int]:
        """Whole tiles of both other kinds."""
        return max(self.onto[0], self.back[0]), max(self.onto[1], self.back[1])


# From many vectors to few: as wide as registers allow first, then as many programs as there are processors.
_HALF = (
    Tile(256, (128, 64), (64, 128), 8),
    Tile(128, (128, 64), (64, 128), 8),
    Tile(64, (64, 64), (64, 64), 4),
    Tile(64, (32, 64), (64, 32), 4),
    Tile(16, (16, 128), (64, 32), 4),
)
_TF32 = (
    Tile(128, (128, 32), (32, 128), 8),
    Tile(64, (64, 32), (32, 64), 4),
    Tile(64, (32, 32), (32, 32), 4),
    Tile(16, (16, 64), (32, 32), 4),
)
_SINGLE = (
    Tile(128, (64, 32), (32, 64), 8),
    Tile(64, (64, 32), (32, 64), 4),
    Tile(32, (32, 32), (32, 32), 4),
    Tile(16, (16, 64), (32, 32), 4),
)


@lru_cache(maxsize=1024)
def tile_for(batch: int, boxes: int, dtype: torch.dtype, precision: str, memory: int = 1 << 18) -> Tile:
    """The widest tiles that leave enough programs; narrow ones for so few vectors that most of a tile were empty.

    ``memory`` is what a processor of the GPU has to share, in bytes.

    Example:
        >>> tile_for(2**15, 1024, torch.bfloat16, "ieee").vectors
        256
        >>> tile_for(1, 1024, torch.bfloat16, "ieee").onto
        (16, 128)
    """
    pairs = 2 if dtype.is_complex else 1
    tiles = _HALF if dtype.itemsize // pairs == 2 else _TF32 if precision == "tf32" else _SINGLE
    if batch <= tiles[-1].vectors:
        return tiles[-1]
    for tile in tiles[:-1]:
        programs = -(-batch // tile.vectors) * -(-boxes * pairs // tile.onto[0])
        if programs >= PROGRAMS and (tile.vectors <= _WIDE or memory >= LARGE_MEMORY):
            return tile
    return tiles[-2]


class Side(NamedTuple):
    """One side of the boxes in its order.

    Attributes:
        boxes: int64 ``(4, padded)``: start, width, first number, and where the other side has the box.
        onto: for each tile of boxes the number of tiles of positions that it touches, and these.
        back: for each tile of positions the number of tiles of boxes that touch it, and these.
        outer: whether the larger tiles touch.
        size: the number of positions.
        total: the number of numbers.
    """

    boxes: Tensor
    onto: Tensor
    back: Tensor
    outer: Tensor
    size: int
    total: int

    @property
    def padded(self) -> int:
        """The number of boxes, filled up with empty ones to whole tiles."""
        return self.boxes.shape[1]


class Sides(NamedTuple):
    """Both sides of the boxes."""

    rows: Side
    cols: Side


_Key = tuple[int, int, int, int, tuple[int, int], tuple[int, int]]


class _Known(NamedTuple):
    stamp: tuple[int, int]
    sides: dict[_Key, Sides]


_known = WeakTensorKeyDictionary()
# A recorded graph reads these for as long as it lives, whatever becomes of ``places``. Each is kept once.
_captured: dict[int, Sides] = {}


def _known_of(places: Tensor) -> _Known | None:
    get: Callable[[Tensor], _Known | None] = _known.get
    return get(places)


def sides_of(
    places: Tensor, rows: int, cols: int, left: int, right: int, tile: Tile, pairs: int = 1
) -> Sides:
    """The sides for tiles of this kind; raises if a box lies outside of the matrix.

    Looking waits for the GPU, and happens once for each tensor ``places`` and whenever its version moves. It cannot
    happen while a CUDA graph records: boxes outside are brought inside then.
    """
    onto, back = ((rows // pairs, cols // pairs) for rows, cols in (tile.onto, tile.back))
    key = rows, cols, left, right, onto, back
    recording = places.is_cuda and torch.cuda.is_current_stream_capturing()
    if places.is_inference():  # whose changes nothing counts
        if not recording:
            check_places("segments_matmul", places, rows, cols, left, right)
        return _sides(places, *key)
    stamp = places.data_ptr(), places._version
    known = _known_of(places)
    if known is None or known.stamp != stamp:
        known = _Known(stamp, {})
    found = known.sides.get(key)
    if found is None:
        if recording:
            return _sides(places, *key)  # values that are there when the graph runs, not now
        check_places("segments_matmul", places, rows, cols, left, right)
        found = known.sides[key] = _sides(places, *key)
        if places.is_cuda:
            torch.cuda.current_stream(places.device).synchronize()  # products on other streams use it, too
        _known[places] = known
    if recording:
        _captured[id(found)] = found
    return found


def _sides(
    places: Tensor, rows: int, cols: int, left: int, right: int, onto: tuple[int, int], back: tuple[int, int]
) -> Sides:
    on_rows = _cropped(places[0], places[1], rows, left)
    on_cols = _cropped(places[2], places[3], cols, right)
    orders = [_order(on_rows, rows, onto, back), _order(on_cols, cols, onto, back)]
    ranks = [order.argsort() for order in orders]
    return Sides(
        _side(on_rows, orders[0], ranks[1], rows, left, onto, back),
        _side(on_cols, orders[1], ranks[0], cols, right, onto, back),
    )


def _cropped(start: Tensor, width: Tensor, size: int, total: int) -> Tensor:
    """Start, width and first number of each box, within ``size`` positions and ``total`` numbers whatever is given."""
    width = width.clamp(0, size)
    first = width.cumsum(0) - width
    return torch.stack([start.remainder(size), torch.where(first + width > total, 0, width), first])


def _hits(boxes: Tensor, size: int, wide: int) -> Tensor:
    """Which boxes have a position in which tiles of ``wide`` positions: ``(K, tiles)``."""
    start, width = boxes[0, :, None], boxes[1, :, None]
    begin = torch.arange(0, size, wide, device=boxes.device)
    goes_in = (begin - start).remainder(size) < width
    return (width > 0) & (goes_in | (start // wide == begin // wide))


def _order(boxes: Tensor, size: int, onto: tuple[int, int], back: tuple[int, int]) -> Tensor:
    """The order of the boxes, out of those tried, whose tiles are touched least: neighbours start near each other."""
    start, width = boxes[0], boxes[1]
    count = len(start)
    rank = width.argsort(stable=True).argsort()
    key = torch.stack([rank * classes // count * size + start for classes in _CLASSES])
    orders = torch.where(width > 0, key, len(_CLASSES) * size * count).argsort(dim=1, stable=True)
    cost = torch.zeros(len(_CLASSES), dtype=torch.int64, device=boxes.device)
    for tall, wide in {onto, back}:
        cost += tall * wide * _any_of(_hits(boxes, size, wide)[orders], tall).sum((1, 2))
    return orders.index_select(0, cost.argmin().view(1))[0]


def _any_of(hits: Tensor, tall: int) -> Tensor:
    """``hits`` for tiles of ``tall`` boxes, the last filled up with what touches nothing."""
    lacking = -hits.shape[-2] % tall
    filled = torch.nn.functional.pad(hits, (0, 0, 0, lacking))
    return filled.view(*hits.shape[:-2], -1, tall, hits.shape[-1]).any(-2)


def _side(
    boxes: Tensor,
    order: Tensor,
    rank: Tensor,
    size: int,
    total: int,
    onto: tuple[int, int],
    back: tuple[int, int],
) -> Side:
    """A side in its order; ``rank`` is where the other side has each box."""
    tall, wide = max(onto[0], back[0]), max(onto[1], back[1])
    lacking = -len(order) % tall
    ordered = torch.cat([boxes[:, order], rank[order][None]])
    empty = torch.zeros(4, lacking, dtype=torch.int64, device=boxes.device)
    empty[3] = torch.arange(len(order), len(order) + lacking, device=boxes.device)
    filled = torch.cat([ordered, empty], 1)
    return Side(
        filled,
        _listed(_any_of(_hits(filled, size, onto[1]), onto[0])),
        _listed(_any_of(_hits(filled, size, back[1]), back[0]).mT),
        _any_of(_hits(filled, size, wide), tall).int(),
        size,
        total,
    )


def _listed(touching: Tensor) -> Tensor:
    """For each row how many are true, and where, as int32."""
    which = touching.int().argsort(dim=1, descending=True, stable=True)
    return torch.cat([touching.sum(1, keepdim=True), which], 1).int()
