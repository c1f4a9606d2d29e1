"""Learning rates and weight decay for structured layers: parameter groups for optimisers.

The factors of a product need other steps than a dense weight: what Adam changes in one step is the same for every
number, so what it changes in the product grows with the numbers that meet in one sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import singledispatch
from numbers import Real
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from kmatrix._checks import check_module
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.nn._layer import MatrixLayer
from kmatrix.nn.options import CappedMatrix
from kmatrix.structures import (
    OBB,
    Butterfly,
    ChainMatrix,
    FixedBPBP,
    GaudiMatrix,
    GroupedMatrix,
    Kaleidoscope,
    OrthogonalButterfly,
    RealPartMatrix,
    Structure,
    StructuredMatrix,
)
from kmatrix.structures.bp import BPBPMatrix
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, SumMatrix, TransposedMatrix
from kmatrix.structures.tied import NumbersMatrix

Optimizer = Literal["adam", "sgd"]
_DEEP = 3  # the published rules were tried on products of up to three factors


@dataclass(frozen=True)
class Part:
    """One stored parameter of a structured matrix, and what scales its steps.

    Attributes:
        parameter: the parameter as it is stored.
        fan_in: numbers that meet in each sum of its factor; None where the published rules do not apply.
        fan_out: likewise of the transpose.
        decays: whether weight decay makes sense: not for butterflies, angles, logits and diagonals.
        deep: whether it belongs to a butterfly or another chain of over three factors.
    """

    parameter: nn.Parameter
    fan_in: int | None = None
    fan_out: int | None = None
    decays: bool = False
    deep: bool = False


@singledispatch
def parts(matrix: StructuredMatrix) -> list[Part]:
    """The stored parameters of a matrix; ``@parts.register`` a rule for a family of your own.

    Example:
        >>> import kmatrix as km
        >>> [(part.fan_in, part.fan_out) for part in parts(km.LowRank(4).random(20, 30))]
        [(30, 4), (4, 20)]
    """
    deep = is_butterfly(matrix.structure, 0)
    return [Part(p, deep=deep) for p in matrix.parameters()]


@parts.register
def _(matrix: ChainMatrix) -> list[Part]:
    stored = [cast(nn.Parameter, p) for p in matrix.factors]
    if is_butterfly(matrix.structure, len(stored)):
        found = [Part(p, deep=True) for p in stored]
    else:
        pairs = zip(stored, matrix.layout.factors, strict=True)
        # A single factor with one number in each row is a diagonal.
        found = [Part(p, f.c, f.b, decays=max(f.b, f.c) > 1) for p, f in pairs]
    return found


@parts.register
def _(matrix: NumbersMatrix) -> list[Part]:
    return [Part(matrix.stored, decays=matrix.numbers.ndim > 1)]


@parts.register
def _(matrix: BPBPMatrix) -> list[Part]:
    logits = [Part(p) for permutation in matrix.permutations for p in permutation.parameters()]
    return logits + [Part(p, deep=True) for butterfly in matrix.butterflies for p in butterfly.parameters()]


@parts.register
def _(matrix: GaudiMatrix) -> list[Part]:
    contents = [Part(p, decays=True) for p in (matrix.left, matrix.right)]
    return contents + [Part(p) for p in (matrix.widths, matrix.starts)]


@parts.register
def _(matrix: CappedMatrix) -> list[Part]:
    return parts(matrix.base) + ([] if matrix.gains is None else [Part(matrix.gains)])


@parts.register(ProductMatrix)
@parts.register(SumMatrix)
@parts.register(GroupedMatrix)
def _(matrix: ProductMatrix | SumMatrix | GroupedMatrix) -> list[Part]:
    return [part for member in matrix.members for part in parts(member)]


@parts.register
def _(matrix: TransposedMatrix) -> list[Part]:
    return [replace(p, fan_in=p.fan_out, fan_out=p.fan_in) for p in parts(matrix.base)]


@parts.register
def _(matrix: ScaledMatrix) -> list[Part]:
    return parts(matrix.base)


@parts.register
def _(matrix: RealPartMatrix) -> list[Part]:
    return parts(matrix.of)


def is_butterfly(structure: Structure, factors: int) -> bool:
    """Whether a chain is deep, of factors so small that the rules for products would ask for absurd steps."""
    butterflies = Butterfly | Kaleidoscope | FixedBPBP | OrthogonalButterfly | OBB
    return isinstance(structure, butterflies) or factors > _DEEP


def _depth(matrix: StructuredMatrix) -> int:
    """How many factors are multiplied with each other."""
    if isinstance(matrix, ProductMatrix):
        return sum(_depth(part) for part in matrix.members)
    if isinstance(matrix, SumMatrix | GroupedMatrix):
        return max(_depth(part) for part in matrix.members)
    if isinstance(matrix, TransposedMatrix | ScaledMatrix):
        return _depth(matrix.base)
    if isinstance(matrix, RealPartMatrix):
        return _depth(matrix.of)
    return max(1, len(matrix.layout.factors)) if isinstance(matrix, ChainMatrix | CappedMatrix) else 1


def multipliers(
    matrix: StructuredMatrix, *, optimizer: Optimizer = "adam", butterfly: float = 1.0
) -> list[tuple[Part, float]]:
    """How many times the learning rate of a dense weight each parameter of a matrix gets.

    A dense weight of an ``m x n`` layer gets 1. Of ``k`` factors that are multiplied, one with ``c`` numbers in each
    row and ``b`` in each column gets

    - ``(n / c) / k`` with Adam, whose steps are the same for every number;
    - ``((b / c) / (m / n)) / k`` with SGD.

    For butterflies and other chains of over three factors the rule would ask for steps of ``n / (2 log2(n))`` times
    those of a dense weight, which nobody has tried: they get ``butterfly``, a number to be swept.

    Args:
        matrix: the matrix of a layer.
        optimizer: ``"adam"`` for Adam, AdamW and their kin, ``"sgd"`` for SGD with or without momentum.
        butterfly: multiplier of butterflies.

    Example:
        >>> import kmatrix as km
        >>> [rate for _, rate in multipliers(km.LowRank(16).random(64, 128))]
        [0.5, 4.0]

    Reference: arXiv 2406.06248 and its code (structure-aware maximal update parametrisation).
    """
    m, n = matrix.shape
    depth = _depth(matrix)
    rates = []
    for part in parts(matrix):
        if part.fan_in is None or part.fan_out is None:
            rate = butterfly if part.deep else 1.0
        elif optimizer == "adam":
            rate = n / part.fan_in / depth
        else:
            rate = part.fan_out / part.fan_in * n / m / depth
        rates.append((part, rate))
    return rates


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    optimizer: Optimizer = "adam",
    butterfly: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: structure-aware learning rates, and weight decay only where it makes sense.

    Every parameter that is trained is in exactly one group, shared ones too. Those of structured matrices get
    ``lr`` times their multiplier, all others ``lr``. Weight decay goes to weights with at least two axes: not to
    biases, gains and vectors, and not to the factors of butterflies and the parameters of orthogonal matrices, whose
    products it would shrink at the power of their depth.

    Args:
        model: any module, with structured layers and others.
        lr: the learning rate of a dense weight.
        weight_decay: of the weights that decay; the optimiser multiplies it with the rate of the group.
        optimizer: the kind of optimiser that the groups are for.
        butterfly: multiplier of butterflies and of chains of over three factors.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``lr_multiplier``, for ``torch.optim``.

    Raises:
        ArgumentError: if a number is not positive, or the kind of optimiser is unknown.

    Example:
        >>> import torch, kmatrix as km
        >>> model = torch.nn.Sequential(km.nn.Linear(64, 64, structure=km.LowRank(16)), torch.nn.Linear(64, 10))
        >>> optimizer = torch.optim.AdamW(km.nn.param_groups(model, lr=1e-3, weight_decay=0.1))
        >>> [(g["lr_multiplier"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups]
        [(1.0, 0.0, 2), (0.5, 0.1, 1), (2.0, 0.1, 1), (1.0, 0.1, 1)]

    Reference: arXiv 2406.06248 for the rates; arXiv 1903.05895 and its code for butterflies without decay.
    """
    _check(model, lr, weight_decay, optimizer, butterfly)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter, rate, decays in _ruled(model, optimizer, butterfly):
        groups.setdefault((rate, weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": params, "lr": lr * rate, "weight_decay": decay, "lr_multiplier": rate}
        for (rate, decay), params in groups.items()
    ]


def _ruled(
    model: nn.Module, optimizer: Optimizer, butterfly: float
) -> Iterator[tuple[nn.Parameter, float, bool]]:
    """Every trained parameter once, its multiplier and whether it decays, in the order of ``model.parameters()``."""
    rules: dict[nn.Parameter, tuple[float, bool]] = {}
    for module in _outermost(model):
        for part, rate in multipliers(module, optimizer=optimizer, butterfly=butterfly):
            rules.setdefault(part.parameter, (rate, part.decays))
    for layer in model.modules():
        if isinstance(layer, MatrixLayer) and layer.bias is not None:
            rules.setdefault(layer.bias, (1.0, False))  # complex ones have two axes
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate, decays = rules.get(parameter, (1.0, parameter.ndim > 1))
            yield parameter, rate, decays


def _outermost(module: nn.Module) -> Iterator[StructuredMatrix]:
    """The structured matrices of a model that are not parts of others."""
    if isinstance(module, StructuredMatrix):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def _check(model: object, lr: float, weight_decay: float, optimizer: str, butterfly: float) -> None:
    check_module("param_groups", model, way_out="pass the model, not its parameters")
    if optimizer not in get_args(Optimizer):
        way_out = f"use one of {get_args(Optimizer)}"
        raise ArgumentError(complaint("param_groups", "optimizer", repr(optimizer), "unknown", way_out))
    for name, value, least in (
        ("lr", lr, 0.0),
        ("weight_decay", weight_decay, 0.0),
        ("butterfly", butterfly, 0.0),
    ):
        if isinstance(value, bool) or not isinstance(value, Real):
            way_out = "pass a positive number"
            raise DtypeError(complaint("param_groups", name, repr(value), "not a number", way_out))
        if not value >= least:
            raise ArgumentError(complaint("param_groups", name, value, "negative", "pass a positive number"))
