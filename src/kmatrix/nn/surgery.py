"""Swapping layers in place: which layers of a model can be swapped, the swap by name, and the way back to dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.nn._layer import MatrixLayer, checked_structure
from kmatrix.nn.conv import Conv2d, grouped
from kmatrix.nn.embedding import Embedding
from kmatrix.nn.hosts import opened, settle_hosts_
from kmatrix.nn.linear import Linear
from kmatrix.structures import Structure
from kmatrix.structures.base import from_pairs

Kind = Literal["linear", "conv2d"]
FilterFn = Callable[[nn.Module, str], bool]
Rule = Callable[[nn.Module, str], "Structure | None"]


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


@dataclass(frozen=True)
class Replacement:
    """What ``replace_linear_`` did.

    Attributes:
        replaced: names of the swapped layers, all names of each one.
        skipped: layers that could not be swapped, each with its reason; those the filter left out are not listed.
        params_before: numbers in the weights of the swapped layers before.
        params_after: numbers in their structured matrices.
    """

    replaced: tuple[tuple[str, ...], ...]
    skipped: tuple[Skipped, ...]
    params_before: int
    params_after: int

    def __str__(self) -> str:
        share = self.params_after / self.params_before if self.params_before else 1.0
        counts = f"{self.params_before:,} -> {self.params_after:,} numbers ({share:.1%})"
        lines = [f"{len(self.replaced)} layers replaced, {counts}"]
        lines += [f"  skipped {', '.join(s.names)}: {s.reason}" for s in self.skipped]
        return "\n".join(lines)


def linear_like(model: nn.Module, filter_fn: FilterFn | None = None) -> list[Site]:
    """The layers of a model that can be swapped: ordinary ``nn.Linear`` and ``nn.Conv2d``, each once.

    Args:
        model: any module.
        filter_fn: which of them to list, from the module and its first qualified name; all if not given.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> shared = nn.Linear(4, 4)
        >>> [site.names for site in km.nn.linear_like(nn.Sequential(shared, nn.ReLU(), shared))]
        [('0', '2')]
    """
    return survey(model, filter_fn)[0]


def survey(model: nn.Module, filter_fn: FilterFn | None = None) -> tuple[list[Site], list[Skipped]]:
    """The layers that can be swapped, and those that look like one and cannot, each with the reason.

    Args:
        model: any module.
        filter_fn: which of them to look at, from the module and its first qualified name; all if not given.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> sites, skipped = km.nn.survey(nn.MultiheadAttention(8, 2))
        >>> sites, skipped[0].names
        ([], ('out_proj',))
    """
    if not isinstance(model, nn.Module):
        way_out = "pass the model"
        raise DtypeError(complaint("survey", "model", type(model).__name__, "not an nn.Module", way_out))
    owners = _owners_of_weights(model)
    parents = _parents(model)
    sites, skipped = [], []
    for module, names in _by_module(model):
        kind = _kind(module)
        if kind is None or (filter_fn is not None and not filter_fn(module, names[0])):
            continue
        reason = _why_not(module, names, parents.get(module, []), owners)
        if reason is None and kind != "other":
            sites.append(Site(names, module, kind))
        elif reason is not None:
            skipped.append(Skipped(names, reason))
    return sites, skipped


def _by_module(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
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
    for module, names in _by_module(model):
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
    return _why_not_weight(module, names, owners) or _hooked(module)


def _why_not_weight(
    module: nn.Module, names: tuple[str, ...], owners: Mapping[Tensor, list[str]]
) -> str | None:
    weight = module.get_parameter("weight")
    if isinstance(weight, nn.UninitializedParameter):
        return "its shape is not known before the first call"
    if type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__}, not an ordinary tensor"
    if not (weight.is_floating_point() or weight.is_complex()):
        return f"its weight holds {weight.dtype}"
    if weight.layout is not torch.strided:
        return f"its weight is laid out as {weight.layout}"
    if weight.numel() == 0:
        return "its weight is empty"
    others = [owner for owner in owners[weight] if owner not in names]
    return f"it shares its weight with {', '.join(others)}" if others else None


def _hooked(module: nn.Module) -> str | None:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, kind, None) for kind in kinds):
        return "hooks are attached to it, which would be lost"
    return None


def swap_(model: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put other modules in the place of those of these names, under all names that each one has.

    Args:
        model: changed in place.
        replacements: the new module for each qualified name. One name of a tied module is enough; two names of it
            must not ask for two different modules.

    Raises:
        ArgumentError: if the model has no module of a name, or the name is that of the model itself.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> shared = nn.Linear(4, 4)
        >>> model = nn.Sequential(shared, shared)
        >>> km.nn.swap_(model, {"0": nn.Identity()})
        >>> model[0] is model[1]
        True
    """
    every = dict(model.named_modules(remove_duplicate=False))
    new: dict[nn.Module, nn.Module] = {}
    for name, module in replacements.items():
        if name not in every or name == "":
            reason = "the model has no module of this name" if name else "that is the model itself"
            raise ArgumentError(
                complaint("swap_", "replacements", repr(name), reason, "use a name of model.named_modules()")
            )
        if new.setdefault(every[name], module) is not module:
            reason = "it is tied to another name that asks for another module"
            raise ArgumentError(complaint("swap_", "replacements", repr(name), reason, "pass one of them"))
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, key, new[child])
    settle_hosts_(model)


