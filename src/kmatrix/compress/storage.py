"""Saving and loading whole models: a folder of numbers and structures, without pickle and without code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kmatrix._checks import check_path
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.compress._folder import Folder, opened_folder, write_folder
from kmatrix.compress._layers import described, distinct_tensors, made_layer, structured_layers, unwrapped
from kmatrix.nn import MultiheadAttention, swap_
from kmatrix.nn.hosts import opened
from kmatrix.structures import serialization
from kmatrix.structures._plain import SupportsJson, plain_certificate
from kmatrix.structures._safetensors import read_into, short
from kmatrix.structures._schema import families_with
from kmatrix.structures._tree import NODE_KEYS, claims
from kmatrix.structures.base import Structure, StructuredMatrix


@dataclass(frozen=True)
class SavedLayer:
    """A structured layer of a saved model.

    Attributes:
        names: every qualified name of the layer.
        kind: ``"linear"``, ``"conv2d"``, ``"embedding"``, or ``"matrix"`` for a matrix alone.
        structure: the class of its matrix.
        shape: shape of its matrix.
        dtype: number type.
        num_params: numbers in its matrix.
    """

    names: tuple[str, ...]
    kind: str
    structure: Structure
    shape: tuple[int, int]
    dtype: torch.dtype
    num_params: int


@dataclass(frozen=True)
class ModelDescription:
    """What a saved model is, from the headers of its files alone.

    Attributes:
        layers: its structured layers.
        num_params: all numbers in the file, shared ones once.
        tied: names of tensors that share the numbers of another one.
        file_bytes: size of the file of numbers.
        kmatrix_version: version of the library that wrote it.
        certificate: what ``save`` was given to keep beside the model.
    """

    layers: tuple[SavedLayer, ...]
    num_params: int
    tied: tuple[str, ...]
    file_bytes: int
    kmatrix_version: str
    certificate: dict[str, Any] | None


def save(
    model: nn.Module, path: str | Path, *, certificate: Mapping[str, Any] | SupportsJson | None = None
) -> None:
    """Write a structured matrix to a file, or a model to a folder: whole or not at all, numbers and structures alone.

    A ``StructuredMatrix`` goes to one safetensors file, which ``km.load`` reads. Any other module goes to a folder of
    two files: ``model.safetensors`` holds what its ``state_dict()`` holds, under the same names, and
    ``structure.json`` says which layers have which structure, and which names share their numbers, which are written
    once. ``km.load_model`` reads it, and any reader of safetensors the numbers. Old files stay until the new ones are
    complete.

    Args:
        model: the matrix or model; of a model in ``DistributedDataParallel`` or ``torch.compile``, what is inside.
        path: the file to write, or the folder, which is made if it is not there.
        certificate: plain JSON values to keep beside it, up to one MiB.

    Raises:
        ArgumentError: if a structure or number type has no plain form, the model holds something that is not saved
            (lowered or quantised layers, state that is no tensor), or the files cannot be written.
        DtypeError: if ``model`` is not a module, or ``path`` not the name of a file or folder.

    Example:
        >>> import tempfile, torch, kmatrix as km
        >>> def build():
        ...     return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> model = build()
        >>> _ = km.replace_linear_(model, km.Monarch(4), lambda module, name: name == "0")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     km.save(model, f"{folder}/small")
        ...     again = km.load_model(build, f"{folder}/small")
        >>> x = torch.randn(3, 64)
        >>> again[0].structure, torch.equal(model(x), again(x))
        (Monarch(nblocks=4, order=2), True)
    """
    if isinstance(model, StructuredMatrix):
        serialization.save(model, path, certificate=certificate)
        return
    if not isinstance(model, nn.Module):
        way_out = "pass a StructuredMatrix, or an nn.Module"
        raise DtypeError(complaint("save", "model", type(model).__name__, "not a module", way_out))
    path = check_path("save", "path", path)
    if path.suffix == ".safetensors":
        way_out = f"pass a name like {str(path.with_suffix(''))!r}"
        raise ArgumentError(
            complaint("save", "path", path, "a model goes to a folder, not to a file", way_out)
        )
    tensors, description = _plain(unwrapped(model))
    if certificate is not None:
        description["certificate"] = plain_certificate(certificate)
    try:
        write_folder(path, tensors, description)
    except ValueError as error:
        if isinstance(error, ArgumentError):
            raise
        reason, way_out = f"cannot be stored: {error}", "convert it, or save the state_dict() with torch.save"
        raise ArgumentError(complaint("save", "model", type(model).__name__, reason, way_out)) from None


def check_saveable(model: nn.Module) -> None:
    """Raise what ``save`` would, of all that does not depend on where; for those who work before they save."""
    _plain(unwrapped(model))


def _plain(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a model, and its description in plain JSON values."""
    own: list[type[Structure]] = []
    layers = [described(names, layer, own) for names, layer in structured_layers(model)]
    families_with("save", own, NODE_KEYS)
    tensors, aliases = distinct_tensors(model)
    version = serialization.library_version()
    return tensors, {"kmatrix_version": version, "layers": layers, "aliases": aliases}


