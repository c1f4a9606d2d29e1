"""The methods that are compared, and the network that each is the hidden layer of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import kmatrix as km

from ..common.toeplitz_like import ToeplitzLike
from .starts import bpbp, kaleidoscope, linear

CLASSES = 10


def _ldr_sd(size: int) -> km.Structure:
    """Operators ``A = D Z D^-1`` and ``B = E^-1 Z' E`` with learned diagonals D and E.

    Those are the learned sub-diagonal operators of LDR-SD up to two fixed products, so the matrices are ``D T E``
    with ``T`` Toeplitz-like; three products and two diagonals are the 8 n parameters of the others.
    """
    return km.Product((km.Diagonal(), ToeplitzLike(3), km.Diagonal()), (size, size))


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: as in the table.
        structure: of the hidden layer, for its size; None is a dense ``nn.Linear``.
        low: whether it is trained with ten times smaller learning rates: with the others it diverges.
        more: learning rates beyond the settings', whose largest was the best.
    """

    title: str
    structure: Callable[[int], km.Structure] | None
    low: bool = False
    more: tuple[float, ...] = ()

    def num_params(self, size: int) -> int:
        """Parameters of the hidden matrix; a complex one counts as two."""
        return size * size if self.structure is None else self.structure(size).num_params(size, size)

    def compression(self, size: int) -> float:
        """How many times fewer weights than a dense hidden layer, as the paper counts.

        It divides the dense hidden matrix by the hidden matrix and the softmax layer together, biases of the
        hidden layer left out.
        """
        return size * size / (self.num_params(size) + CLASSES * size + CLASSES)


METHODS: Mapping[str, Method] = {
    "dense": Method("Unstructured", None),
    "bpbp-complex": Method("BPBP complex, fixed P", lambda n: km.RealPart(km.FixedBPBP())),
    "bpbp-real": Method("BPBP real, fixed P", lambda n: km.FixedBPBP()),
    "k": Method("K, one BB*", lambda n: km.Kaleidoscope()),
    "ldr-sd": Method("LDR-SD", _ldr_sd, low=True),
    "toeplitz-like": Method("Toeplitz-like", lambda n: ToeplitzLike(4), low=True),
    "fastfood": Method("Fastfood", lambda n: km.Fastfood(), more=(0.5, 1.0)),
    "circulant": Method("Circulant", lambda n: km.Circulant(), low=True),
    "low-rank": Method("Low-rank", lambda n: km.LowRank(4), low=True),
}


class Net(nn.Module):
    """Images, one square hidden layer of their size with ReLU, and a dense softmax layer."""

    def __init__(self, method: str, size: int) -> None:
        super().__init__()
        self.hidden = _hidden(method, size)
        self.softmax = nn.Linear(size, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.softmax(torch.relu(self.hidden(images)))
        return scores


def _hidden(method: str, size: int) -> nn.Module:
    """The hidden layer at its start."""
    if method == "k":
        return linear(kaleidoscope(size))
    if method in ("bpbp-real", "bpbp-complex"):
        return linear(bpbp(size, is_complex=method == "bpbp-complex"))
    structure = METHODS[method].structure
    if structure is None:
        return nn.Linear(size, size)
    layer = km.nn.Linear(size, size, structure=structure(size))
    if method == "ldr-sd":
        # With diagonals of ones it begins as a Toeplitz-like matrix.
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if "factor" in name:
                    parameter.fill_(1.0)
    return layer
