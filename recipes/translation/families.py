"""The linear layers of the decoder in each family, with as many numbers as one butterfly where the family allows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kmatrix as km

from ..common.toeplitz_like import ToeplitzLike
from .model import Translator

REPLACED = ("conv.linear1", "conv.linear2", "ffn.fc1", "ffn.fc2")
"""The four layers of each decoder layer that the paper replaces."""
PROJECTIONS = ("attention.q", "attention.k", "attention.v", "attention.out")


class Expanded(km.nn.Linear):
    """A layer that multiplies its matrix out for many vectors at once: for transforms of small sizes that is faster.

    Example:
        >>> Expanded(8, 12, structure=km.ACDC(2))(torch.randn(40, 8)).shape
        torch.Size([40, 12])
    """

    def forward(self, x: Tensor) -> Tensor:
        many = x.numel() > 2 * x.shape[-1] ** 2  # twice as many as the matrix has columns
        return F.linear(x, self.weight, self.bias) if many else super().forward(x)


def butterfly(m: int, n: int) -> km.Structure:
    """Class B as in the paper: more outputs than inputs are those of several butterflies of the inputs, stacked.

    Fewer outputs are a cropped butterfly of the size of the inputs, whose last two factors are multiplied out where
    that saves numbers: 2,048 fewer than in the paper from 1,024 to 512.
    """
    if m <= n or m % n or n & (n - 1):
        return km.Butterfly()
    stacks, levels = m // n, n.bit_length() - 1
    first = km.Factor(1, 2 * stacks, 2, n // 2)
    rest = [km.Factor(stacks * 2**k, 2, 2, n >> (k + 1)) for k in range(1, levels)]
    return km.Chain((first, *rest))


def _kaleidoscope(m: int, n: int) -> km.Structure:
    return km.Kaleidoscope()


def _low_rank(budget: Callable[[int, int], km.Structure]) -> Callable[[int, int], km.Structure]:
    return lambda m, n: km.LowRank(max(1, round(budget(m, n).num_params(m, n) / (m + n))))


def _block_circulant(m: int, n: int) -> km.Structure:
    share = m * n / butterfly(m, n).num_params(m, n)
    return km.BlockCirculant(min(m, n, 2 ** round(math.log2(share))))


def _copies(of: km.Structure, m: int, n: int) -> int:
    return max(1, round(butterfly(m, n).num_params(m, n) / of.num_params(m, n)))


@dataclass(frozen=True)
class Family:
    """A class of matrices that the four layers are taken from.

    Attributes:
        title: for tables.
        layer: makes a layer of a number of inputs and outputs.
        figure: the paper's BLEU and sentences per second (arXiv 2012.14966, Figure 5), None where it has none.
    """

    title: str
    layer: Callable[[int, int], nn.Module]
    figure: tuple[float, float] | None = None


def _of(
    structure: Callable[[int, int], km.Structure], kind: type[km.nn.Linear] = km.nn.Linear
) -> Callable[[int, int], nn.Module]:
    def layer(inputs: int, outputs: int) -> nn.Module:
        made = kind(inputs, outputs, structure=structure(outputs, inputs))
        nn.init.zeros_(made.bias)  # type: ignore[arg-type]
        return made

    return layer


def _toeplitz_like(m: int, n: int) -> km.Structure:
    budget = butterfly(m, n).num_params(m, n)
    return ToeplitzLike(max(1, round(budget / ToeplitzLike(1).num_params(m, n))))


def _fastfoods(inputs: int, outputs: int) -> nn.Module:
    """A sum of independent terms, together of the variance of one."""
    copies = _copies(km.Fastfood(), outputs, inputs)
    if copies == 1:
        return _of(lambda m, n: km.Fastfood(), Expanded)(inputs, outputs)
    layer = _of(lambda m, n: km.Sum((km.Fastfood(),) * copies), Expanded)(inputs, outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim > 1:  # the diagonals of a term, the last of which is applied last
                parameter[2] *= copies**-0.5
    return layer


FAMILIES: dict[str, Family] = {
    "b": Family("B, one butterfly", _of(butterfly), (34.20, 4.90)),
    "k": Family("K = BB*", _of(_kaleidoscope)),
    "low-rank": Family("low rank, as many as B", _of(_low_rank(butterfly)), (34.20, 5.29)),
    "low-rank-k": Family("low rank, as many as K", _of(_low_rank(_kaleidoscope))),
    "circulant": Family("blocks of circulants", _of(_block_circulant), (34.19, 4.31)),
    "toeplitz-like": Family("Toeplitz-like", _of(_toeplitz_like, Expanded), (34.46, 2.47)),
    "fastfood": Family("sum of Fastfood", _fastfoods, (34.19, 3.19)),
    "acdc": Family("ACDC", _of(lambda m, n: km.ACDC(_copies(km.ACDC(), m, n)), Expanded), (34.11, 2.15)),
}
DENSE = Family("dense", nn.Linear, (35.20, 3.60))


def replace(model: Translator, family: str, everywhere: bool = False) -> dict[str, Any]:
    """Put a family into the decoder; how many parameters the model and the replaced layers have comes back.

    Args:
        model: changed in place.
        family: a name of ``FAMILIES``, or ``"dense"`` for none.
        everywhere: whether the projections of attention and the output layer become structured, too.

    Returns:
        ``parameters`` of the model, ``layer_parameters`` of the layers that were replaced, biases included, and
        ``dense_layer_parameters`` that they had before.
    """
    before = after = 0
    make = FAMILIES.get(family, DENSE).layer
    paths = REPLACED + (PROJECTIONS if everywhere else ())
    for site, path in ((layer, path) for layer in model.layers for path in paths):
        old = site.get_submodule(path)
        before += count(old)
        if isinstance(old, nn.Linear) and family != "dense":
            site.set_submodule(path, make(old.in_features, old.out_features))
        after += count(site.get_submodule(path))
    if everywhere:
        before += count(model.output)
        if family != "dense":
            inputs, outputs = model.size.width, model.size.target
            model.output = km.nn.Linear(inputs, outputs, bias=False, structure=km.Butterfly())
        after += count(model.output)
    return {"parameters": count(model), "layer_parameters": after, "dense_layer_parameters": before}


def count(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())


def structured_parameters(model: Translator) -> list[nn.Parameter]:
    """The numbers of structured matrices, biases not among them."""
    found: list[nn.Parameter] = []
    for module in model.modules():
        if isinstance(module, km.StructuredMatrix):
            found += [p for p in module.parameters() if all(p is not q for q in found)]
    return found