def load_model(
    build: Callable[[], nn.Module],
    path: str | Path,
    *,
    device: torch.device | str | None = None,
    structures: Iterable[type[Structure]] = (),
) -> nn.Module:
    """Read a model that ``save`` wrote, into the model that a function of yours builds.

    The layers that the folder names are swapped for structured ones, which are not initialised, and all numbers are
    then those of the folder, in its number types. Names that shared their numbers share them again. Nothing is run
    but ``build``, and nothing allocated that the file does not hold.

    Args:
        build: makes the model as it was before layers were swapped, or the like of it with structured layers in it
            already; on the meta device if you like, as no number of it is kept but those of buffers that no
            ``state_dict()`` holds.
        path: the folder.
        device: where the model shall live; where ``build`` put it if not given, the CPU for the meta device.
        structures: structure classes of your own that the folder may name beside those of kmatrix.

    Returns:
        What ``build`` made, with other layers and numbers.

    Raises:
        FileFormatError: if a file is damaged, of an unknown version, not what it claims to be, or the two are not of
            one save.
        ArgumentError: if the folder cannot be read, or what ``build`` makes has other layers, names or shapes.
        DtypeError: if ``build`` is no function or makes no module, or ``path`` is not the name of a folder.
    """
    _check_build(build)
    families = families_with("load_model", structures, NODE_KEYS)
    with opened_folder("load_model", path) as folder:
        # Everything the files claim is checked before anything of the user's is run or allocated.
        layers = [(tuple(d["names"]), made_layer(d, folder, families)) for d in folder.layers]
        model = build()
        if not isinstance(model, nn.Module):
            got, way_out = type(model).__name__, "pass a function that returns the dense model"
            raise DtypeError(complaint("load_model", "build", got, "it makes no nn.Module", way_out))
        _put_in(model, layers)
        state = _read(model, folder, device)
        model.load_state_dict(state, strict=True, assign=True)
        _finish(model)
        with claims():
            for part in model.modules():
                if isinstance(part, StructuredMatrix):
                    part.check_state()
    return model if device is None else model.to(device)


def _check_build(build: object) -> None:
    """Raise unless it is something that can be called to build a model; a model itself can be called, too."""
    if isinstance(build, (str, Path)):
        reason, way_out = "a path, not a function", "pass the function first: km.load_model(build, path)"
        raise DtypeError(complaint("load_model", "build", repr(str(build)), reason, way_out))
    way_out = "pass the function that builds it"
    if isinstance(build, nn.Module):
        raise DtypeError(complaint("load_model", "build", type(build).__name__, "a model", way_out))
    if not callable(build):
        way_out = "pass a function that builds the dense model"
        raise DtypeError(complaint("load_model", "build", type(build).__name__, "no function", way_out))


def describe_model(path: str | Path, *, structures: Iterable[type[Structure]] = ()) -> ModelDescription:
    """Say what a saved model is, reading nothing but the headers of its files.

    Args:
        path: the folder.
        structures: as for ``load_model``.

    Raises:
        FileFormatError: as ``load_model``.
        ArgumentError: if the folder cannot be read.
        DtypeError: if ``path`` is not the name of a folder.
    """
    families = families_with("describe_model", structures, NODE_KEYS)
    with opened_folder("describe_model", path) as folder:
        layers = []
        for d in folder.layers:
            layer = made_layer(d, folder, families)
            matrix = layer if isinstance(layer, StructuredMatrix) else getattr(layer, "matrix", None)
            if isinstance(matrix, StructuredMatrix):
                names, kind = tuple(d["names"]), d["kind"]
                layers.append(
                    SavedLayer(names, kind, matrix.structure, matrix.shape, matrix.dtype, matrix.num_params)
                )
        return ModelDescription(
            tuple(layers),
            folder.header.numel,
            tuple(folder.aliases),
            folder.header.file_bytes,
            folder.kmatrix_version,
            folder.certificate,
        )


