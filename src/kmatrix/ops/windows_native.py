"""Rows under masks that are differences of two windows of one table, natively, and their gradients.

Number ``j`` of row ``k`` is multiplied by ``stairs[first_k + j] - stairs[last_k + j]``. In torch that takes four passes
over numbers of the size of the content, seven for the gradients; the kernels take one, and store no masks. Where the
stairs are whole steps, content under a 0 of the mask is not even read: the zero is there whatever the content is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from kmatrix.ops import dispatch
from kmatrix.ops.native_module import DTYPE_CODES, NativeWindows, native_part, threads
from kmatrix.ops.routing import dispatch_modes, is_plain, transforms_active


class RowMasks(NamedTuple):
    """Content whose rows have masks, all in memory as the kernels read it.

    Attributes:
        kernels: of the number type and the length of the table.
        content: ``(K, n)``.
        first: where the windows that are added begin in the table, int64 ``(K,)``.
        last: those that are subtracted.
        table: the staircase and its slope, ``(2, length)``.
    """

    kernels: NativeWindows
    content: Tensor
    first: Tensor
    last: Tensor
    table: Tensor

    def masked(self, rows: slice, out: Tensor) -> Tensor:
        """Some rows under their masks, into contiguous memory of their shape that is not the content's."""
        content, first, last = self.content[rows], self.first[rows], self.last[rows]
        if len(content):
            given = self.table.data_ptr(), content.data_ptr(), first.data_ptr(), last.data_ptr()
            self.kernels.masked(*given, out.data_ptr(), len(content), content.shape[1], threads())
        return out

    def gradients(
        self, rows: slice, grad: Tensor, to_content: Tensor, to_width: Tensor, to_start: Tensor
    ) -> None:
        """From the gradient of some masked rows those of the content and of the steps, each into contiguous memory.

        ``to_width`` are the sums of ``grad * content`` times the slope in the last window, ``to_start`` are those less
        the sums with the slope in the first; no lane adds more than 64 terms in the number type, the rest in double.
        """
        content, first, last = self.content[rows], self.first[rows], self.last[rows]
        if len(content):
            given = grad.data_ptr(), content.data_ptr(), first.data_ptr(), last.data_ptr()
            found = to_content.data_ptr(), to_width.data_ptr(), to_start.data_ptr()
            sizes = len(content), content.shape[1]
            self.kernels.gradients(self.table.data_ptr(), *given, *found, *sizes, threads())


def row_masks(content: Tensor, first: Tensor, last: Tensor, table: Tensor) -> RowMasks | None:
    """What the kernels need for these masks; None where they do not run or something watches.

    Args:
        content: the rows, ``(K, n)``.
        first: where windows of ``n`` numbers begin in the table, int64 ``(K,)``.
        last: likewise, of those that are subtracted.
        table: the staircase and its slope, ``(2, length)``.
    """
    part = native_part()
    if part.module is None or dispatch.requested() not in (None, "native") or content.ndim != 2:
        return None
    if table.dtype != content.dtype or not content.numel() or not readable(content, first, last, table):
        return None
    kernels = _kernels(content.dtype, table.shape[1], part.isa)
    return None if kernels is None else RowMasks(kernels, content, first, last, table)


def readable(*tensors: Tensor) -> bool:
    """Whether these are ordinary contiguous tensors on the CPU that nobody but autograd looks at."""
    if transforms_active() or forward_ad._current_level >= 0 or torch.compiler.is_compiling():
        return False
    if torch._C._get_tracing_state() is not None or dispatch_modes():
        return False
    return all(
        is_plain(t)
        and t.is_cpu
        and t.is_contiguous()
        and not t.is_neg()
        and not t._is_zerotensor()
        and not torch._C._functorch.is_legacy_batchedtensor(t)
        for t in tensors
    )


@lru_cache(maxsize=64)
def _kernels(dtype: torch.dtype, length: int, isa: str) -> NativeWindows | None:
    module = native_part().module
    if module is None or dtype not in (torch.float32, torch.float64):
        return None
    return module.Windows(DTYPE_CODES[dtype], length, isa)
