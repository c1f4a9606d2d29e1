"""Dense layers into layers that learn their boxes, and those into what they are in the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from kmatrix._errors import ArgumentError
from kmatrix.compress._processes import take_from_first_
from kmatrix.compress._progress import Step
from kmatrix.compress._training import copied
from kmatrix.compress.layers import layer_like, weight_of
from kmatrix.fitting import fit_boxes
from kmatrix.nn import Linear, Site, Skipped, dense_layer, survey, swap_
from kmatrix.nn.filters import Filter, as_function
from kmatrix.nn.hardening import gaudi_matrices
from kmatrix.structures import Boxes, Gaudi, GaudiMatrix, GBLRMatrix

Start = Literal["trained", "scratch", "spread"]
FIT_SECONDS = 30.0
"""After which the boxes of one trained weight begin with the best that has been found."""


@dataclass(frozen=True)
class LearnedLayer:
    """One layer after its structure was learned.

    Attributes:
        name: its first name in the model.
        shape: ``(m, n)``.
        boxes: where its boxes lie; None where they would cost as much as a dense layer, and it is one again.
        cost: multiplications with one vector.
    """

    name: str
    shape: tuple[int, int]
    boxes: Boxes | None
    cost: int

    @property
    def share(self) -> float:
        """The cost as a fraction of that of the dense layer."""
        return self.cost / (self.shape[0] * self.shape[1])


def replace_(
    model: nn.Module, filter_fn: Filter | None, start: Start, structure: Gaudi, seed: int, step: Step
) -> tuple[dict[str, nn.Module], list[Skipped]]:
    """Put layers that learn their boxes in the place of linear ones; the old ones by name, and what was skipped.

    Raises:
        ArgumentError: if there is no layer that learns its boxes in the end; the model is as it was then.
    """
    sites, skipped = survey(model, as_function("learn_structure", model, filter_fn))
    sites = [site for site in sites if site.kind == "linear"]
    generator = torch.Generator().manual_seed(seed)
    new: dict[str, nn.Module] = {}
    old: dict[str, nn.Module] = {}
    too_small: ArgumentError | None = None
    for k, site in enumerate(sites):
        step(f"boxes to begin with: {site.name}", k, len(sites))
        try:
            structure.check(*site.shape)
        except ArgumentError as error:
            too_small = error
            skipped.append(Skipped(site.names, str(error)))
            continue
        matrix = (
            _fitted(site, structure, generator) if start == "trained" else _drawn(site, structure, generator)
        )
        if start == "spread":
            matrix.spread_(generator)
        for stored in matrix.parameters():
            take_from_first_(stored.data)  # fits that were cut short differ between processes
        new[site.name], old[site.name] = layer_like(site.module, matrix), site.module
    if not new and too_small is not None and not gaudi_matrices("learn_structure", model, needed=False):
        raise too_small
    if not new:
        gaudi_matrices("learn_structure", model)  # has the words
    swap_(model, new)
    return old, skipped


class Kept:
    """The parts and numbers of a model, to put them back."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.numbers = model, copied(model)
        self.parts = {module: dict(module._modules) for module in model.modules()}

    def restore(self, old: dict[str, nn.Module]) -> None:
        """Put back the old layers of these names, whatever has become of them, all other parts, and the numbers."""
        swap_(self.model, old)
        for module, parts in self.parts.items():  # matrices that were there before, which were cropped
            module._modules.clear()
            module._modules.update(parts)
        self.model.load_state_dict(self.numbers)


def settled_(model: nn.Module, matrices: dict[str, GBLRMatrix]) -> tuple[LearnedLayer, ...]:
    """What hardened layers became; those that cost no less than dense ones become dense, which runs faster."""
    found = []
    for name, matrix in matrices.items():
        layer = model.get_submodule(name)
        (m, n), cost = matrix.shape, matrix.num_params
        if cost >= m * n and name and isinstance(layer, Linear):
            swap_(model, {name: dense_layer(layer)})
            found.append(LearnedLayer(name, (m, n), None, m * n))
        else:
            found.append(LearnedLayer(name, (m, n), matrix.boxes, cost))
    return tuple(found)


def _drawn(site: Site, structure: Gaudi, generator: torch.Generator) -> GaudiMatrix:
    weight = weight_of(site)
    matrix = structure.empty(*site.shape, dtype=weight.dtype, device=weight.device)
    matrix.reset_parameters(generator)
    return matrix


def _fitted(site: Site, structure: Gaudi, generator: torch.Generator) -> GaudiMatrix:
    """Boxes near a trained weight within the budget, their numbers continued beyond their edges.

    Boxes that begin with more and are cut while they learn lose more than they win: it took an error of 0.15 to 0.68.
    """
    weight = weight_of(site)
    m, n = site.shape
    until = time.monotonic() + FIT_SECONDS
    cost = structure.hardened.num_params(m, n)
    found = fit_boxes(weight, structure.count(m, n), cost, late=lambda: time.monotonic() > until)
    left, right = (side.to(weight) for side in found.extended(weight))
    return GaudiMatrix.from_boxes((m, n), found.boxes, left, right, structure, generator=generator)
