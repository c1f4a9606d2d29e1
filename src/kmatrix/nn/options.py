"""Options of training that change the forward pass: caps on the size of factors, and guidance by a dense weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.nn.linear import Linear
from kmatrix.nn.surgery import FilterFn, swap_
from kmatrix.structures import ChainMatrix
from kmatrix.structures.chain import spectral_scales


class RMSCap(nn.Module):
    """A cap on the size of a factor: ``W -> gain * W / max(1, rms(W) / std)``.

    Args:
        std: the size at which the factor starts, and which it may not exceed.
        is_complex: whether the numbers are stored as real pairs.
        gain: whether to learn the factor ``gain``, which starts at 1.
    """

    gain: nn.Parameter | None

    def __init__(self, std: float, is_complex: bool, like: Tensor, gain: bool = True) -> None:
        super().__init__()
        self.std = std / math.sqrt(2) if is_complex else std  # each part has half the variance
        one = nn.Parameter(torch.ones((), dtype=like.dtype, device=like.device)) if gain else None
        self.register_parameter("gain", one)

    def forward(self, stored: Tensor) -> Tensor:
        """The capped factor."""
        rms = stored.square().mean().sqrt()
        capped = stored / (rms / self.std).clamp(min=1.0)
        return capped if self.gain is None else capped * self.gain


def rms_cap_(model: nn.Module, *, gain: bool = True) -> int:
    """Cap the root mean square of every factor of every chain at the size it starts with.

    Large models of products diverge where single factors grow; the cap acts on every forward pass, through
    ``torch.nn.utils.parametrize``. Products then take the ordinary way, a few microseconds slower, so remove the caps
    with ``remove_rms_caps_`` when training is over.

    Args:
        model: changed in place, before the optimiser is made.
        gain: whether to learn a number for each factor that scales what is capped; leave it out for queries and keys
            that are normalised.

    Returns:
        How many factors were capped.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(8, 8, structure=km.Monarch(2))
        >>> km.nn.rms_cap_(layer), [name for name, _ in layer.named_parameters() if "gain" in name]
        (2, ['matrix.factors.parametrizations.0.0.gain', 'matrix.factors.parametrizations.1.0.gain'])

    Reference: arXiv 2406.06248 and its code, the normalisation for transformers.
    """
    count = 0
    for matrix in model.modules():
        if isinstance(matrix, ChainMatrix):
            is_complex = matrix.dtype.is_complex
            for k, std in enumerate(spectral_scales(matrix.layout)):
                if not parametrize.is_parametrized(matrix.factors, str(k)):
                    cap = RMSCap(std, is_complex, matrix.factors[k], gain)
                    parametrize.register_parametrization(matrix.factors, str(k), cap)
                    count += 1
    return count


def remove_rms_caps_(model: nn.Module) -> int:
    """Take the caps off, leaving the capped numbers: the function of the model stays the same.

    Returns:
        From how many factors a cap was removed.
    """
    count = 0
    for matrix in model.modules():
        if isinstance(matrix, ChainMatrix) and parametrize.is_parametrized(matrix.factors):
            for name in list(matrix.factors.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(matrix.factors, name, leave_parametrized=True)
                count += 1
    return count


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
        own = self.layer(x)
        bias = None if self.layer.bias is None else self.layer.bias
        guided = functional.linear(x, self.guide, bias)
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
        self.done += 1
        for layer in self.layers.values():
            layer.alpha.fill_(self.alpha)
        return self.alpha

    def finish(self) -> None:
        """Take the guides away; the structured layers stand where they stood.

        Raises:
            ArgumentError: if the guides still take part, so that the model would become another one.
        """
        if self.alpha > 0:
            reason, way_out = f"the guides still have a share of {self.alpha:.2f}", "take all the steps first"
            raise ArgumentError(complaint("finish", "done", self.done, reason, way_out))
        swap_(self.model, {name: guided.layer for name, guided in self.layers.items()})


def self_guide_(model: nn.Module, steps: int, filter_fn: FilterFn | None = None) -> SelfGuidance:
    """Train structured layers with a dense guide beside each, whose share falls to zero.

    Products of factors have saddle points and loss spikes that dense weights do not have. The guide starts equal to
    the product, learns as a dense weight does, and hands over along a cosine: about a quarter more work for the time
    that it takes part, and nothing afterwards.

    Args:
        model: changed in place, before the optimiser is made: real ``km.nn.Linear`` layers get a guide.
        steps: optimiser steps over which the guides fade, about half of the training.
        filter_fn: which layers, from the module and its first qualified name; all if not given.

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
    guided: dict[nn.Module, tuple[str, SelfGuidedLinear]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and name and not module.matrix.dtype.is_complex:
            if filter_fn is None or filter_fn(module, name):
                guided[module] = (name, SelfGuidedLinear(module))
    if not guided:
        way_out = "pass a model that holds real km.nn.Linear layers"
        raise ArgumentError(
            complaint("self_guide_", "model", type(model).__name__, "no layer to guide", way_out)
        )
    layers = dict(guided.values())
    swap_(model, layers)
    return SelfGuidance(model, layers, steps)
