"""Vectors through boxes under Gaudi masks: which of three ways is the cheapest, and the one for few vectors.

Both factors under their masks, and the gradients of both, are as large as a dense weight each, and with few vectors
going through memory with them costs more than the multiplications. There they are made for some boxes, multiplied and
forgotten, in backward again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from kmatrix.structures.gaudi.content import masked, reference_gradients
from kmatrix.structures.gaudi.mask import steps_of, windows
from kmatrix.structures.pairs import from_pairs

_NUMBERS_AT_ONCE = 2**17
"""Numbers of one side of the boxes that are multiplied together."""
FEW, MANY = 64, 512
"""Vectors below which the factors are never multiplied with each other, and above which they are kept in memory."""


class Side(NamedTuple):
    """One side of all boxes.

    Attributes:
        content: ``(K, n)``, or ``(K, n, 2)`` for complex numbers as real pairs.
        width: as shares of ``n``, ``(K,)``.
        start: likewise.
        table: what ``mask.tables`` gave for ``n``.
    """

    content: Tensor
    width: Tensor
    start: Tensor
    table: Tensor

    @property
    def factor(self) -> Tensor:
        """The content under its masks, ``(K, n)``, complex if it is; differentiable."""
        return from_pairs(masked(*self), self.content.ndim == 3)


def product(x: Tensor, rows: Side, cols: Side, bias: Tensor | None = None) -> Tensor:
    """``sum_k (mask_k u_k) <mask_k v_k, x>`` and a bias: ``(*, n) -> (*, m)``.

    With more vectors than boxes it costs less to multiply the factors with each other first, forwards and backwards
    alike. With 1024 of either, a step of training costs 2.1 times that of a dense matrix; with few vectors, over 3.

    Args:
        x: the vectors, of the dtype of the contents.
        rows: the side of the outputs.
        cols: the side of the inputs.
        bias: one number for each output.
    """
    (count, m), n = rows.content.shape[:2], cols.content.shape[1]
    vectors = x.numel() // max(1, n)
    # Programs that are exported take batches of any size, and cannot choose by it.
    if (
        not torch.compiler.is_exporting()
        and vectors >= FEW
        and m * n * (count + vectors) < vectors * count * (m + n)
    ):
        return functional.linear(x, rows.factor.mT @ cols.factor, bias)
    if _plain(x, rows.content) and vectors <= MANY:
        y = box_product(x.reshape(-1, n), rows, cols).view(*x.shape[:-1], m)
        return y if bias is None else y + bias
    return functional.linear(functional.linear(x, cols.factor), rows.factor.mT, bias)


def _plain(x: Tensor, content: Tensor) -> bool:
    """Whether these are ordinary numbers on a processor, which nobody but autograd looks at."""
    watched = (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or bool(torch._C._len_torch_dispatch_stack())
    )
    alike = x.dtype == content.dtype and x.dtype in (torch.float32, torch.float64)
    ours = x.is_cpu and content.is_cpu and content.ndim == 2 and x.numel() > 0 and len(content) > 0
    return alike and ours and not watched and not torch.is_autocast_enabled("cpu")


def box_product(x: Tensor, rows: Side, cols: Side) -> Tensor:
    """``sum_k (mask_k u_k) <mask_k v_k, x>`` for vectors ``x (B, n)``: ``(B, m)``, with the gradients of ``masked``.

    Args:
        x: the vectors, of the dtype of the contents, real.
        rows: the side of the outputs.
        cols: the side of the inputs.
    """
    return cast(Tensor, _BoxProduct.apply(x, *rows, *cols))  # type: ignore[no-untyped-call]


class _Steps:
    """Masks of one side for some boxes at a time, and their gradients, in buffers that are used again."""

    def __init__(self, side: Side, most: int) -> None:
        self.side, size = side, side.content.shape[1]
        self.first, self.last = steps_of(side.width, side.start, size)
        self.stairs, self.slopes = windows(side.table[0]), windows(side.table[1])
        self.buffers = side.content.new_empty(3, most, size)

    def mask(self, boxes: slice) -> Tensor:
        first, last = self.first[boxes], self.last[boxes]
        mask, other = self.buffers[0, : len(first)], self.buffers[1, : len(first)]
        torch.index_select(self.stairs, 0, first, out=mask)
        torch.index_select(self.stairs, 0, last, out=other)
        return mask.sub_(other)

    def masked(self, boxes: slice, mask: Tensor) -> Tensor:
        return torch.mul(mask, self.side.content[boxes], out=self.buffers[1, : len(mask)])

    def gradients(self, boxes: slice, mask: Tensor, to_masked: Tensor, content: Tensor, sums: Tensor) -> None:
        """From that of the masked content, which is overwritten, those of the content, the width and the start."""
        torch.mul(to_masked, mask, out=content[boxes])
        to_masked.mul_(self.side.content[boxes])
        slope = self.buffers[1, : len(mask)]
        torch.index_select(self.slopes, 0, self.last[boxes], out=slope)
        torch.sum(slope.mul_(to_masked), 1, out=sums[0, boxes])
        torch.index_select(self.slopes, 0, self.first[boxes], out=slope)
        torch.sum(slope.mul_(to_masked), 1, out=sums[1, boxes])
        torch.sub(sums[0, boxes], sums[1, boxes], out=sums[1, boxes])


class _BoxProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *sides: Tensor) -> Tensor:
        step = _step(*sides[::4])
        rows, cols = (_Steps(Side(*side), step) for side in (sides[:4], sides[4:]))
        middle = x.new_empty(len(sides[0]), len(x))
        y = x.new_zeros(len(x), sides[0].shape[1])
        for boxes in _parts(len(middle), step):
            torch.mm(cols.masked(boxes, cols.mask(boxes)), x.mT, out=middle[boxes])
            y.addmm_(middle[boxes].mT, rows.masked(boxes, rows.mask(boxes)))
        ctx.save_for_backward(x, middle, *sides)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, middle, *sides = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph=True
            return _gradients(grad, x, Side(*sides[:4]), Side(*sides[4:]))
        step = _step(*sides[::4])
        rows, cols = (_Steps(Side(*side), step) for side in (sides[:4], sides[4:]))
        to_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        contents = [torch.empty_like(s.side.content) for s in (rows, cols)]
        sums = [x.new_empty(2, len(middle)) for _ in range(2)]
        to_middle = x.new_empty(step, len(x))
        for boxes in _parts(len(middle), step):
            on_rows, on_cols = rows.mask(boxes), cols.mask(boxes)
            behind = torch.mm(rows.masked(boxes, on_rows), grad.mT, out=to_middle[: len(on_rows)])
            if to_x is not None:
                to_x.addmm_(behind.mT, cols.masked(boxes, on_cols))
            for k, (side, mask, a, b) in enumerate(
                ((rows, on_rows, middle[boxes], grad), (cols, on_cols, behind, x))
            ):
                to_masked = torch.mm(a, b, out=side.buffers[2, : len(mask)])
                side.gradients(boxes, mask, to_masked, contents[k], sums[k])
        return to_x, contents[0], *sums[0], None, contents[1], *sums[1], None


def _gradients(grad: Tensor, x: Tensor, rows: Side, cols: Side) -> tuple[Tensor | None, ...]:
    """What backward gives, by operations that have gradients themselves."""
    left, right = rows.factor, cols.factor
    behind, middle = left @ grad.mT, right @ x.mT
    on_rows = reference_gradients(middle @ grad, *rows)
    on_cols = reference_gradients(behind @ x, *cols)
    return behind.mT @ right, *on_rows, None, *on_cols, None


def _step(*contents: Tensor) -> int:
    """How many boxes are multiplied together."""
    return min(len(contents[0]), max(1, _NUMBERS_AT_ONCE // max(c.shape[1] for c in contents)))


def _parts(count: int, step: int) -> Iterator[slice]:
    for k in range(0, count, step):
        yield slice(k, k + step)
