"""Swapping layers in place: the swap by name, fresh structured layers, and the way back to dense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from torch import nn

from kmatrix._checks import check_module
from kmatrix._errors import ArgumentError, complaint
from kmatrix._tables import counted
from kmatrix.nn._layer import checked_structure, hooked
from kmatrix.nn.conv import Conv2d, grouped
from kmatrix.nn.embedding import Embedding
from kmatrix.nn.filters import Filter, as_function
from kmatrix.nn.hosts import opened, settle_hosts_
from kmatrix.nn.linear import Linear
from kmatrix.nn.sites import Kind as Kind
from kmatrix.nn.sites import Site as Site
from kmatrix.nn.sites import Skipped as Skipped
from kmatrix.nn.sites import by_module
from kmatrix.nn.sites import linear_like as linear_like
from kmatrix.nn.sites import survey as survey
from kmatrix.structures import GaudiMatrix, Structure
from kmatrix.structures.base import from_pairs

Rule = Callable[[nn.Module, str], "Structure | None"]


@dataclass(frozen=True)
class Replacement:
    """What ``replace_linear_`` did.

    Attributes:
        replaced: names of the swapped layers, all names of each one.
        skipped: layers that could not be swapped, each with its reason; those the filter left out are not listed.
        params_before: numbers in the weights of the swapped layers before.
        params_after: numbers in their structured matrices.
        larger: names of those whose matrix has more numbers than the dense one had.
        learning: names of those whose boxes learn (``km.Gaudi``), and how many numbers each has once it is hardened.
    """

    replaced: tuple[tuple[str, ...], ...]
    skipped: tuple[Skipped, ...]
    params_before: int
    params_after: int
    larger: tuple[tuple[str, ...], ...] = ()
    learning: tuple[tuple[tuple[str, ...], int], ...] = ()

    def __str__(self) -> str:
        share = self.params_after / self.params_before if self.params_before else 1.0
        counts = f"{self.params_before:,} -> {self.params_after:,} numbers ({share:.1%})"
        lines = [f"{counted(len(self.replaced), 'layer')} replaced, {counts}"]
        lines += [f"  larger than dense: {', '.join(names)}" for names in self.larger]
        lines += [f"  {', '.join(names)}: {held:,} numbers once hardened" for names, held in self.learning]
        lines += [f"  skipped {', '.join(s.names)}: {s.reason}" for s in self.skipped]
        return "\n".join(lines)


def swap_(model: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put other modules in the place of those of these names, under all names that each one has.

    Args:
        model: changed in place.
        replacements: the new module for each qualified name. One name of a tied module is enough; two names of it
            must not ask for two different modules.

    Raises:
        ArgumentError: if the model has no module of a name, or the name is that of the model itself. Whatever is
            raised, nothing is swapped then.

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
    done: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for parent in list(model.modules()):
            for key, child in list(parent._modules.items()):
                if child in new:
                    done.append((parent, key, child))
                    setattr(parent, key, new[child])
    except BaseException:  # all or none, whatever a module of the user's says to it
        for parent, key, child in done:
            parent._modules[key] = child
        raise
    settle_hosts_(model)


def replace_linear_(
    model: nn.Module,
    structure: Structure | Rule,
    filter_fn: Filter | None = None,
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
        filter_fn: which layers to replace: a function of the module and its first qualified name, or patterns of names
            (``"*.mlp.*"``, ``"!head"``), which must each match something; all if not given.
        kinds: ``"linear"``, ``"conv2d"`` or both.

    Returns:
        What was replaced, and what was skipped and why: layers that have a forward of their own, hooks,
        parametrizations or quantised weights, that share a weight with another module, that a parent never calls
        (``nn.MultiheadAttention``), or whose shape the structure does not have.

    Raises:
        ArgumentError: if the model is itself a layer, a pattern matches nothing, or a kind is unknown.
        DtypeError: if the structure is none, or the model is no module.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> print(km.replace_linear_(model, km.Monarch(4), lambda module, name: name == "0"))
        1 layer replaced, 65,536 -> 32,768 numbers (50.0%)
    """
    unknown = [kind for kind in kinds if kind not in get_args(Kind)]
    if isinstance(kinds, str) or unknown:
        way_out = f"pass a tuple of {get_args(Kind)}"
        raise ArgumentError(
            complaint("replace_linear_", "kinds", repr(kinds), "not kinds of layers", way_out)
        )
    if isinstance(structure, type) or not callable(structure):
        checked_structure("replace_linear_", structure)
    sites, skipped = survey(model, as_function("replace_linear_", model, filter_fn))
    if not sites and any("" in s.names for s in skipped):
        way_out = "make one with km.nn.Linear, or put it into a model: nn.Sequential(layer)"
        raise ArgumentError(
            complaint("replace_linear_", "model", type(model).__name__, "it is itself the layer", way_out)
        )
    new: dict[str, nn.Module] = {}
    before = after = 0
    replaced, larger, learning = [], [], []
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
        dense, now = site.module.get_parameter("weight").numel(), layer.matrix.num_params
        if isinstance(layer.matrix, GaudiMatrix):
            learning.append((site.names, layer.matrix.structure.hardened.num_params(*site.shape)))
        elif now > dense:
            larger.append(site.names)
        before, after = before + dense, after + now
    swap_(model, new)
    return Replacement(tuple(replaced), tuple(skipped), before, after, tuple(larger), tuple(learning))


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


def open_attention_(model: nn.Module, filter_fn: Filter | None = None) -> list[str]:
    """Give the projections of every ``nn.MultiheadAttention`` layers of their own, so that they can be swapped.

    The function of the model stays the same; names of parameters change (``in_proj_weight`` becomes
    ``q_proj.weight``, ``k_proj.weight`` and ``v_proj.weight``).

    Args:
        model: changed in place.
        filter_fn: which attentions to open, as for ``replace_linear_``; all if not given.

    Returns:
        The first name of each attention that was opened. Those with hooks, parametrizations or a class of their own
        stay as they are.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> model = nn.TransformerEncoderLayer(16, 2, batch_first=True)
        >>> km.nn.open_attention_(model), len(km.nn.linear_like(model))
        (['self_attn'], 6)
    """
    meant = as_function("open_attention_", model, filter_fn)
    new: dict[str, nn.Module] = {}
    for module, names in by_module(model):
        if "" not in names and meant(module, names[0]):
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

    Raises:
        ArgumentError: if the model is itself a layer, or hooks are attached to one; nothing is changed then.

    Example:
        >>> import torch.nn as nn, kmatrix as km
        >>> model = nn.Sequential(km.nn.Linear(8, 8, structure=km.LowRank(rank=2)))
        >>> km.densify_(model), type(model[0])
        (['0'], <class 'torch.nn.modules.linear.Linear'>)
    """
    check_module("densify_", model)
    new: dict[str, nn.Module] = {}
    weights: dict[nn.Module, nn.Parameter] = {}
    for module, names in by_module(model):
        if isinstance(module, Linear | Conv2d | Embedding):
            if "" in names:
                way_out = "use km.nn.dense_layer(layer), which gives the dense layer back"
                raise ArgumentError(
                    complaint("densify_", "model", type(module).__name__, "a layer itself", way_out)
                )
            if hooked(module):
                way_out = "remove them first, and attach them to the new layer"
                reason = "hooks are attached to it, which would be lost"
                raise ArgumentError(complaint("densify_", "model", names[0], reason, way_out))
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
