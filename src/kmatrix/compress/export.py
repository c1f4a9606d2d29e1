"""Chains as stock modules: linear layers, grouped convolutions, reshapes, permutations, selections and sums.

A ``Program`` says what a lowered layer computes; ``stock_module`` makes it of modules of torch, where no class and no
operator of kmatrix is left. What is more than a row of layers becomes a ``torch.fx.GraphModule``: its code is plain
torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from kmatrix.structures.layout import Factor


@dataclass(frozen=True, eq=False)
class Blockwise:
    """A factor with its numbers, and whether its blocks become linear layers or one grouped convolution.

    Attributes:
        factor: pattern and tying.
        linear: linear layers, one for each block that has numbers of its own.
        weight: of shape ``factor.weight_shape``, real.
    """

    factor: Factor
    linear: bool
    weight: Tensor

    @property
    def cols(self) -> int:
        """Length of the vectors it takes."""
        return self.factor.cols

    @property
    def rows(self) -> int:
        """Length of the vectors it gives."""
        return self.factor.rows

    @property
    def blocks(self) -> int:
        """How many blocks with numbers of their own."""
        a, _, _, d = self.factor.weight_shape
        return a * d

    @property
    def num_params(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.factor.weight_shape)

    @property
    def products(self) -> int:
        """How many products of numbers one vector takes."""
        return self.factor.pattern.numel

    @property
    def is_plain(self) -> bool:
        """Whether it is one linear layer on whole vectors."""
        return self.linear and self.factor.a == self.factor.d == 1


@dataclass(frozen=True, eq=False)
class Select:
    """Entries of a vector of length ``cols``: ``y = x[index]``."""

    cols: int
    index: Tensor
    num_params = products = 0

    @property
    def rows(self) -> int:
        """Length of the vectors it gives."""
        return len(self.index)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Linear layers side by side, each on some entries of the vector; their results one after the other.

    Attributes:
        cols: length of the vectors it takes.
        indices: the entries that each layer takes, int64.
        weights: of each layer ``(its rows, its entries)``, real.
    """

    cols: int
    indices: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    @property
    def rows(self) -> int:
        """Length of the vectors it gives."""
        return sum(len(weight) for weight in self.weights)

    @property
    def num_params(self) -> int:
        """How many numbers it holds."""
        return sum(weight.numel() for weight in self.weights)

    products = num_params


@dataclass(frozen=True, eq=False)
class Branches:
    """Programs that take the same vector; their results are added."""

    programs: tuple[Program, ...]

    @property
    def num_params(self) -> int:
        """How many numbers they multiply by."""
        return sum(program.num_params for program in self.programs)

    @property
    def products(self) -> int:
        """How many products of numbers one vector takes."""
        return sum(program.products for program in self.programs)

    @property
    def cols(self) -> int:
        """Length of the vectors it takes."""
        return self.programs[0].cols

    @property
    def rows(self) -> int:
        """Length of the vectors it gives."""
        return self.programs[0].rows


