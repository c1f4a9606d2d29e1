"""The end of learning boxes: matrices that learned become cropped ones, all within one budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from kmatrix._checks import check_positive
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures import GBLRMatrix, StructuredMatrix
from kmatrix.structures.gaudi import GaudiMatrix
from kmatrix.structures.gaudi.budget import rounded_within

_SLACK = 1e-12  # a budget such as 0.3 is the double next to it


def harden_(model: nn.Module, budget: float) -> list[str]:
    """Put the cropped matrix, a ``GBLRMatrix``, in the place of every ``km.Gaudi`` matrix of a model.

    All widths of all matrices are rounded with one threshold, so that together they use up the budget. Optimisers made
    before do not know the new numbers: make a new one to train on.

    Args:
        model: changed in place; its layers stay, with another ``matrix``.
        budget: all widths together, as a fraction of the multiplications of the dense matrices.

    Returns:
        The names of the layers; of the matrices themselves where they are no layer's ``matrix``.

    Raises:
        ArgumentError: if there is no such matrix, one is the model itself or inside another matrix, or the budget is
            not a positive number, or too small for a single box.
    """
    return list(hardened_(model, budget))


def hardened_(model: nn.Module, budget: float) -> dict[str, GBLRMatrix]:
    """What ``harden_`` does: the new matrices by the names of their layers, or their own where they stand alone."""
    check_positive("harden_", "budget", budget)
    named = gaudi_matrices("harden_", model)
    matrices = list(named.values())
    most = affordable("harden_", matrices, budget)
    whole = rounded_within([a.units for a in matrices], [a.shape for a in matrices], most)
    new = {a: a.cropped(w) for a, w in zip(matrices, whole, strict=True)}
    for module in list(model.modules()):
        for key, child in list(module._modules.items()):
            if isinstance(child, GaudiMatrix) and child in new:
                new[child].requires_grad_(child.left.requires_grad)
                setattr(module, key, new[child].train(child.training))
    return {_layer_of(name): new[a] for name, a in named.items()}


@contextmanager
def as_hardened(model: nn.Module, budget: float) -> Iterator[None]:
    """Put the cropped matrices into a model for the time of a block; those that learn come back unchanged."""
    before = {module: dict(module._modules) for module in model.modules()}
    try:
        hardened_(model, budget)
        yield
    finally:
        for module, parts in before.items():
            module._modules.clear()
            module._modules.update(parts)


def affordable(where: str, matrices: Sequence[GaudiMatrix], budget: float) -> int:
    """How many units of width all boxes may have together.

    Raises:
        ArgumentError: if that is too little for a single box.
    """
    allowed = budget * sum(a.shape[0] * a.shape[1] for a in matrices) * (1 + _SLACK)
    if allowed < 2:
        reason = f"of all multiplications that is {allowed:.3g}, too little for a box of widths 1 and 1"
        raise ArgumentError(complaint(where, "budget", f"{budget:g}", reason, "pass a larger budget"))
    return math.floor(allowed)


def _layer_of(name: str) -> str:
    layer, _, key = name.rpartition(".")
    return layer if key == "matrix" else name


def gaudi_matrices(where: str, model: nn.Module, *, needed: bool = True) -> dict[str, GaudiMatrix]:
    """The matrices of a model that learn their boxes, each once, by their first name.

    Raises:
        ArgumentError: if there are none though one is needed, or one is the model itself or inside another matrix,
            whose structure would still be that of the matrix that learned once it is hardened.
    """
    if isinstance(model, GaudiMatrix):
        way_out = "put it into a layer, km.nn.Linear.from_matrix(A), or crop it alone, A.harden()"
        raise ArgumentError(
            complaint(where, "model", type(model).__name__, "a bare km.Gaudi matrix", way_out)
        )
    for name, outer in model.named_modules():
        if isinstance(outer, StructuredMatrix) and not isinstance(outer, GaudiMatrix):
            if any(isinstance(inner, GaudiMatrix) for inner in outer.modules()):
                got = f"{name or type(model).__name__}: {outer.structure}"
                way_out = "use two layers and add or multiply what they give, each with a matrix of its own"
                raise ArgumentError(
                    complaint(where, "model", got, "a km.Gaudi matrix inside another matrix", way_out)
                )
    named = {name: module for name, module in model.named_modules() if isinstance(module, GaudiMatrix)}
    if needed and not named:
        way_out = "km.replace_linear_(model, km.Gaudi()) makes layers of them"
        raise ArgumentError(
            complaint(where, "model", type(model).__name__, "no km.Gaudi matrix in it", way_out)
        )
    return named
