"""Options of training that change the forward pass: caps on the size of factors, and guidance by a dense weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.nn.filters import Filter, as_function
from kmatrix.nn.linear import Linear
from kmatrix.nn.surgery import swap_
from kmatrix.structures import ChainMatrix, StructuredMatrix
from kmatrix.structures.base import to_pairs
from kmatrix.structures.chain import AbstractChainMatrix, spectral_scales


class CappedMatrix(AbstractChainMatrix):
    """A chain whose factors are capped in size: each is ``gain * W / max(1, rms(W) / std)``.

    Attributes:
        base: the chain that holds the numbers.
        gains: one learned number for each factor, which starts at 1; None without.
    """

    gains: nn.Parameter | None

    def __init__(self, base: ChainMatrix, gain: bool) -> None:
        StructuredMatrix.__init__(self, base.structure, base.shape)
        self.layout = base.layout
        self.base = base
        like = base.factors[0]
        ones = torch.ones(len(base.layout.factors), dtype=like.dtype, device=like.device)
        self.register_parameter("gains", nn.Parameter(ones) if gain else None)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        capped = []
        for k, (weight, std) in enumerate(zip(self.base.weights, spectral_scales(self.layout), strict=True)):
            # The root is taken of what is at least 1: at a factor of zeros it has no derivative.
            scale = (weight.abs() / std).square().mean().clamp(min=1.0).rsqrt()
            capped.append(weight * (scale if self.gains is None else scale * self.gains[k]))
        return tuple(capped)

    def permutation(self, k: int) -> Tensor:
        return self.base.permutation(k)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self.base.reset_parameters(generator)
        if self.gains is not None:
            nn.init.ones_(self.gains)

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device


def rms_cap_(model: nn.Module, *, gain: bool = True) -> int:
    """Cap the root mean square of every factor of every chain at the size it starts with.

    Each factor becomes ``gain * W / max(1, rms(W) / std)`` in every forward pass. Large models of products diverge
    where single factors grow; this keeps them from it. It costs a few operations for each factor, so take the caps
    off with ``remove_rms_caps_`` when training is over, before saving.

    Args:
        model: changed in place, before the optimiser is made.
        gain: whether to learn a number for each factor that scales what is capped; leave it out for queries and keys
            that are normalised.

    Returns:
        How many chains were capped.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(8, 8, structure=km.Monarch(2))
        >>> km.nn.rms_cap_(layer), [name for name, _ in layer.named_parameters()]
        (1, ['bias', 'matrix.gains', 'matrix.base.factors.0', 'matrix.base.factors.1'])

    Reference: arXiv 2406.06248 and its code, the normalisation for transformers.
    """

    def capped(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, ChainMatrix) or type(module)._matmul is not AbstractChainMatrix._matmul:
            return None
        return CappedMatrix(module, gain) if len(module.factors) else None

    return _exchange(model, capped)


def remove_rms_caps_(model: nn.Module) -> int:
    """Take the caps off, leaving the capped numbers: the function of the model stays the same.

    Returns:
        From how many chains the caps were taken.
    """

    def bare(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, CappedMatrix):
            return None
        with torch.no_grad():
            for stored, weight in zip(module.base.factors, module.weights, strict=True):
                stored.copy_(to_pairs(weight))
        return module.base

    return _exchange(model, bare)


def _exchange(model: nn.Module, new: Callable[[nn.Module], nn.Module | None]) -> int:
    """Put other modules in the place of those for which there are any, each once; how many."""
    known: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        if isinstance(parent, CappedMatrix):
            continue  # its base stays
        for key, child in list(parent._modules.items()):
            if child is not None and child not in known:
                made = new(child)
                if made is not None:
                    known[child] = made
            if child in known:
                setattr(parent, key, known[child])
    return len(known)


class SelfGuidedLinear(nn.Module):
    """A structured layer and a dense guide: ``y = alpha W x + (1 - alpha) A x + b``.

    Attributes:
        layer: the structured layer.
        guide: the dense weight, which starts as the product of the factors.
        alpha: the share of the guide, a buffer.
    """

    alpha: Tensor

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        self.layer = layer
        self.guide = nn.Parameter(layer.weight.detach().clone())
        # A buffer, so that a compiled model is not compiled again for each share.
        self.register_buffer("alpha", torch.ones((), device=self.guide.device))

    def forward(self, x: Tensor) -> Tensor:
        """The mixture of both products, and the bias."""
        own, guided = self.layer(x), functional.linear(x, self.guide, self.layer.bias)
        return torch.lerp(own, guided, self.alpha.to(own.dtype))


class SelfGuidance:
    """The schedule of a model under self-guided training; made by ``self_guide_``.

    Attributes:
        steps: optimiser steps over which the share of the guides falls from 1 to 0.
        done: steps so far.
    """

    def __init__(self, model: nn.Module, layers: dict[str, SelfGuidedLinear], steps: int) -> None:
        self.model, self.layers, self.steps, self.done = model, layers, steps, 0

    @property
    def alpha(self) -> float:
        """The share of the guides: ``(1 + cos(pi t / steps)) / 2``, and 0 from the last step on."""
        if self.done >= self.steps:
            return 0.0
        return 0.5 * (1 + math.cos(math.pi * self.done / self.steps))

    def step(self) -> float:
        """Go one optimiser step further; returns the share of the guides from now on."""
        self.load_state_dict({"done": self.done + 1})
        return self.alpha

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint has to keep to go on with, as schedulers of torch have it."""
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where ``state_dict`` was taken.

        Raises:
            ArgumentError: if the number of steps done is missing or negative.
        """
        if "done" not in state:
            reason, way_out = "the number of steps done is missing", "pass what state_dict() gave"
            raise ArgumentError(complaint("load_state_dict", "state", dict(state), reason, way_out))
        self.done = check_size("load_state_dict", "done", state["done"], minimum=0)
        for layer in self.layers.values():
            layer.alpha.fill_(self.alpha)

    def finish(self) -> None:
        """Take the guides away; the structured layers stand where they stood.

        Raises:
            ArgumentError: if the guides still take part, so that the model would become another one.
        """
        if self.alpha > 0:
            reason, way_out = f"the guides still have a share of {self.alpha:.2f}", "take all the steps first"
            raise ArgumentError(complaint("finish", "done", self.done, reason, way_out))
        swap_(self.model, {name: guided.layer for name, guided in self.layers.items()})


def self_guide_(model: nn.Module, steps: int, filter_fn: Filter | None = None) -> SelfGuidance:
    """Train structured layers with a dense guide beside each, whose share falls to zero.

    Products of factors have saddle points and loss spikes that dense weights do not have. The guide starts equal to
    the product, learns as a dense weight does, and hands over along a cosine: about a quarter more work for the time
    that it takes part, and nothing afterwards.

    Args:
        model: changed in place, before the optimiser is made: real ``km.nn.Linear`` layers get a guide.
        steps: optimiser steps over which the guides fade, about half of the training.
        filter_fn: which layers, as for ``km.replace_linear_``; all if not given.

    Returns:
        The schedule: call ``step()`` after every optimiser step, and ``finish()`` once all are done.

    Raises:
        ArgumentError: if there is no layer to guide, or the number of steps is not positive.

    Example:
        >>> import torch, kmatrix as km
        >>> model = torch.nn.Sequential(km.nn.Linear(8, 8, structure=km.LowRank(2)))
        >>> guidance = km.nn.self_guide_(model, steps=2)
        >>> guidance.step(), guidance.step(), guidance.finish()
        (0.5, 0.0, None)

    Reference: Wei, Moalla, Pascanu and Gulcehre, Building on efficient foundations: effectively training LLMs with
    structured feedforward layers (arXiv 2406.16450).
    """
    check_size("self_guide_", "steps", steps)
    meant = as_function("self_guide_", model, filter_fn)
    guided: dict[nn.Module, tuple[str, SelfGuidedLinear]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and name and not module.matrix.dtype.is_complex:
            if meant(module, name):
                guided[module] = (name, SelfGuidedLinear(module))
    if not guided:
        way_out = "pass a model that holds real km.nn.Linear layers"
        raise ArgumentError(
            complaint("self_guide_", "model", type(model).__name__, "no layer to guide", way_out)
        )
    layers = dict(guided.values())
    swap_(model, layers)
    return SelfGuidance(model, layers, steps)