Step = Blockwise | Select | Pieces | Branches


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order of application; before each, and at the end, vectors are filled up with zeros or cut to size.

    Attributes:
        cols: length of the vectors it takes.
        rows: length of the vectors it gives.
        steps: what it does.
        note: why it is dense, where the matrix has a structure.
    """

    cols: int
    rows: int
    steps: tuple[Step, ...]
    note: str = ""

    @property
    def num_params(self) -> int:
        """How many numbers it multiplies by."""
        return sum(step.num_params for step in self.steps)

    @property
    def products(self) -> int:
        """How many products of numbers one vector takes."""
        return sum(step.products for step in self.steps)

    @property
    def fits(self) -> bool:
        """Whether every step takes as much as it is given: nothing to fill up, nothing to cut."""
        sizes = [self.cols, *(size for s in self.steps for size in (s.cols, s.rows)), self.rows]
        return all(sizes[i] == sizes[i + 1] for i in range(0, len(sizes), 2))

    @property
    def is_blocks(self) -> bool:
        """Whether it is a row of matrices of blocks on a diagonal, each with numbers of its own."""
        return self.fits and all(
            isinstance(s, Blockwise) and s.factor.d == 1 and s.blocks == s.factor.a for s in self.steps
        )

    @property
    def is_plain(self) -> bool:
        """Whether it is a row of linear layers on whole vectors."""
        return self.is_blocks and all(isinstance(s, Blockwise) and s.is_plain for s in self.steps)


def stock_module(program: Program, bias: Tensor | None = None) -> nn.Module:
    """Modules of torch that compute a program: one linear layer, a row of them, or a traced graph.

    Args:
        program: what to compute.
        bias: added at the end, of shape ``(rows,)``.

    Returns:
        The module, ``(*, cols) -> (*, rows)``; it holds the tensors of the program as its own parameters and buffers.

    Example:
        >>> import torch
        >>> from kmatrix.structures.layout import Factor
        >>> blocks = Blockwise(Factor(2, 1, 2, 1), True, torch.ones(2, 1, 2, 1))
        >>> module = stock_module(Program(4, 2, (blocks,)))
        >>> module(torch.arange(4.0)).tolist()
        [1.0, 5.0]
    """
    if program.is_plain:
        *first, last = (step for step in program.steps if isinstance(step, Blockwise))
        layers = [_linear(step.weight[0, :, :, 0]) for step in first]
        layers.append(_linear(last.weight[0, :, :, 0], bias))
        return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    return traced(Lowered(program, bias))


def traced(module: nn.Module) -> GraphModule:
    """The module as a graph of stock modules and plain torch, which can be copied and pickled without its class."""
    made = symbolic_trace(module)
    for node in made.graph.nodes:
        node.type = None  # annotations are strings here, which do not pickle
    made.recompile()
    return made


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


class Lowered(nn.Module):
    """A program as what is traced and then thrown away.

    Vectors are kept as rows, or as columns where a convolution wants them.
    """

    def __init__(self, program: Program, bias: Tensor | None) -> None:
        super().__init__()
        self._program = program
        self.lowered = nn.ModuleList(_holder(step) for step in program.steps)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        program = self._program
        if not _has_convolution(program):
            y, _ = _run(self.lowered, program, x, False)
            return y if self.bias is None else y + self.bias
        lead = x.shape[:-1]
        y, columns = _run(self.lowered, program, x.reshape(-1, program.cols), False)
        y = y.transpose(0, 1) if columns else y
        y = y if self.bias is None else y + self.bias
        return y.reshape(lead + (program.rows,))  # noqa: RUF005  # a traced shape cannot be unpacked


def _has_convolution(program: Program) -> bool:
    return any(
        (isinstance(s, Blockwise) and not s.linear)
        or (isinstance(s, Branches) and any(map(_has_convolution, s.programs)))
        for s in program.steps
    )


def _holder(step: Step) -> nn.Module:
    """The modules that hold the numbers of a step."""
    if isinstance(step, Select):
        holder = nn.Module()
        holder.register_buffer("index", step.index)
        return holder
    if isinstance(step, Pieces):
        return nn.ModuleList(_piece(*piece) for piece in zip(step.indices, step.weights, strict=True))
    if isinstance(step, Branches):
        return nn.ModuleList(nn.ModuleList(_holder(s) for s in program.steps) for program in step.programs)
    _, b, c, _ = step.factor.weight_shape
    blocks = step.weight.permute(0, 3, 1, 2).reshape(step.blocks, b, c)
    if step.linear:
        return nn.ModuleList(_linear(block) for block in blocks.contiguous().unbind())
    layer = nn.Conv1d(step.blocks * c, step.blocks * b, 1, groups=step.blocks, bias=False, device="meta")
    layer.weight = nn.Parameter(blocks.reshape(step.blocks * b, c, 1))
    return layer


def _run(holders: nn.ModuleList, program: Program, x: Tensor, columns: bool) -> tuple[Tensor, bool]:
    """The program on rows ``(*, cols)`` or columns ``(cols, batch)``; what comes out, and whether it is columns."""
    size = program.cols
    for holder, step in zip(holders, program.steps, strict=True):
        x = _fitted(x, size, step.cols, columns)
        size = step.rows
        if isinstance(step, Select):
            x = x.index_select(0 if columns else -1, holder.get_buffer("index"))
        elif isinstance(step, Branches):
            x = _summed(holder, step, x, columns)
        elif isinstance(step, Pieces):
            x, columns = x.transpose(0, 1) if columns else x, False
            x = _through_pieces(holder, step, x)
        else:
            if columns == step.linear:
                x, columns = x.transpose(0, 1), not columns
            through = _through_linear if step.linear else _through_convolution
            x = through(holder, step, x)
    return _fitted(x, size, program.rows, columns), columns


def _fitted(x: Tensor, size: int, wanted: int, columns: bool) -> Tensor:
    if size < wanted:
        return nn.functional.pad(x, (0, 0, 0, wanted - size) if columns else (0, wanted - size))
    return x if size == wanted else x.narrow(0 if columns else -1, 0, wanted)


def _summed(holders: nn.Module, step: Branches, x: Tensor, columns: bool) -> Tensor:
    results = []
    for holder, program in zip(holders.children(), step.programs, strict=True):
        y, turned = _run(cast(nn.ModuleList, holder), program, x, columns)
        results.append(y if turned == columns else y.transpose(0, 1))
    return reduce(torch.add, results)


def _piece(index: Tensor, weight: Tensor) -> nn.Module:
    """A linear layer, with the entries that it takes beside it where they are no slice."""
    layer = _linear(weight)
    if _slices(index) is not None:
        return layer
    holder = nn.Module()
    holder.register_buffer("index", index)
    holder.linear = layer
    return holder


def _slices(index: Tensor) -> list[tuple[int, int]] | None:
    """Entries as one slice, or two where they go over the end: ``(start, length)``; None where they are neither."""
    places = index.tolist()
    jumps = [k for k in range(1, len(places)) if places[k] != places[k - 1] + 1]
    if len(jumps) > 1 or (jumps and places[jumps[0]] != 0):
        return None
    cuts = [0, *jumps, len(places)]
    return [(places[a], b - a) for a, b in pairwise(cuts)]


def _through_pieces(holders: nn.Module, step: Pieces, x: Tensor) -> Tensor:
    """Each layer on its entries of rows ``(*, cols)``."""
    results = []
    for holder, index in zip(holders.children(), step.indices, strict=True):
        slices = _slices(index)
        if slices is None:
            part = x.index_select(-1, holder.get_buffer("index"))
            results.append(cast(nn.Module, holder.linear)(part))
            continue
        parts = [x if length == step.cols else x.narrow(-1, start, length) for start, length in slices]
        results.append(holder(parts[0] if len(parts) == 1 else torch.cat(parts, -1)))
    return results[0] if len(results) == 1 else torch.cat(results, -1)


def _through_linear(holder: nn.Module, step: Blockwise, x: Tensor) -> Tensor:
    """Each block as a linear layer on rows ``(*, cols)``."""
    layers = list(holder.children())
    a, b, c, d = step.factor.pattern
    turned = d > 1 or (step.blocks == 1 and a > 1)
    if turned:  # (*, a, d, c)
        x = torch.unflatten(x, -1, (a, c, d)).transpose(-1, -2)
    if step.blocks == 1:
        y: Tensor = layers[0](x)
    elif "a" in step.factor.tie and a > 1:
        y = _each(layers, x.unbind(-2), -2)
    elif "d" in step.factor.tie and d > 1:
        y = _each(layers, x.unbind(-3), -3)
    else:
        parts = torch.split(x.flatten(-3) if turned else x, c, -1)
        y = torch.cat([layer(parts[k]) for k, layer in enumerate(layers)], -1)
        y = torch.unflatten(y, -1, (a, d, b)) if turned else y
    return y.transpose(-1, -2).flatten(-3) if turned else y


def _each(layers: Sequence[nn.Module], parts: Sequence[Tensor], axis: int) -> Tensor:
    return torch.stack([layer(parts[k]) for k, layer in enumerate(layers)], axis)


def _through_convolution(layer: nn.Module, step: Blockwise, x: Tensor) -> Tensor:
    """All blocks as one grouped convolution on columns ``(cols, batch)``; axes that share numbers join the batch."""
    a, b, c, d = step.factor.pattern
    ga, _, _, gd = step.factor.weight_shape
    if d == 1 and ga == a:
        y: Tensor = layer(x.unsqueeze(0))
        return y.squeeze(0)
    ta, td = a // ga, d // gd
    # One of ga and ta is 1, and one of gd and td.
    x = x.reshape(ga, ta, c, gd, td, -1).permute(0, 3, 2, 1, 4, 5).reshape(1, step.blocks * c, -1)
    y = layer(x)
    return y.reshape(ga, gd, b, ta, td, -1).permute(0, 3, 2, 1, 4, 5).reshape(step.rows, -1)