def replace_linear_(
    model: nn.Module,
    structure: Structure | Rule,
    filter_fn: FilterFn | None = None,
    *,
    kinds: tuple[Kind, ...] = ("linear",),
) -> Replacement:
    """Put freshly drawn structured layers in the place of dense ones, to be trained from scratch.

    Weights are drawn anew; biases stay the parameters they are. Device, dtype and mode stay. Modules under several
    names are replaced once and stay tied.

    Args:
        model: changed in place.
        structure: the class of matrices of every new layer, or a function of the module and its name that gives one
            (None leaves that layer as it is).
        filter_fn: which layers to replace, from the module and its first qualified name; all if not given.
        kinds: ``"linear"``, ``"conv2d"`` or both.

    Returns:
        What was replaced, and what was skipped and why: layers that have a forward of their own, hooks,
        parametrizations or quantised weights, that share a weight with another module, that a parent never calls
        (``nn.MultiheadAttention``), or whose shape the structure does not have.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> print(km.replace_linear_(model, km.Monarch(4), lambda module, name: name == "0"))
        1 layers replaced, 65,536 -> 32,768 numbers (50.0%)
    """
    unknown = [kind for kind in kinds if kind not in get_args(Kind)]
    if isinstance(kinds, str) or unknown:
        way_out = f"pass a tuple of {get_args(Kind)}"
        raise ArgumentError(
            complaint("replace_linear_", "kinds", repr(kinds), "not kinds of layers", way_out)
        )
    if isinstance(structure, type) or not callable(structure):
        checked_structure("replace_linear_", structure)
    sites, skipped = survey(model, filter_fn)
    new: dict[str, nn.Module] = {}
    before = after = 0
    replaced = []
    for site in sites:
        if site.kind not in kinds:
            continue
        chosen = structure if isinstance(structure, Structure) else structure(site.module, site.name)
        if chosen is None:
            continue
        try:
            layer = fresh(site, checked_structure("replace_linear_", chosen))
        except ArgumentError as error:
            skipped.append(Skipped(site.names, str(error)))
            continue
        new[site.name] = layer
        replaced.append(site.names)
        before += site.module.get_parameter("weight").numel()
        after += layer.matrix.num_params
    swap_(model, new)
    return Replacement(tuple(replaced), tuple(skipped), before, after)


def fresh(site: Site, structure: Structure) -> Linear | Conv2d:
    """A structured layer for the place of a dense one, its matrix drawn anew, its bias shared."""
    dense = site.module
    weight = dense.get_parameter("weight")
    matrix = grouped(structure, site.groups).empty(*site.shape, dtype=weight.dtype, device=weight.device)
    matrix.reset_parameters()
    matrix.requires_grad_(weight.requires_grad)
    layer: Linear | Conv2d
    if isinstance(dense, nn.Conv2d):
        layer = Conv2d.like(dense, matrix)
    else:
        layer = Linear.from_matrix(matrix, dense.get_parameter("bias") if dense.bias is not None else None)
    layer.train(dense.training)
    return layer


