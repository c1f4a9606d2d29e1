"""Structured layers as plain descriptions, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from kmatrix._errors import ArgumentError, complaint
from kmatrix.compress._folder import Folder
from kmatrix.compress.lower import is_lowered
from kmatrix.nn import Conv2d, Embedding, Linear, MultiheadAttention
from kmatrix.structures._safetensors import Unreadable, is_size, short
from kmatrix.structures._schema import Families, families_with
from kmatrix.structures._tree import NODE_KEYS, claims, decode, encode
from kmatrix.structures.base import Structure, StructuredMatrix

_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")
_MOST_PIXELS = 2**16


def structured_layers(model: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """The structured layers of a model, what is inside them left out, each once with all its names.

    Raises:
        ArgumentError: if a module of kmatrix, or one that ``lower_`` made, is none that can be saved.
    """
    found: dict[nn.Module, list[str]] = {}
    outer = None
    for name, module in model.named_modules(remove_duplicate=False):
        if outer is not None and (outer == "" or name.startswith(f"{outer}.")):
            continue
        if is_lowered(module):
            reason, way_out = "it was lowered", "save before km.lower_, and lower again after km.load_model"
            raise ArgumentError(complaint("save", "model", name, reason, way_out))
        if not type(module).__module__.startswith("kmatrix.") and not isinstance(module, StructuredMatrix):
            continue
        if not isinstance(module, MultiheadAttention):
            outer = name
        found.setdefault(module, []).append(name)
    for module, names in found.items():
        if "" in names:
            reason, way_out = "a structured layer itself", "save a model that holds it: nn.Sequential(layer)"
            raise ArgumentError(complaint("save", "model", type(module).__name__, reason, way_out))
        yield tuple(names), module


def described(names: tuple[str, ...], layer: nn.Module, own: list[type[Structure]]) -> dict[str, Any]:
    """A layer in plain JSON values; structure classes that are not of kmatrix are added to ``own``.

    Raises:
        ArgumentError: if it is of a class that is not saved, or holds other parameters than its class makes.
    """
    made: dict[str, Any] = {"names": list(names)}
    if isinstance(layer, MultiheadAttention):
        return {**made, "kind": "attention"}
    if not isinstance(layer, StructuredMatrix | Linear | Conv2d | Embedding):
        reason = f"a {type(layer).__name__} is not saved"
        way_out = "finish the guidance of training first, or save its state_dict()"
        raise ArgumentError(complaint("save", "model", names[0], reason, way_out))
    matrix = layer if isinstance(layer, StructuredMatrix) else layer.matrix
    made["matrix"] = encode(matrix, own)
    _check_names(names[0], matrix, made["matrix"], own)
    if isinstance(layer, StructuredMatrix):
        return {**made, "kind": "matrix"}
    if isinstance(layer, Embedding):
        return {**made, "kind": "embedding", "padding_idx": layer.padding_idx}
    made["bias"] = layer.bias is not None
    if isinstance(layer, Linear):
        return {**made, "kind": "linear"}
    geometry = {name: getattr(layer, name) for name in (*_GEOMETRY, "groups", "padding_mode")}
    return {
        **made,
        "kind": "conv2d",
        **{k: list(v) if isinstance(v, tuple) else v for k, v in geometry.items()},
    }


def _check_names(
    name: str, matrix: StructuredMatrix, node: dict[str, Any], own: list[type[Structure]]
) -> None:
    """Raise if loading would make parameters of other names, as of a matrix with a parametrization."""
    numel = sum(tensor.numel() for tensor in matrix.state_dict().values())
    try:
        again = decode(node, numel, "meta", families_with("save", own, NODE_KEYS))
    except Unreadable as problem:
        raise ArgumentError(
            complaint("save", "model", name, problem.reason, "save its state_dict() instead")
        ) from None
    has = {key: (t.dtype, t.shape) for key, t in matrix.state_dict().items()}
    if has != {key: (t.dtype, t.shape) for key, t in again.state_dict().items()}:
        reason = "its numbers are computed from others, as by a cap on their size or a parametrization"
        way_out = "take that off first, for example with km.nn.remove_rms_caps_(model)"
        raise ArgumentError(complaint("save", "model", name, reason, way_out))


def made_layer(description: dict[str, Any], folder: Folder, families: Families) -> nn.Module | None:
    """The layer that a description stands for, without numbers; None for an attention, which is opened and not made.

    Raises:
        Unreadable: if the description is not one that ``described`` gives, or the folder lacks its numbers.
    """
    kind, name = description["kind"], description["names"][0]
    if kind == "attention":
        return None
    matrix = decode(description["matrix"], folder.header.numel, "meta", families)
    kept = matrix.state_dict()
    if any(key not in kept and buffer.numel() for key, buffer in matrix.named_buffers()):
        # A class of the user's computes buffers that are not stored.
        _check_tensors(name if kind == "matrix" else f"{name}.matrix", matrix, folder)
        matrix = decode(description["matrix"], folder.header.numel, "cpu", families)
    with claims():
        layer = _assembled(description, matrix)
    _check_tensors(name, layer, folder)
    return layer


def _assembled(description: dict[str, Any], matrix: StructuredMatrix) -> nn.Module:
    kind = description["kind"]
    if kind == "matrix":
        return matrix
    if kind == "embedding":
        index = description["padding_idx"]
        if index is not None and not is_size(index):
            raise Unreadable(f"a padding_idx is {short(index)}")
        return Embedding.from_matrix(matrix, index)
    if not isinstance(description["bias"], bool):
        raise Unreadable(f"a bias is {short(description['bias'])}")
    bias = torch.empty(matrix.shape[0], dtype=matrix.dtype, device="meta") if description["bias"] else None
    stored = None if bias is None else nn.Parameter(torch.view_as_real(bias) if bias.is_complex() else bias)
    if kind == "linear":
        return Linear.from_matrix(matrix, stored)
    geometry = {name: _pair(name, description[name]) for name in _GEOMETRY}
    groups, mode = description["groups"], description["padding_mode"]
    if not is_size(groups) or not isinstance(mode, str):
        raise Unreadable(f"a convolution has {short(groups)} groups and pads by {short(mode)}")
    layer = Conv2d.from_matrix(matrix, groups=groups, bias=stored, padding_mode=cast(Any, mode), **geometry)
    if layer.in_channels % groups or layer.out_channels % groups:
        raise Unreadable(f"a convolution has {groups} groups")
    return layer


def _pair(name: str, value: object) -> Any:
    if name == "padding" and isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 2 and all(is_size(side, _MOST_PIXELS) for side in value):
        return tuple(value)
    raise Unreadable(f"the {name} of a convolution is {short(value)}")


def _check_tensors(name: str, layer: nn.Module, folder: Folder) -> None:
    """Raise unless the folder holds the numbers of a layer."""
    for key, tensor in layer.state_dict().items():
        whole = f"{name}.{key}"
        source = folder.stored(whole)
        entry = None if source is None else folder.header.tensors[source]
        got = None if entry is None else (entry.dtype, entry.shape)
        if got != (tensor.dtype, tuple(tensor.shape)):
            wanted = (tensor.dtype, tuple(tensor.shape))
            raise Unreadable(f"tensor {short(whole)} is {short(got or 'absent')}, the structure has {wanted}")


def unwrapped(model: nn.Module) -> nn.Module:
    """What is inside a module that only runs another one."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = model._modules.get("_orig_mod")  # as torch.compile has it
    return model if inner is None else unwrapped(inner)


def distinct_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model, each once, and for every other name that of the one it shares its numbers with."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or type(tensor) not in (Tensor, nn.Parameter):
            reason = f"it is a {type(tensor).__name__}, not an ordinary tensor"
            way_out = "save before quantising or distributing; keep other state in buffers"
            raise ArgumentError(complaint("save", "model", name, reason, way_out))
        if tensor.layout is not torch.strided:
            reason, way_out = f"its layout is {tensor.layout}", "make it dense with .to_dense()"
            raise ArgumentError(complaint("save", "model", name, reason, way_out))
        key = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        first = seen.setdefault(key, name) if tensor.numel() and not tensor.is_meta else name
        if first == name:
            tensors[name] = tensor
        else:
            aliases[name] = first
    return tensors, aliases
