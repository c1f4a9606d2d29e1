"""Which layers of a model can be swapped, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmatrix._checks import DTYPES, check_module
from kmatrix.nn._layer import MatrixLayer, hooked
from kmatrix.nn.filters import Filter, as_function

Kind = Literal["linear", "conv2d"]


@dataclass(frozen=True)
class Site:
    """A layer that can be swapped.

    Attributes:
        names: every qualified name under which the model holds this one layer; the first in order of the walk leads.
        module: the layer.
        kind: ``"linear"`` or ``"conv2d"``.
    """

    names: tuple[str, ...]
    module: nn.Module
    kind: Kind

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]

    @property
    def groups(self) -> int:
        """How many blocks the weight, as a matrix, has on its diagonal; 1 but for grouped convolutions."""
        return self.module.groups if isinstance(self.module, nn.Conv2d) else 1

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight as a matrix: ``(out, in)``, or ``(out_channels, in_channels * kh * kw)``."""
        weight = self.module.get_parameter("weight")
        return weight.shape[0], weight.numel() // weight.shape[0] * self.groups


@dataclass(frozen=True)
class Skipped:
    """A layer that was left as it is.

    Attributes:
        names: every qualified name of the layer.
        reason: why it was left.
    """

    names: tuple[str, ...]
    reason: str


def linear_like(model: nn.Module, filter_fn: Filter | None = None) -> list[Site]:
    """The layers of a model that can be swapped: ordinary ``nn.Linear`` and ``nn.Conv2d``, each once.

    Args:
        model: any module.
        filter_fn: which of them to list: a function of the module and its first qualified name, or patterns of names
            (``"*.mlp.*"``, ``"!head"``); all if not given.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> shared = nn.Linear(4, 4)
        >>> [site.names for site in km.nn.linear_like(nn.Sequential(shared, nn.ReLU(), shared))]
        [('0', '2')]
    """
    return survey(model, filter_fn)[0]


def survey(model: nn.Module, filter_fn: Filter | None = None) -> tuple[list[Site], list[Skipped]]:
    """The layers that can be swapped, and those that look like one and cannot, each with the reason.

    Args:
        model: any module.
        filter_fn: which of them to look at, as for ``linear_like``.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> sites, skipped = km.nn.survey(nn.MultiheadAttention(8, 2))
        >>> sites, skipped[0].names
        ([], ('out_proj',))
    """
    check_module("survey", model)
    meant = as_function("survey", model, filter_fn)
    owners = _owners_of_weights(model)
    parents = _parents(model)
    sites, skipped = [], []
    for module, names in by_module(model):
        kind = _kind(module)
        if kind is None or not meant(module, names[0]):
            continue
        reason = _why_not(module, names, parents.get(module, []), owners)
        if reason is None and kind != "other":
            sites.append(Site(names, module, kind))
        elif reason is not None:
            skipped.append(Skipped(names, reason))
    return sites, skipped


def by_module(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Every module once, with all its names in order of the walk."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for module, found in names.items():
        yield module, tuple(found)


def _parents(model: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    parents: dict[nn.Module, list[nn.Module]] = {}
    for module in model.modules():
        for child in module.children():
            parents.setdefault(child, []).append(module)
    return parents


def _owners_of_weights(model: nn.Module) -> dict[Tensor, list[str]]:
    """For each parameter the names of the modules that hold it, one name for each module."""
    owners: dict[Tensor, list[str]] = {}
    for module, names in by_module(model):
        for parameter in {p for p in module._parameters.values() if p is not None}:
            owners.setdefault(parameter, []).append(names[0])
    return owners


def _kind(module: nn.Module) -> Kind | Literal["other"] | None:
    """What a layer is, ``"other"`` for one that only looks like a linear layer, None for the rest."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    if isinstance(module, MatrixLayer):
        return None
    sides = (("in_features", "out_features"), ("in_channels", "out_channels"))
    looks_alike = any(all(isinstance(getattr(module, s, None), int) for s in pair) for pair in sides)
    return "other" if looks_alike else None


def _why_not(
    module: nn.Module, names: tuple[str, ...], parents: list[nn.Module], owners: Mapping[Tensor, list[str]]
) -> str | None:
    """Why a layer cannot be swapped; None if it can."""
    if "" in names:
        return "it is the model itself, which holds no name to put another layer under"
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return f"a {type(module).__name__} is neither an nn.Linear nor an nn.Conv2d"
    if any(isinstance(parent, nn.MultiheadAttention) for parent in parents):
        return "nn.MultiheadAttention multiplies with its weight itself; km.nn.open_attention_(model) changes that"
    base = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    own = [
        f
        for f in ("forward", "_conv_forward")
        if getattr(type(module), f, None) is not getattr(base, f, None)
    ]
    if own or "forward" in vars(module):
        return f"a {type(module).__name__} has a forward of its own"
    if parametrize.is_parametrized(module) or not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "its weight is computed from other numbers (a parametrization, pruning or a weight norm)"
    reason = _why_not_weight(module, names, owners)
    return "hooks are attached to it, which would be lost" if reason is None and hooked(module) else reason


def _why_not_weight(
    module: nn.Module, names: tuple[str, ...], owners: Mapping[Tensor, list[str]]
) -> str | None:
    weight = module.get_parameter("weight")
    if isinstance(weight, nn.UninitializedParameter):
        return "its shape is not known before the first call"
    if type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__}, not an ordinary tensor"
    if weight.dtype not in DTYPES:
        return f"its weight holds {weight.dtype}"
    if weight.layout is not torch.strided:
        return f"its weight is laid out as {weight.layout}"
    if weight.numel() == 0:
        return "its weight is empty"
    bias = getattr(module, "bias", None)
    registered = module._parameters.get("bias")
    if bias is not None and (registered is None or registered.dtype != weight.dtype):
        return f"its bias is not a parameter of {weight.dtype}, as its weight is"
    others = [owner for owner in owners[weight] if owner not in names]
    return f"it shares its weight with {', '.join(others)}" if others else None