def open_attention_(model: nn.Module, filter_fn: FilterFn | None = None) -> list[str]:
    """Give the projections of every ``nn.MultiheadAttention`` layers of their own, so that they can be swapped.

    The function of the model stays the same; names of parameters change (``in_proj_weight`` becomes
    ``q_proj.weight``, ``k_proj.weight`` and ``v_proj.weight``).

    Args:
        model: changed in place.
        filter_fn: which attentions to open, from the module and its first qualified name; all if not given.

    Returns:
        The first name of each attention that was opened. Those with hooks, parametrizations or a class of their own
        stay as they are.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> model = nn.TransformerEncoderLayer(16, 2, batch_first=True)
        >>> km.nn.open_attention_(model), len(km.nn.linear_like(model))
        (['self_attn'], 6)
    """
    new: dict[str, nn.Module] = {}
    for module, names in _by_module(model):
        if "" not in names and (filter_fn is None or filter_fn(module, names[0])):
            attention = opened(module)
            if attention is not None:
                new[names[0]] = attention
    swap_(model, new)
    return list(new)


def densify_(model: nn.Module) -> list[str]:
    """Turn every structured layer back into an ordinary one with the same function.

    ``Linear`` becomes ``nn.Linear``, ``Conv2d`` becomes ``nn.Conv2d`` and ``Embedding`` becomes ``nn.Embedding``;
    biases stay the parameters they are, tied layers stay tied, and layers that share a matrix share a weight (but for
    tables with a row of padding, which reads as zeros and is none in the output layer).

    Args:
        model: changed in place.

    Returns:
        The first name of each layer that was turned.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> model = nn.Sequential(km.nn.Linear(8, 8, structure=km.LowRank(rank=2)))
        >>> km.densify_(model), type(model[0])
        (['0'], <class 'torch.nn.modules.linear.Linear'>)
    """
    new: dict[str, nn.Module] = {}
    weights: dict[nn.Module, nn.Parameter] = {}
    for module, names in _by_module(model):
        if isinstance(module, Linear | Conv2d | Embedding):
            if "" in names:
                way_out = "use km.nn.dense_layer(layer), which gives the dense layer back"
                raise ArgumentError(
                    complaint("densify_", "model", type(module).__name__, "a layer itself", way_out)
                )
            dense = dense_layer(module)
            if not isinstance(module, Conv2d) and getattr(module, "padding_idx", None) is None:
                dense.weight = weights.setdefault(module.matrix, cast(nn.Parameter, dense.weight))
            new[names[0]] = dense
    swap_(model, new)
    return list(new)


def dense_layer(layer: Linear | Conv2d | Embedding) -> nn.Linear | nn.Conv2d | nn.Embedding:
    """The ordinary layer with the same function, its bias shared where it is real.

    Example:
        >>> import kmatrix as km
        >>> km.nn.dense_layer(km.nn.Linear(8, 4, structure=km.LowRank(2)))
        Linear(in_features=8, out_features=4, bias=True)
    """
    if isinstance(layer, Embedding):
        return layer.dense()
    weight = layer.weight.detach()
    options: dict[str, Any] = {"bias": False, "device": "meta", "dtype": weight.dtype}
    dense: nn.Linear | nn.Conv2d
    if isinstance(layer, Conv2d):
        dense = layer.dense_like(**options)
    else:
        dense = nn.Linear(layer.in_features, layer.out_features, **options)
    trained = any(p.requires_grad for p in layer.matrix.parameters())
    dense.weight = nn.Parameter(weight, requires_grad=trained)
    if layer.bias is not None:
        bias = layer.bias
        if layer.matrix.dtype.is_complex:
            bias = nn.Parameter(from_pairs(bias.detach(), True), requires_grad=bias.requires_grad)
        dense.bias = bias
    return dense.train(layer.training)
