"""``Conv2d``: a drop-in for ``nn.Conv2d`` that holds a structured matrix."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kmatrix._checks import check_dtype, check_size, check_tensor
from kmatrix._errors import ArgumentError, complaint
from kmatrix.nn._convolve import convolve, convolves
from kmatrix.nn._layer import (
    MatrixLayer,
    awaited,
    checked_matrix,
    checked_structure,
    empty_bias,
    fitted,
    given_bias,
    size_remark,
)
from kmatrix.structures import Grouped, GroupedMatrix, Structure, StructuredMatrix

Pair = tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_MODES = ("zeros", "reflect", "replicate", "circular")


class Conv2d(MatrixLayer):
    """A two-dimensional convolution whose weight, as a matrix, has a structure.

    Every patch of ``in_channels * kh * kw`` numbers (channels first, as ``nn.Conv2d.weight`` is laid out) is
    multiplied by one ``out_channels x (in_channels * kh * kw)`` matrix. A 1 x 1 kernel multiplies the channels
    directly. A larger one runs the first factor as a convolution where it multiplies blocks of whole channels (low
    rank, tiles, Monarch), and gathers patches otherwise, which takes ``kh * kw`` times the memory of the input. With
    groups the matrix is block-diagonal, and each block has the structure.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: ``k`` or ``(kh, kw)``.
        stride: of the patches, one number or two.
        padding: one number, two, ``"same"`` or ``"valid"``.
        dilation: spacing within a patch, one number or two.
        groups: blocks of channels that see only each other.
        bias: whether to add a learned bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        structure: the class of matrices; of each block if there are groups.
        device: where the numbers live.
        dtype: number type; the default dtype of torch if not given.

    Shape:
        Input ``(N, in_channels, H, W)`` or ``(in_channels, H, W)``, output as ``nn.Conv2d``.

    Raises:
        ArgumentError: if no matrix of that shape has the structure, or an argument is not as ``nn.Conv2d`` takes it.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Conv2d(64, 128, 3, padding=1, structure=km.LowRank(rank=16))
        >>> layer(torch.randn(2, 64, 8, 8)).shape, layer.matrix.shape
        (torch.Size([2, 128, 8, 8]), (128, 576))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        *,
        structure: Structure,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        n = check_size("Conv2d", "in_channels", in_channels)
        m = check_size("Conv2d", "out_channels", out_channels)
        dtype = check_dtype("Conv2d", dtype or torch.get_default_dtype())
        kh, kw = _pair("kernel_size", kernel_size)
        whole = grouped(checked_structure("Conv2d", structure), check_size("Conv2d", "groups", groups))
        check_groups(n, m, groups)
        matrix = whole.empty(m, n * kh * kw, dtype=dtype, device=device)
        super().__init__(matrix, empty_bias(m, bias, dtype, device))
        self._set_geometry(kernel_size, stride, padding, dilation, groups, padding_mode)
        self.reset_parameters()

    def _set_geometry(
        self,
        kernel_size: int | Pair,
        stride: int | Pair,
        padding: int | Pair | str,
        dilation: int | Pair,
        groups: int,
        padding_mode: PaddingMode,
    ) -> None:
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.stride = _pair("stride", stride)
        self.dilation = _pair("dilation", dilation)
        self.groups = check_size("Conv2d", "groups", groups)
        if padding_mode not in _MODES:
            raise ArgumentError(
                complaint("Conv2d", "padding_mode", repr(padding_mode), "unknown", f"use one of {_MODES}")
            )
        self.padding_mode: PaddingMode = padding_mode
        self.padding = padding if isinstance(padding, str) else _pair("padding", padding, minimum=0)
        self._pads = self._pads_of(self.padding)

    def _pads_of(self, padding: str | Pair) -> tuple[int, int, int, int]:
        """Left, right, top and bottom, as ``functional.pad`` takes them."""
        if padding == "same":
            if self.stride != (1, 1):
                way_out = "use stride 1, or say how many to pad"
                raise ArgumentError(
                    complaint("Conv2d", "padding", "'same'", f"the stride is {self.stride}", way_out)
                )
            extra = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            top, left = extra[0] // 2, extra[1] // 2
            return left, extra[1] - left, top, extra[0] - top
        if padding == "valid":
            return 0, 0, 0, 0
        if isinstance(padding, str):
            raise ArgumentError(
                complaint("Conv2d", "padding", repr(padding), "unknown", "use numbers, 'same' or 'valid'")
            )
        return padding[1], padding[1], padding[0], padding[0]

    @classmethod
    def from_matrix(
        cls,
        matrix: StructuredMatrix,
        kernel_size: int | Pair = 1,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: Tensor | None = None,
        padding_mode: PaddingMode = "zeros",
    ) -> Conv2d:
        """A convolution of a matrix that there is, shared and not copied; arguments as for the class.

        Raises:
            ArgumentError: if the columns of the matrix are not whole channels, or the bias does not fit.
            DtypeError: if ``matrix`` is no structured matrix, or the bias has another dtype.
        """
        checked_matrix("Conv2d.from_matrix", matrix)
        layer = cls.__new__(cls)
        MatrixLayer.__init__(layer, matrix, given_bias("Conv2d.from_matrix", bias, matrix))
        layer._set_geometry(kernel_size, stride, padding, dilation, groups, padding_mode)
        kh, kw = layer.kernel_size
        if matrix.shape[1] % (kh * kw):
            reason = f"its columns are not whole channels of a {kh} x {kw} kernel"
            way_out = "use a matrix of shape (out_channels, in_channels * kh * kw)"
            raise ArgumentError(
                complaint("Conv2d.from_matrix", "matrix.shape", matrix.shape, reason, way_out)
            )
        if groups > 1 and not (isinstance(matrix, GroupedMatrix) and len(matrix.members) == groups):
            got, way_out = type(matrix).__name__, "pass a GroupedMatrix of as many blocks"
            reason = f"it is not made of {groups} groups"
            raise ArgumentError(complaint("Conv2d.from_matrix", "matrix", got, reason, way_out))
        return layer

    @classmethod
    def from_conv2d(cls, dense: nn.Conv2d, structure: Structure, **options: Any) -> Conv2d:
        """The convolution of that structure nearest to a trained dense one, in the Frobenius norm of the weight.

        Args:
            dense: the trained layer; its bias is shared.
            structure: the class of matrices to fit.
            options: ``seed``, ``tol`` and ``max_seconds`` of ``km.fit``.
        """
        blocks = dense.weight.flatten(1).chunk(dense.groups)
        parts = [fitted("Conv2d.from_conv2d", block, structure, options) for block in blocks]
        matrix = parts[0] if dense.groups == 1 else GroupedMatrix(parts)
        matrix.requires_grad_(dense.weight.requires_grad)
        return cls.like(dense, matrix).train(dense.training)

    @classmethod
    def like(cls, dense: nn.Conv2d, matrix: StructuredMatrix) -> Conv2d:
        """A convolution of a matrix with the geometry and the bias of another one."""
        return cls.from_matrix(
            matrix,
            cast(Pair, dense.kernel_size),
            cast(Pair, dense.stride),
            cast("Pair | Literal['same', 'valid']", dense.padding),
            cast(Pair, dense.dilation),
            dense.groups,
            dense.bias,
            dense.padding_mode,
        )

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.matrix.shape[1] // (self.kernel_size[0] * self.kernel_size[1])

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.matrix.shape[0]

    @property
    def _fan_in(self) -> int:
        return self.matrix.shape[1] // self.groups

    @property
    def weight(self) -> Tensor:
        """The dense weight, laid out as ``nn.Conv2d.weight``, computed anew each time it is read; differentiable."""
        if isinstance(self.matrix, GroupedMatrix) and self.groups > 1:
            dense = torch.cat([part.to_dense() for part in self.matrix.members])
        else:
            dense = self.matrix.to_dense()
        return dense.reshape(self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: ``(N, in_channels, H, W) -> (N, out_channels, H', W')``, or both without ``N``."""
        check_tensor("Conv2d", "x", x)
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            reason, way_out = f"not an image of {self.in_channels} channels", "pass x of shape (N, C, H, W)"
            raise ArgumentError(complaint("Conv2d", "x.shape", tuple(x.shape), reason, way_out))
        channels_last = (
            x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        )
        if any(self._pads):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = functional.pad(x, self._pads, mode=mode)
        y = None
        if self.kernel_size != (1, 1) and convolves(x, self.matrix.dtype) and not awaited(self.matrix):
            y = convolve(self.matrix, x, self.kernel_size, self.stride, self.dilation, self._full_bias)
        if y is None:
            y = super().forward(self._patches(x)).movedim(-1, -3)
        # Laid out as nn.Conv2d does: whoever takes y.view(...) of it relies on that.
        return y.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def _patches(self, x: Tensor) -> Tensor:
        """What every output sees, along the last axis: ``(*, H', W', in_channels * kh * kw)``."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        if kh == kw == 1:
            return x[..., ::sh, ::sw].movedim(-3, -1)
        seen = x.unfold(-2, (kh - 1) * dh + 1, sh).unfold(-2, (kw - 1) * dw + 1, sw)[..., ::dh, ::dw]
        return seen.movedim(-5, -3).flatten(-3)

    def dense_like(self, **options: Any) -> nn.Conv2d:
        """An ``nn.Conv2d`` of the same geometry."""
        return nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
            **options,
        )

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        parts += [f"padding={self.padding}"] if any(self._pads) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode}"] if self.padding_mode != "zeros" else []
        m, n = self.matrix.shape
        return ", ".join(parts) + size_remark(self.matrix, m * n // self.groups)


def grouped(structure: Structure, groups: int) -> Structure:
    """The structure of the whole matrix of a convolution whose groups each have a structure."""
    return structure if groups == 1 else Grouped(structure, groups)


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Raise unless the groups divide the channels."""
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            reason = f"not divisible by groups={groups}"
            raise ArgumentError(complaint("Conv2d", name, channels, reason, "choose a common divisor"))


def _pair(name: str, value: object, *, minimum: int = 1) -> Pair:
    """One whole number for both directions, or two."""
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise ArgumentError(complaint("Conv2d", name, value, "not one number or two", "pass k or (kh, kw)"))
    return tuple(check_size("Conv2d", name, side, minimum=minimum) for side in both)  # type: ignore[return-value]
