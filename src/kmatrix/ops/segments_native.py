"""The native backend of the product with boxes: a few rows straight from the numbers, many through packed ones."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from kmatrix.ops import calls
from kmatrix.ops.calls import recorder
from kmatrix.ops.native_cache import PACKED, PackedCache
from kmatrix.ops.native_layout import vectors
from kmatrix.ops.native_module import DONE, DTYPE_CODES, WATCHED, NativeBoxes, native_part, threads
from kmatrix.ops.routing import nothing_watches
from kmatrix.ops.segments_definition import check_places, is_empty
from kmatrix.ops.verdict import Verdict

# Up to so many rows the numbers are read where they are; more are faster in tiles, measured for n = 1024 and 3072.
FEW_ROWS = 4
FEW_ROWS_ONCE = 16  # where packing serves one product alone; for n = 256, 1024 and 2048

Sizes = tuple[int, int, int, int, int]  # columns, rows, boxes, numbers on the rows, numbers on the columns


class NativeSegments:
    """Fused kernels of our own on the CPU, for real numbers."""

    name = "native"

    def can_run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Verdict:
        """Every real type on the CPU that is not empty, where the compiled part is there."""
        part = native_part()
        if part.module is None:
            return Verdict(False, part.reason)
        if x.device.type != "cpu":
            return Verdict(False, f"x is on {x.device}, the native kernels compute on the CPU")
        if x.is_complex() or x.dtype not in DTYPE_CODES:
            return Verdict(False, f"no native arithmetic for boxes of {x.dtype}")
        if is_empty(x, left, right, rows):
            return Verdict(False, "empty tensors need no speed")
        return Verdict(True, part.reason)

    def run(
        self,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        places: Tensor,
        rows: int,
        bias: Tensor | None = None,
        *,
        keep: bool = True,
    ) -> Tensor:
        """The product through the fused kernels, plus a contiguous bias of its type.

        ``keep`` says whether numbers that are packed are kept for later products.
        """
        source = vectors(x)
        out = torch.empty((*x.shape[:-1], rows), dtype=x.dtype, device="cpu")
        left, right, places = left.contiguous(), right.contiguous(), places.contiguous()
        pointers = places.data_ptr(), left.data_ptr(), right.data_ptr()
        sizes = sizes_of(x, left, right, places, rows)
        to = out.data_ptr(), rows, 1, 0 if bias is None else bias.data_ptr()
        try:
            if source.batch <= (FEW_ROWS if keep else FEW_ROWS_ONCE):
                boxes = _described(x.dtype, sizes)
                boxes.rows(*pointers, *source.place, *to, source.batch, threads())
            else:
                if keep:
                    boxes = _packed(x.dtype, sizes, pointers, (places.nbytes, left.nbytes, right.nbytes))
                else:
                    boxes = _new(x.dtype, sizes)
                    boxes.pack(*pointers)
                boxes.forward(*source.place, *to, source.batch, threads())
        except IndexError:
            # The kernels have looked at every box; what is wrong is worded here.
            check_places("segments_matmul", places, rows, x.shape[-1], len(left), len(right))
            raise
        return out


def sizes_of(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Sizes:
    """The sizes of a call."""
    return x.shape[-1], rows, places.shape[1], left.shape[0], right.shape[0]


def repeated(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    places: Tensor,
    rows: int,
    sizes: Sizes | None = None,
    bias: Tensor | None = None,
) -> Tensor | bool:
    """The product of a few rows, plus a bias, if sizes like these ran before and nothing about the call is unusual.

    Otherwise whether only autograd of the product stands in the way, and nothing needs to be checked again. ``sizes``
    are those that the call should have: the native part looks whether it does.
    """
    try:
        known = _known.get((x.dtype, sizes or sizes_of(x, left, right, places, rows)))
        shape = (*x.shape[:-1], rows)
    except (AttributeError, IndexError, TypeError, RuntimeError):
        return False
    if known is None or not nothing_watches() or recorder() is None:
        return False
    y = calls.empty(shape, _strides(shape), x.dtype)
    try:
        found = known.run(x, left, right, places, bias, y, FEW_ROWS, threads(), torch.is_grad_enabled())
    except IndexError:
        return False  # the long way has the words
    return y if found == DONE else found == WATCHED


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a contiguous tensor; there are few axes."""
    if len(shape) == 2:
        return shape[1], 1
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


_known: dict[tuple[torch.dtype, Sizes], NativeBoxes] = {}
_MOST = 512


def _described(dtype: torch.dtype, sizes: Sizes) -> NativeBoxes:
    """A sum of boxes of these sizes that has packed nothing."""
    known = _known.get((dtype, sizes))
    if known is None:
        if len(_known) >= _MOST:
            _known.clear()
        known = _known[dtype, sizes] = _new(dtype, sizes)
    return known


def _new(dtype: torch.dtype, sizes: Sizes) -> NativeBoxes:
    part = native_part()
    assert part.module is not None  # ``can_run`` was asked first
    return part.module.Boxes(DTYPE_CODES[dtype], *sizes, part.isa)


def _packed(
    dtype: torch.dtype,
    sizes: Sizes,
    pointers: tuple[int, int, int],
    nbytes: tuple[int, int, int],
) -> NativeBoxes:
    """The numbers at these addresses as they are now, packed: as for chains, a fingerprint of the bytes decides."""
    module = native_part().module
    assert module is not None
    stamp = module.fingerprint(pointers, nbytes)

    def make() -> tuple[NativeBoxes, int | None]:
        boxes = _new(dtype, sizes)
        boxes.pack(*pointers)
        if module.fingerprint(pointers, nbytes) != stamp:  # somebody wrote while the numbers were copied
            return boxes, None
        return boxes, boxes.packed_nbytes

    shared = cast("PackedCache[NativeBoxes]", PACKED)  # one limit for all copies
    # Places are often made anew, as those of the transposed boxes; the fingerprint has seen what they hold.
    return shared.get(("boxes", dtype, sizes, pointers[1:]), stamp, make)
