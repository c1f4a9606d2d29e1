"""What healing makes smaller: the loss of outputs against targets, and the distance from what a teacher says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kmatrix._errors import ArgumentError, complaint
from kmatrix.compress.batches import tensors_of

Loss = Callable[[Any, Any], Tensor]
"""The loss of an output for a batch: ``loss(output, batch)``."""


def default_loss(output: Any, batch: Any, where: str = "heal") -> tuple[str, Tensor]:
    """What it is, and cross-entropy for whole numbers, mean squares for others, against the last item of the batch.

    A model that gives a loss itself (a scalar, alone or among its outputs) is believed.

    Raises:
        ArgumentError: if the batch has no target.
    """
    outputs = tensors_of(output)
    own = [t for t in outputs if t.ndim == 0]
    if own:
        return "the model's own loss", own[0]
    target: Any = None
    if isinstance(batch, Mapping):
        target = next((batch[key] for key in ("labels", "targets", "target", "y") if key in batch), None)
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        target = batch[-1]
    if not isinstance(target, Tensor) or not outputs:
        reason, way_out = "neither a loss nor a teacher, and batches without a target", "pass one of them"
        raise ArgumentError(complaint(where, "loss", None, reason, way_out))
    said = _wide(outputs[0])
    if target.is_floating_point():
        return "mean squares", functional.mse_loss(said, target.to(said.dtype))
    return "cross-entropy", functional.cross_entropy(said.flatten(0, -2), target.flatten())


def divergence(output: Any, said: Any, temperature: float) -> Tensor:
    """``T^2 KL(softmax(said / T) || softmax(output / T))`` of the first outputs, a mean over their vectors."""
    ours, theirs = (
        next(t for t in tensors_of(o) if t.ndim > 0 and t.is_floating_point()) for o in (output, said)
    )
    ours, theirs = (torch.log_softmax(_wide(t) / temperature, -1).flatten(0, -2) for t in (ours, theirs))
    return temperature**2 * functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def _wide(tensor: Tensor) -> Tensor:
    """Of 32 bits at least: in 16, losses are as coarse as what healing gains."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
