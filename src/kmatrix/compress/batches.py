"""Batches of any make: how a model is run on one, where its tensors go, and which tensors an output holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]
"""Runs a model on one batch and returns its output."""


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Run a model on a batch: a dict by name, a tuple or list by position, anything else as the one input.

    What the model's ``forward`` has no place for is left out, as labels that a loader gives beside the inputs.
    """
    if not isinstance(batch, (Mapping, tuple, list)):
        return model(batch)
    # DistributedDataParallel takes everything and hands it on; what it wraps says what it has a place for.
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    parameters = list(inspect.signature(inner.forward).parameters.values())
    kinds = {p.kind for p in parameters}
    if isinstance(batch, Mapping):
        names = {p.name for p in parameters}
        takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        return model(**{key: value for key, value in batch.items() if takes_all or key in names})
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return model(*batch)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return model(*batch[: sum(p.kind in positional for p in parameters)])


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in an output, however it wraps them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in tensors_of(value)]
    if isinstance(output, (tuple, list)):
        return [t for value in output for t in tensors_of(value)]
    if is_dataclass(output) and not isinstance(output, type):
        return [t for field in fields(output) for t in tensors_of(getattr(output, field.name))]
    return []


def device_of(model: nn.Module) -> torch.device | None:
    """The device of all parameters of a model; None if there are several, or none."""
    devices = {parameter.device for parameter in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def moved(batch: Any, device: torch.device | None) -> Any:
    """A batch with its tensors on a device, however it is made of dicts, lists and tuples."""
    if device is None or device.type == "meta":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict) and type(batch) is dict:
        return {key: moved(value, device) for key, value in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(moved(value, device) for value in batch)
    own = getattr(batch, "to", None)  # as the batches of tokenisers have it
    return own(device) if callable(own) and isinstance(batch, Mapping) else batch
