"""``lower_``: a model of structured layers as one of stock modules, to be exported or quantised by anybody's tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from kmatrix._checks import check_module
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix._tables import Sheet, counted
from kmatrix.compress.export import stock_module
from kmatrix.compress.programs import Blocks, Form, check_choice, program_of
from kmatrix.compress.stock import convolution, dense_attention, embedding
from kmatrix.nn import Conv2d, Embedding, Linear, MultiheadAttention, swap_
from kmatrix.nn._layer import MatrixLayer
from kmatrix.nn.filters import Filter, as_function
from kmatrix.structures.base import StructuredMatrix

if TYPE_CHECKING:
    from rich.console import Group

Attention = Literal["factors", "dense"]
_PROBES = 4
_MARK = "_structured_before"  # on rows of layers, for km.save


@dataclass(frozen=True)
class LoweredLayer:
    """What became of one layer.

    Attributes:
        names: every qualified name of the layer.
        structure: the structure it had.
        form: the stock modules it consists of now, in order of application.
        num_params: numbers in its matrix before, without the bias.
        num_params_after: numbers in its stock modules, without the bias.
        error: largest difference between its outputs before and after, for four random inputs, relative to the largest
            output: rounding, as every form is exact. NaN on the meta device.
        note: why the form is what it is, where that is not the rule.
    """

    names: tuple[str, ...]
    structure: str
    form: str
    num_params: int
    num_params_after: int
    error: float
    note: str


@dataclass(frozen=True)
class LoweringReport:
    """What ``lower_`` did, layer by layer.

    Attributes:
        layers: one entry for each layer, tied ones once.
    """

    layers: tuple[LoweredLayer, ...]

    @property
    def headline(self) -> str:
        """The outcome in a line."""
        return f"{counted(len(self.layers), 'layer')} lowered"

    def sheet(self) -> Sheet:
        """One line per layer: what it was and is, its numbers before and after, and the measured error."""
        rows = [
            (
                ", ".join(layer.names),
                f"{layer.num_params:,}",
                f"{layer.num_params_after:,}",
                f"{layer.error:.1e}",
                f"{layer.structure} -> {layer.form}" + (f" ({layer.note})" if layer.note else ""),
            )
            for layer in self.layers
        ]
        return Sheet(("layer", "#numbers", "#now", "#error", "what it was, and is"), rows)

    def __str__(self) -> str:
        return f"{self.headline}\n\n{self.sheet()}" if self.layers else self.headline

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(self.headline, "", self.sheet())


def lower_(
    model: nn.Module,
    filter_fn: Filter | None = None,
    *,
    form: Form = "auto",
    blocks: Blocks = "auto",
    attention: Attention = "factors",
) -> LoweringReport:
    """Turn every structured layer of a model into stock modules that compute the same, up to rounding.

    What is left are ``nn.Linear``, grouped ``nn.Conv1d`` and ``nn.Conv2d``, ``nn.Sequential``, and
    ``torch.fx.GraphModule`` with reshapes, permutations, selections, padding and sums: no class and no operator of
    kmatrix, so that ``torch.export``, ONNX, quantisation and pickles need nothing of it. A factor of one block is an
    ``nn.Linear``; the blocks of others are an ``nn.Linear`` each, or together a grouped 1 x 1 convolution. Structures
    that have no chain of real factors (those that go by FFT, relaxed permutations, sparse matrices) become dense.
    Layers can be trained on, but their numbers are free then: what tied them, such as angles, is gone.

    Args:
        model: changed in place.
        filter_fn: which structured layers to lower, as for ``km.replace_linear_``; all if not given.
        form: ``"auto"`` multiplies narrow factors out to wider ones, and everything where the factors would take no
            fewer products than the dense matrix; ``"factors"`` keeps the factors as they are; ``"dense"`` multiplies
            everything out.
        blocks: ``"linear"`` makes a linear layer of every block, so that quantisation reaches it; ``"conv"`` one
            convolution of all; ``"auto"`` linear layers up to 16 blocks, where they are the faster of the two.
        attention: ``"factors"`` lowers the projections of a ``km.nn.MultiheadAttention``, and leaves the module that
            calls them: no module of torch calls layers for that. ``"dense"`` makes an ``nn.MultiheadAttention`` of it,
            with dense weights.

    Returns:
        What became of each layer, with the measured error.

    Raises:
        ArgumentError: if the model is itself a structured layer, or holds a module of kmatrix that has no stock form
            (a layer with a guide beside it), or an option is unknown; nothing is changed then.
        DtypeError: if a structured layer is complex; nothing is changed then.

    Example:
        >>> import torch, kmatrix as km
        >>> model = torch.nn.Sequential(km.nn.Linear(64, 64, structure=km.LowRank(4)), torch.nn.ReLU())
        >>> report = km.lower_(model)
        >>> report.layers[0].form, model[0]
        ('Linear(64, 4), Linear(4, 64)', Sequential(
          (0): Linear(in_features=64, out_features=4, bias=False)
          (1): Linear(in_features=4, out_features=64, bias=True)
        ))
    """
    check_module("lower_", model)
    new: dict[str, nn.Module] = {}
    layers = []
    check_choice("attention", attention, get_args(Attention))
    for names, module in _structured(model, filter_fn, attention):
        chosen, note = form, ""
        if any(isinstance(_parent(model, name), nn.MultiheadAttention) for name in names):
            chosen, note = "dense", "nn.MultiheadAttention multiplies by its weight itself"
        new[names[0]], layer = _lowered(names, module, chosen, blocks, note)
        layers.append(layer)
    swap_(model, new)
    return LoweringReport(tuple(layers))


def stock_layer(layer: nn.Module, *, form: Form = "auto", blocks: Blocks = "auto") -> nn.Module:
    """One structured layer, or structured matrix, as stock modules; as ``lower_``, which swaps them in a model.

    Args:
        layer: a ``km.nn.Linear``, ``Conv2d`` or ``Embedding``, or a ``StructuredMatrix``; not changed.
        form: as for ``lower_``.
        blocks: as for ``lower_``.

    Example:
        >>> import kmatrix as km
        >>> from kmatrix.compress import stock_layer
        >>> stock_layer(km.Dense().random(2, 3))
        Linear(in_features=3, out_features=2, bias=False)
    """
    return _lowered(("layer",), layer, form, blocks)[0]


def _structured(
    model: nn.Module, filter_fn: Filter | None, attention: Attention
) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """The structured layers of a model, those inside others left out, each once with all its names."""
    meant = as_function("lower_", model, filter_fn)
    found: dict[nn.Module, list[str]] = {}
    outer = None
    for name, module in model.named_modules(remove_duplicate=False):
        if outer is not None and (outer == "" or name.startswith(f"{outer}.")):
            continue
        if not type(module).__module__.startswith("kmatrix."):
            continue
        if isinstance(module, MultiheadAttention) and attention == "factors":
            continue
        outer = name
        found.setdefault(module, []).append(name)
    for module, names in found.items():
        if not meant(module, names[0]):
            continue
        if "" in names:
            reason, way_out = "a structured layer itself", "lower a model that holds it: nn.Sequential(layer)"
            raise ArgumentError(complaint("lower_", "model", type(module).__name__, reason, way_out))
        yield tuple(names), module


def _lowered(
    names: tuple[str, ...], layer: nn.Module, form: Form, blocks: Blocks, note: str = ""
) -> tuple[nn.Module, LoweredLayer]:
    """The stock modules for one layer, and what to report of it."""
    where, kind = names[0], type(layer).__name__
    if isinstance(layer, MultiheadAttention):
        return _attention(names, layer)
    if not isinstance(layer, StructuredMatrix | Linear | Conv2d | Embedding):
        reason, way_out = f"a {kind} has no stock form", "leave it out with filter_fn, or replace it first"
        raise ArgumentError(complaint("lower_", "model", where, reason, way_out))
    matrix = layer if isinstance(layer, StructuredMatrix) else layer.matrix
    if matrix.dtype.is_complex:
        reason, way_out = "its matrix is complex, stock layers are real", "leave it out with filter_fn"
        raise DtypeError(complaint("lower_", "model", where, reason, way_out))
    bias = layer.bias.detach().clone() if isinstance(layer, MatrixLayer) and layer.bias is not None else None
    program = program_of(matrix, form, blocks)
    if isinstance(layer, Conv2d):
        made = convolution(layer, program, bias)
    elif isinstance(layer, Embedding):
        made, program = embedding(layer, program, blocks)
    else:
        made = stock_module(program, bias)
    made.train(layer.training).requires_grad_(any(p.requires_grad for p in layer.parameters()))
    if isinstance(made, nn.Sequential):
        setattr(made, _MARK, True)
    after = sum(p.numel() for p in made.parameters()) - (0 if bias is None else bias.numel())
    forms, error = ", ".join(_forms(made)), _error(layer, made)
    structure = str(matrix.structure)
    return made, LoweredLayer(names, structure, forms, matrix.num_params, after, error, note or program.note)


def _attention(names: tuple[str, ...], layer: MultiheadAttention) -> tuple[nn.Module, LoweredLayer]:
    projections = [layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj]
    structured = [p for p in projections if isinstance(p, Linear)]
    structures = ", ".join(dict.fromkeys(str(p.structure) for p in structured))
    dense = sum(cast(Tensor, p.weight).numel() for p in projections)
    saved = sum(p.in_features * p.out_features - p.matrix.num_params for p in structured)
    made = dense_attention(layer).train(layer.training)
    made.requires_grad_(any(p.requires_grad for p in layer.parameters()))
    note = "nn.MultiheadAttention has dense weights"
    return made, LoweredLayer(
        names, structures, "MultiheadAttention", dense - saved, dense, float("nan"), note
    )


def _forms(module: nn.Module) -> Iterator[str]:
    """The stock modules with numbers, in order of application; runs of like ones once with their count."""
    words = []
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            words.append(f"Embedding({part.num_embeddings}, {part.embedding_dim})")
        elif isinstance(part, nn.Linear):
            words.append(f"Linear({part.in_features}, {part.out_features})")
        elif isinstance(part, nn.Conv1d | nn.Conv2d):
            groups = f", groups={part.groups}" if part.groups > 1 else ""
            words.append(f"{type(part).__name__}({part.in_channels}, {part.out_channels}{groups})")
    for word, run in groupby(words):
        count = len(list(run))
        yield word if count == 1 else f"{count} x {word}"
    if not words:
        yield "index_select"


def _error(layer: StructuredMatrix | MatrixLayer | Embedding, made: nn.Module) -> float:
    """Largest difference of the outputs for a few random inputs, relative to the largest output."""
    matrix = layer if isinstance(layer, StructuredMatrix) else layer.matrix
    if matrix.device.type == "meta":
        return float("nan")
    generator = torch.Generator().manual_seed(0)
    shape: tuple[int, ...] = (_PROBES, matrix.shape[1])
    if isinstance(layer, Conv2d):
        sides = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        shape = (_PROBES, layer.in_channels, *sides)
    if isinstance(layer, Embedding):
        x = torch.randint(matrix.shape[0], (_PROBES,), generator=generator).to(matrix.device)
    else:
        x = torch.randn(shape, generator=generator).to(matrix.device, matrix.dtype)
    with torch.no_grad():
        before, after = layer(x).double(), made(x).double()
    largest, difference = float(before.abs().max()), float((before - after).abs().max())
    return difference / largest if largest else difference


def is_lowered(module: nn.Module) -> bool:
    """Whether ``lower_`` made this module, and it is not an ordinary layer."""
    # Names of children are all that copies and pickles keep of a traced module.
    if isinstance(module, GraphModule):
        return "lowered" in module._modules or "inner" in module._modules
    return vars(module).get(_MARK) is True


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])
