"""What every layer that holds a structured matrix shares: the bias, the product, how trained weights are taken over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from kmatrix._checks import REAL_OF
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.fitting import fit
from kmatrix.structures import GaudiMatrix, Structure, StructuredMatrix
from kmatrix.structures.base import empty_parameter, from_pairs, to_pairs

L = TypeVar("L", bound="MatrixLayer")


class MatrixLayer(nn.Module):
    """A layer that multiplies by one structured matrix and adds a bias.

    Attributes:
        matrix: the structured matrix.
        bias: one number for each output, real pairs if the matrix is complex; None without.
    """

    matrix: StructuredMatrix
    bias: nn.Parameter | None

    def __init__(self, matrix: StructuredMatrix, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_parameter("bias", bias)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_weight(self, name)
        super().__setattr__(name, value)

    @property
    def structure(self) -> Structure:
        """The structure of the matrix."""
        return self.matrix.structure

    def _apply(self: L, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> L:
        # ``model.to(torch.complex128)`` would turn the real pairs of a bias themselves into complex numbers.
        def apply(stored: Tensor) -> Tensor:
            changed = fn(stored)
            if changed.is_complex() and not stored.is_complex():
                return stored.to(changed.device, REAL_OF[changed.dtype])
            return changed

        # A real matrix has the words for what asks it to become complex.
        used = apply if self.matrix.dtype.is_complex else fn
        applied: L = super()._apply(used, recurse)  # type: ignore[no-untyped-call]
        return applied

    def reset_parameters(self) -> None:
        """Redraw the matrix at its recommended start, and the bias as ``nn.Linear`` does: U(±1/sqrt(n))."""
        self.matrix.reset_parameters()
        if self.bias is not None:
            bound = self._fan_in**-0.5
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def _fan_in(self) -> int:
        """How many inputs each output sees."""
        return self.matrix.shape[1]

    @property
    def _full_bias(self) -> Tensor | None:
        """The bias, complex if the matrix is."""
        return None if self.bias is None else from_pairs(self.bias, self.matrix.dtype.is_complex)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last axis of ``x`` and add the bias."""
        bias: Tensor | None
        if torch.compiler.is_dynamo_compiling():
            matrix, bias = self.matrix, self.bias
        else:  # looking up attributes of a module takes longer than a small product
            matrix = cast(StructuredMatrix, self._modules["matrix"])
            bias = self._parameters["bias"] if "bias" in self._parameters else self.bias
        if bias is not None and bias.ndim == 2:
            bias = from_pairs(bias, True)
        return matrix(x, bias) if awaited(matrix) else matrix.forward(x, bias)


def refuse_weight(layer: nn.Module, name: str) -> None:
    """Raise if somebody sets the weight of a layer, which is computed of its matrix."""
    if name == "weight":
        reason = "the weight is computed of layer.matrix, and cannot be set"
        way_out = "set layer.matrix = km.fit(W, structure).matrix; layers share numbers by sharing a matrix"
        raise ArgumentError(complaint(type(layer).__name__, "weight", "...", reason, way_out))


def size_remark(matrix: StructuredMatrix, dense: int) -> str:
    """What the representation of a layer says where its matrix has more numbers than the dense one would have."""
    held = matrix.num_params
    if isinstance(matrix, GaudiMatrix):
        return (
            f", while its boxes learn; {matrix.structure.hardened.num_params(*matrix.shape):,} once hardened"
        )
    return f", larger than dense: {held:,} numbers for {dense:,}" if held > dense else ""


def awaited(module: nn.Module) -> bool:
    """Whether somebody waits for the call of a module; otherwise its ``forward`` is the same, and reached sooner."""
    return bool(
        hooked(module)
        or _global_forward_hooks
        or _global_forward_pre_hooks
        or _global_backward_hooks
        or _global_backward_pre_hooks
        or module._compiled_call_impl is not None
    )


def hooked(module: nn.Module) -> bool:
    """Whether hooks are attached to a module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def checked_structure(where: str, structure: object) -> Structure:
    """The structure, or raise if it is none."""
    if not isinstance(structure, Structure):
        got = getattr(structure, "__name__", repr(structure))
        way_out = "pass an instance such as km.Monarch(4)"
        raise DtypeError(complaint(where, "structure", got, "not a Structure", way_out))
    return structure


def checked_matrix(where: str, matrix: object) -> StructuredMatrix:
    """The structured matrix, or raise if it is none."""
    if not isinstance(matrix, StructuredMatrix):
        way_out = "pass a structured matrix, for example km.fit_into(W, km.Monarch(4)).matrix"
        got = type(matrix).__name__
        raise DtypeError(complaint(where, "matrix", got, "not a StructuredMatrix", way_out))
    return matrix


def empty_bias(
    size: int, bias: bool, dtype: torch.dtype, device: torch.device | str | None
) -> nn.Parameter | None:
    """A bias whose numbers are not set yet, None without."""
    return empty_parameter((size,), dtype, device) if bias else None


def given_bias(where: str, bias: Tensor | None, matrix: StructuredMatrix) -> nn.Parameter | None:
    """A bias that somebody gave, as a parameter that fits the matrix; a parameter stays the same object."""
    if bias is None:
        return None
    size = matrix.shape[0]
    if isinstance(bias, nn.Parameter) and not bias.is_complex():
        stored = bias
    else:
        stored = nn.Parameter(to_pairs(bias.detach().clone()), requires_grad=bias.requires_grad)
    expected = (size, 2) if matrix.dtype.is_complex else (size,)
    if tuple(stored.shape) != expected:
        reason, way_out = f"the matrix has {size} rows", f"pass {size} numbers of {matrix.dtype}"
        raise ArgumentError(complaint(where, "bias.shape", tuple(bias.shape), reason, way_out))
    real = REAL_OF.get(matrix.dtype, matrix.dtype)
    if stored.dtype != real:
        reason, way_out = (
            f"the matrix holds {matrix.dtype}",
            f"convert it, for example bias.to({matrix.dtype})",
        )
        raise DtypeError(complaint(where, "bias.dtype", bias.dtype, reason, way_out))
    return stored


def fitted(where: str, dense: Tensor, structure: Structure, options: dict[str, Any]) -> StructuredMatrix:
    """The member of a structure nearest to a trained weight, on its device and in its dtype."""
    structure = checked_structure(where, structure)
    weight = dense.detach()
    if weight.is_meta:
        return structure.empty(weight.shape[0], weight.shape[1], dtype=weight.dtype, device="meta")
    matrix = fit(weight, structure, batches=(), **options).matrix
    return matrix.to(weight.device)