def _put_in(model: nn.Module, layers: list[tuple[tuple[str, ...], nn.Module | None]]) -> None:
    """Swap the layers in, without their numbers."""
    for names, layer in layers:
        if layer is None:
            _open_attention(model, names)
    modules = dict(model.named_modules(remove_duplicate=False))
    every: dict[nn.Module, set[str]] = {}
    for name, module in modules.items():
        every.setdefault(module, set()).add(name)
    new: dict[str, nn.Module] = {}
    for names, layer in layers:
        if layer is None:
            continue
        for name in names:
            if name not in modules:
                _mismatch(name, "the folder has a structured layer of this name, the model no module")
            if extra := every[modules[name]] - set(names):
                _mismatch(name, f"the model ties it to {', '.join(sorted(extra))}, the folder does not")
            new[name] = layer.train(modules[name].training)
        _keep_frozen(modules[names[0]], layer)
        _check_place(names[0], modules[names[0]], layer)
    for name in new:
        if any(name.startswith(f"{other}.") for other in new if other != name):
            _mismatch(name, "the folder has a structured layer inside another one")
    swap_(model, new)


def _open_attention(model: nn.Module, names: tuple[str, ...]) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        module = modules.get(name)
        if isinstance(module, MultiheadAttention):
            continue
        attention = None if module is None else opened(module)
        if attention is None:
            got = "no module" if module is None else f"a {type(module).__name__}"
            _mismatch(name, f"the folder has an attention of this name, the model {got}")
        else:
            swap_(model, {name: attention})


def _keep_frozen(before: nn.Module, layer: nn.Module) -> None:
    if not any(p.requires_grad for p in before.parameters()) and any(True for _ in before.parameters()):
        layer.requires_grad_(False)


def _check_place(name: str, before: nn.Module, layer: nn.Module) -> None:
    """Raise if a layer does not go where it would be put: another kind of layer, or other sizes."""
    sizes = ("in_features", "out_features", "in_channels", "out_channels", "num_embeddings", "embedding_dim")
    for size in sizes:
        had, has = getattr(before, size, None), getattr(layer, size, None)
        if isinstance(had, int) and had != has:
            of = "none" if has is None else has
            _mismatch(name, f"the model has {size}={had} there, the folder {of}")


def _mismatch(name: str, reason: str) -> None:
    way_out = "pass the function that builds the model as it was before layers were swapped"
    raise ArgumentError(complaint("load_model", "build", short(name), reason, way_out))


def _read(model: nn.Module, folder: Folder, device: torch.device | str | None) -> dict[str, Tensor]:
    """The numbers for every name of the model; a parameter is one object under all its names."""
    expected = model.state_dict(keep_vars=True)
    _check_names(expected, folder)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    made: dict[tuple[str, bool], Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, wanted in expected.items():
        source = folder.aliases.get(name, name)
        key = source, name in parameters
        if key not in made:
            entry = folder.header.tensors[source]
            read = torch.empty(entry.shape, dtype=entry.dtype)
            read_into(folder.file, folder.header, source, read)
            target = device if device is not None else "cpu" if wanted.is_meta else wanted.device
            read = read.to(target)
            made[key] = nn.Parameter(read, wanted.requires_grad) if key[1] else read
        state[name] = made[key]
    return state


def _check_names(expected: Mapping[str, Tensor], folder: Folder) -> None:
    """Raise unless model and folder have the same names, of the same shapes and kinds, and tie the same ones."""
    has = {*folder.header.tensors, *folder.aliases}
    missing, unexpected = sorted(set(expected) - has), sorted(has - set(expected))
    if missing or unexpected:
        reason = f"the folder lacks {short(missing)}" if missing else f"the model lacks {short(unexpected)}"
        _mismatch((missing or unexpected)[0], reason)
    first: dict[Tensor, str] = {}
    for name, wanted in expected.items():
        entry = folder.header.tensors[folder.aliases.get(name, name)]
        if entry.shape != tuple(wanted.shape):
            _mismatch(name, f"the model has shape {tuple(wanted.shape)}, the folder {entry.shape}")
        exact = (entry.dtype.is_floating_point, entry.dtype.is_complex)
        if exact != (wanted.dtype.is_floating_point, wanted.dtype.is_complex):
            _mismatch(name, f"the model has {wanted.dtype}, the folder {entry.dtype}")
        other = first.setdefault(wanted, name)
        if folder.aliases.get(other, other) != folder.aliases.get(name, name):
            _mismatch(name, f"the model ties it to {other}, the folder has two tensors")


def _finish(model: nn.Module) -> None:
    """Make the empty buffers of layers that were made without numbers; raise if others are left."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                if buffer.numel():
                    reason = (
                        f"a {type(module).__name__} keeps it out of its state_dict(), so no folder has it"
                    )
                    way_out = "build the model on a device with numbers"
                    raise ArgumentError(complaint("load_model", "build", name, reason, way_out))
                module._buffers[name] = torch.empty_like(buffer, device=_device(module))


def _device(module: nn.Module) -> torch.device:
    return next(
        (t.device for t in [*module.parameters(), *module.buffers()] if not t.is_meta), torch.device("cpu")
    )
