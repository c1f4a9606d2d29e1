"""Vectors through boxes under Gaudi masks: which of three ways is the cheapest, and the one for few vectors.

Both factors under their masks, and the gradients of both, are as large as a dense weight each, and with few vectors
going through memory with them costs more than the multiplications. There they are made for some boxes, multiplied and
forgotten, in backward again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from kmatrix.structures.gaudi.content import masked, reference_gradients
from kmatrix.structures.gaudi.mask import steps_of
from kmatrix.structures.gaudi.turns import Turns, turns_of
from kmatrix.structures.pairs import from_pairs

_BOXES_AT_ONCE, _NUMBERS_AT_ONCE = 256, 2**18
"""How many boxes are multiplied together: what products need to be fast, or so many numbers of one side."""
FEW, MANY = 128, 1024
"""Vectors below which the factors are never multiplied with each other, and above which they are kept in memory: as it
was fastest, of all three ways, for sizes from 16 to 3072."""


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
    alike. Of size 1024, a step of training with fused AdamW costs 2.1 times that of dense with 256 vectors, 1.6 times
    with 2048.

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


class _BoxProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *tensors: Tensor) -> Tensor:
        sides = Side(*tensors[:4]), Side(*tensors[4:])
        ctx.steps = [steps_of(side.width, side.start, side.content.shape[1]) for side in sides]
        step, (rows, cols) = _turns(sides, ctx.steps)
        middle = x.new_empty(len(tensors[0]), len(x))
        y = x.new_empty(len(x), tensors[0].shape[1])
        for boxes in _parts(len(middle), step):
            torch.mm(cols.masked(boxes), x.mT, out=middle[boxes])
            _add(y, middle[boxes].mT, rows.masked(boxes), boxes)
        ctx.save_for_backward(x, middle, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, middle, *tensors = ctx.saved_tensors
        sides = Side(*tensors[:4]), Side(*tensors[4:])
        if torch.is_grad_enabled():  # with create_graph=True
            return _gradients(grad, x, *sides)
        step, (rows, cols) = _turns(sides, ctx.steps)
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        contents = [torch.empty_like(side.content) for side in sides]
        sums = [x.new_empty(2, len(middle)) for _ in range(2)]  # by width and start, for each side
        to_middle = x.new_empty(step, len(x))
        for boxes in _parts(len(middle), step):
            behind = torch.mm(rows.masked(boxes), grad.mT, out=to_middle[: len(middle[boxes])])
            right = cols.masked(boxes)
            if to_x is not None:
                _add(to_x, behind.mT, right, boxes)
            for k, (turns, a, b) in enumerate(((rows, middle[boxes], grad), (cols, behind, x))):
                to_masked = torch.mm(a, b, out=turns.room(boxes))
                turns.gradients(boxes, to_masked, contents[k][boxes], sums[k][0, boxes], sums[k][1, boxes])
        return to_x, contents[0], *sums[0], None, contents[1], *sums[1], None


def _gradients(grad: Tensor, x: Tensor, rows: Side, cols: Side) -> tuple[Tensor | None, ...]:
    """What backward gives, by operations that have gradients themselves."""
    left, right = rows.factor, cols.factor
    behind, middle = left @ grad.mT, right @ x.mT
    on_rows = reference_gradients(middle @ grad, *rows)
    on_cols = reference_gradients(behind @ x, *cols)
    return behind.mT @ right, *on_rows, None, *on_cols, None


def _turns(sides: Sequence[Side], steps: Sequence[tuple[Tensor, Tensor]]) -> tuple[int, list[Turns]]:
    """How many boxes are multiplied together, and both sides so."""
    longest = max(side.content.shape[1] for side in sides)
    step = min(len(sides[0].content), max(_BOXES_AT_ONCE, _NUMBERS_AT_ONCE // longest))
    memory = sides[0].content.new_empty(step * longest)
    return step, [
        turns_of(side.content, *places, side.table, memory) for side, places in zip(sides, steps, strict=True)
    ]


def _add(total: Tensor, left: Tensor, right: Tensor, boxes: slice) -> None:
    """Add a product, or put it where nothing is yet."""
    if boxes.start:
        total.addmm_(left, right)
    else:
        torch.mm(left, right, out=total)


def _parts(count: int, step: int) -> Iterator[slice]:
    for k in range(0, count, step):
        yield slice(k, k + step)
