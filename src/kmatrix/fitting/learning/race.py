"""What gradient learning minimises, and many members of a structure trained side by side on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from kmatrix._errors import DtypeError, FitError, complaint
from kmatrix.fitting.learning.descent import Adam
from kmatrix.structures import Structure, StructuredMatrix

_LARGE = 1 << 19  # entries from which a sketch of the matrix is looked at first
_HUGE = 1 << 22  # entries from which a sketch has to do
_TOGETHER = 1 << 21  # entries of all members that are trained in one go
SURVIVORS = 3


def field_of(structure: Structure, target: Tensor) -> torch.dtype:
    """Single precision type of members that can be compared with the target: real if the structure allows it."""
    wanted = torch.complex64 if target.is_complex() else torch.float32
    try:
        structure.empty(*target.shape, dtype=wanted, device="meta")
    except DtypeError:
        if wanted.is_complex:
            raise
        wanted = torch.complex64
    return wanted


class Objective:
    """The loss ``||(W - A) X||^2 / ||W X||^2`` for given columns ``X``; the identity without any.

    Args:
        target: ``W``, in double precision.
        dtype: number type of ``A``.
        columns: ``(k, n)``, the columns of ``X`` as rows.
    """

    def __init__(self, target: Tensor, dtype: torch.dtype, columns: Tensor | None = None) -> None:
        inputs = torch.eye(target.shape[1], dtype=torch.float64) if columns is None else columns
        outputs = inputs.to(target.dtype) @ target.mT
        self.scale = 1 / (float(outputs.abs().square().sum()) or 1.0)
        self.inputs = inputs.to(dtype)
        self.outputs = outputs.to(dtype if outputs.is_complex() or not dtype.is_complex else dtype.to_real())

    def gap(self, matrix: StructuredMatrix, numbers: Any) -> Tensor:
        """``(A - W) X`` as real numbers, with the given parameters (and buffers) in place of those of ``A``."""
        gap = functional_call(matrix, numbers, (self.inputs,)) - self.outputs
        return torch.view_as_real(gap) if gap.is_complex() else gap

    def __call__(self, matrix: StructuredMatrix, numbers: Any) -> Tensor:
        """The loss, arguments as for ``gap``."""
        return self.gap(matrix, numbers).square().sum() * self.scale


def objectives(target: Tensor, matrix: StructuredMatrix) -> list[Objective]:
    """What to minimise, one after the other: on large matrices a sketch comes first, or is all there is.

    A sketch has Gaussian columns, whose outputs outnumber the parameters by four.
    """
    m, n = target.shape
    width = 4 * matrix.num_params // m + 64
    whole = [] if m * n > _HUGE else [Objective(target, matrix.dtype)]
    if m * n <= _LARGE or width >= n // 2:
        return whole or [Objective(target, matrix.dtype)]
    columns = torch.randn(width, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return [Objective(target, matrix.dtype, columns), *whole]


class Race:
    """Many members of one structure trained side by side.

    Attributes:
        losses: of the members still running, before the last step.
    """

    def __init__(self, members: Sequence[StructuredMatrix], objective: Objective, rates: Tensor) -> None:
        self.members = list(members)
        numbers, self.buffers = stack_module_state(list(members))
        if not numbers:
            way_out = "project onto it instead"
            raise FitError(
                complaint("learn", "structure", members[0].structure, "no numbers to learn", way_out)
            )
        self.names = list(numbers)
        self.adam = Adam([p.detach().clone() for p in numbers.values()], rates)
        self.losses = torch.full((len(members),), math.inf)
        self._evaluate = vmap(lambda p, b: objective(members[0], (p, b)))
        self._together = max(1, _TOGETHER // objective.outputs.numel())

    def step(self, share: float) -> None:
        """One step of Adam for every member."""
        losses, gradients = [], []
        for group in torch.split(torch.arange(len(self.members)), self._together):
            leaves = [p[group].requires_grad_() for p in self.adam.parameters]
            buffers = {name: buffer[group] for name, buffer in self.buffers.items()}
            total = self._evaluate(dict(zip(self.names, leaves, strict=True)), buffers)
            gradients.append(gradients_of(total.sum(), leaves))
            losses.append(total.detach())
        self.losses = torch.cat(losses).nan_to_num(math.inf)
        self.adam.step([torch.cat(parts) for parts in zip(*gradients, strict=True)], share)

    def drop(self) -> None:
        """Go on with the better half."""
        kept = self.losses.argsort()[: max(SURVIVORS, len(self.members) // 2)]
        self.adam.keep(kept)
        self.buffers = {name: buffer[kept] for name, buffer in self.buffers.items()}
        self.losses = self.losses[kept]
        self.members = [self.members[int(run)] for run in kept]

    def survivors(self) -> list[StructuredMatrix]:
        """The best members with the numbers they have now, best first."""
        return [
            with_numbers(
                self.members[run], {n: p[run] for n, p in zip(self.names, self.adam.parameters, strict=True)}
            )
            for run in self.losses.argsort()[:SURVIVORS].tolist()
        ]


def gradients_of(loss: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a loss, zero for numbers it does not depend on: at size 1 there may be nothing to turn."""
    if not loss.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def with_numbers(matrix: StructuredMatrix, numbers: dict[str, Tensor]) -> StructuredMatrix:
    """The matrix itself, its parameters overwritten by the given ones."""
    with torch.no_grad():
        for name, parameter in matrix.named_parameters():
            parameter.copy_(numbers[name])
    return matrix
